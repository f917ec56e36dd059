"""SceneTok and SceneGen: compressed scene tokens, rendered by a rectified-flow transformer.

>>> from scenetok_ns import SceneTok, camera_path, open_scenes
>>> model = SceneTok.from_pretrained("scenetok-tiny")
>>> views = open_scenes("my-capture", model.preset).context()
>>> tokens = model.encode(views.images, views.cameras, pose_scale=views.pose_scale)
>>> frames = model.render(tokens, camera_path("orbit", tokens, 48))  # [48, 3, 128, 128] in [0, 1]

This file imports nothing at first: Nerfstudio loads our entry points while it is still being imported, and
`scenetok --help` must not wait for torch. Each name is imported when it is first used. Before torch is imported, its
idle threads are set to sleep (`tools/threads.py`).
"""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scenetok_ns.bridge.posed_scenes import (
        PosedScenes,
        cameras_from_colmap,
        cameras_from_nerfstudio,
        open_scenes,
        picture_files_of,
    )
    from scenetok_ns.data.errors import DataError
    from scenetok_ns.data.posed_views import (
        PosedViews,
        as_pictures,
        cameras_from_transforms,
        photograph_views,
        pose_scale_of,
        square_views,
    )
    from scenetok_ns.models.cameras import CameraBatch
    from scenetok_ns.models.errors import CheckpointError
    from scenetok_ns.models.flow.windows import RenderedFrames
    from scenetok_ns.models.presets import Preset, load_preset, preset_names
    from scenetok_ns.models.scenegen import generate
    from scenetok_ns.models.scenetok import SceneTok
    from scenetok_ns.models.token_fitting import fit_tokens
    from scenetok_ns.models.tokens import SceneTokens
    from scenetok_ns.rendering.camera_path import camera_path
    from scenetok_ns.rendering.token_renderer import RenderSettings, TokenRenderer

__version__ = "0.2.0"

__all__ = [
    "CameraBatch",
    "CheckpointError",
    "DataError",
    "PosedScenes",
    "PosedViews",
    "Preset",
    "RenderSettings",
    "RenderedFrames",
    "SceneTok",
    "SceneTokens",
    "TokenRenderer",
    "__version__",
    "as_pictures",
    "camera_path",
    "cameras_from_colmap",
    "cameras_from_nerfstudio",
    "cameras_from_transforms",
    "fit_tokens",
    "generate",
    "load_preset",
    "open_scenes",
    "photograph_views",
    "picture_files_of",
    "pose_scale_of",
    "preset_names",
    "square_views",
]

_HOMES = {
    "CameraBatch": "models.cameras",
    "CheckpointError": "models.errors",
    "DataError": "data.errors",
    "PosedScenes": "bridge.posed_scenes",
    "PosedViews": "data.posed_views",
    "Preset": "models.presets",
    "RenderSettings": "rendering.token_renderer",
    "RenderedFrames": "models.flow.windows",
    "SceneTok": "models.scenetok",
    "SceneTokens": "models.tokens",
    "TokenRenderer": "rendering.token_renderer",
    "as_pictures": "data.posed_views",
    "camera_path": "rendering.camera_path",
    "cameras_from_colmap": "bridge.posed_scenes",
    "cameras_from_nerfstudio": "bridge.posed_scenes",
    "cameras_from_transforms": "data.posed_views",
    "fit_tokens": "models.token_fitting",
    "generate": "models.scenegen",
    "load_preset": "models.presets",
    "open_scenes": "bridge.posed_scenes",
    "photograph_views": "data.posed_views",
    "picture_files_of": "bridge.posed_scenes",
    "pose_scale_of": "data.posed_views",
    "preset_names": "models.presets",
    "square_views": "data.posed_views",
}
"""Public name -> module that defines it."""


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _HOMES:
        from scenetok_ns.tools.suggestions import did_you_mean

        meant = "" if name.startswith("_") else did_you_mean(name, __all__)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{meant}")
    if "torch" not in sys.modules:
        from scenetok_ns.tools.threads import let_idle_threads_sleep

        let_idle_threads_sleep()
    with warnings.catch_warnings():
        # Nerfstudio's import triggers it; users can change nothing about it.
        warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", FutureWarning)
        found = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
