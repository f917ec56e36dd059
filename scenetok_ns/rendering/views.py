"""Render views around a scene from its tokens, and read the photographs that they can be compared with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from scenetok_ns.data.camera_path_files import read_path
from scenetok_ns.data.path_names import PATH_NAMES
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.depth_geometry import DepthMaps
from scenetok_ns.models.flow.sampling import OnStep
from scenetok_ns.models.rendered_depth import scene_unit
from scenetok_ns.models.tokens import SceneTokens
from scenetok_ns.rendering.shots import path_around

if TYPE_CHECKING:
    from scenetok_ns.bridge.evaluation_scenes import EvaluationScene
    from scenetok_ns.rendering.scene_renderer import SceneRenderer

MOST_HELD_OUT = 48
"""Maximum number of held-out views to render, spread evenly over those of the scene."""
DepthWanted = Literal["never", "with head", "always"]
HELD_OUT_EVERY = 8
"""Without photographs, every N-th view of the path is held out, where N is this number."""


@dataclass(frozen=True)
class RenderedViews:
    """Square frames, and their cameras in the world of the capture."""

    frames: Float[Tensor, "n 3 side side"]
    """Pixels in [0, 1]."""
    cameras: CameraBatch
    """One scene: a batch of one."""

    def select(self, index: Tensor) -> RenderedViews:
        return RenderedViews(self.frames[index], self.cameras.select(index))

    def resized(self, side: int) -> RenderedViews:
        """Return the same views with pictures interpolated to side x side pixels."""
        if side == self.frames.shape[-1]:
            return self
        frames = F.interpolate(self.frames, size=(side, side), mode="bicubic", antialias=True)
        return RenderedViews(frames.clamp(0, 1), self.cameras)


@dataclass(frozen=True)
class RenderedScene:
    """Result of `render_scene`, on the model's device."""

    scene: str
    path: RenderedViews
    """Views along the path, in order."""
    held_out: RenderedViews
    """Held-out views, for evaluation only."""
    photographs: Float[Tensor, "m 3 side side"] | None
    """Photographs of the held-out views, which were not encoded; None: there are none."""
    maps: DepthMaps | None = None
    """Depth of the views along the path; None: it was not requested, or there is no depth head."""
    unit: float = 1.0
    """Size of the scene in units of the capture: the spread of its cameras."""
    depth_by: str = "nothing"
    """Source of the depth, in words."""


@torch.no_grad()
def render_scene(
    renderer: SceneRenderer,
    path: str,
    count: int,
    on_step: OnStep | None = None,
    depth: DepthWanted = "never",
) -> RenderedScene:
    """Render views along a path through the active scene, in joint windows, and its held-out views.

    Held-out views are the target views that are not context views. If there are none, every eighth view of the path is
    held out instead, and the path has fewer views.

    Args:
        renderer: Renderer whose active scene is rendered.
        path: Name of a path ("interpolate", "orbit", ...), or a file with poses (`read_path`).
        count: Number of views of a named path.
        on_step: Called with the progress of the path's rendering.
        depth: Find the depth of the path's views: never, only with a depth head, or always.

    Raises:
        DataError: The path cannot be read, or the tokens hold no cameras.
    """
    scenes = renderer.scenes
    shown = scenes.scene(scenes.active)
    tokens = renderer.tokens_of(shown.number)
    side = renderer.preset.data.image_size
    if path in PATH_NAMES:
        cameras = path_around(path, tokens, count, (side, side)).cameras  # type: ignore[arg-type]
    else:
        cameras = read_path(Path(path), (side, side), side).cameras
    has_head = renderer.networks.depth_head() is not None
    maps = None
    if depth == "always" or (depth == "with head" and has_head):
        here = cameras.to(renderer.device, torch.float32)
        frames, maps = renderer.render_with_depth(tokens, here, on_step)
        views = RenderedViews(frames.clamp(0, 1), here)
    else:
        views = _rendered(renderer, tokens, cameras, on_step)
    found = {
        "unit": scene_unit(tokens),
        "depth_by": "nothing" if maps is None else "the depth head" if has_head else "comparing views (no depth head)",
    }
    targets = held_out_photographs(shown) if scenes.stored_tokens(shown.number) is None else []
    if not targets:
        number = torch.arange(len(views.frames), device=views.frames.device)
        held = number % HELD_OUT_EVERY == HELD_OUT_EVERY // 2
        if maps is not None:
            maps = DepthMaps(*(values[~held] for values in maps))
        kept, rest = views.select(number[~held]), views.select(number[held])
        return RenderedScene(shown.scene.key, kept, rest, None, maps, **found)  # type: ignore[arg-type]
    photographs = shown.scene.load_views(targets, (side, side))
    held_out = _rendered(renderer, tokens, CameraBatch(photographs.c2w[None], photographs.intrinsics[None]))
    pictures = photographs.images.to(renderer.device).float() / 255
    return RenderedScene(shown.scene.key, views, held_out, pictures, maps, **found)  # type: ignore[arg-type]


def held_out_photographs(shown: EvaluationScene) -> list[int]:
    """Choose target views that are not context views: at most `MOST_HELD_OUT`, spread evenly."""
    context = set(shown.context.tolist())
    targets = [index for index in shown.target.tolist() if index not in context]
    if len(targets) > MOST_HELD_OUT:
        spread = torch.linspace(0, len(targets) - 1, MOST_HELD_OUT).round().long().tolist()
        targets = [targets[i] for i in spread]
    return targets


def _rendered(
    renderer: SceneRenderer, tokens: SceneTokens, cameras: CameraBatch, on_step: OnStep | None = None
) -> RenderedViews:
    here = cameras.to(renderer.device, torch.float32)
    return RenderedViews(renderer.render(tokens, here, on_step).clamp(0, 1), here)
