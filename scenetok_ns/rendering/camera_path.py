"""Create the cameras of a path through a scene, by the path's name or from a file."""

from __future__ import annotations

from numbers import Integral
from pathlib import Path

from scenetok_ns.data.camera_path_files import read_path
from scenetok_ns.data.path_names import PATH_NAMES, unknown_path
from scenetok_ns.data.scenes import DataError
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.inputs import check_kind
from scenetok_ns.models.presets import load_preset
from scenetok_ns.models.tokens import SceneTokens
from scenetok_ns.rendering.shots import path_around


def camera_path(path: str | Path, tokens: SceneTokens, frames: int = 96) -> CameraBatch:
    """Create the cameras of a path through a scene.

    Args:
        path: Name of a path (orbit, dolly, spiral, interpolate, lemniscate or zoom, see `camera_paths.preset_path`), or
            a file with poses in the capture's coordinates: a camera path of Nerfstudio's viewer, or a transforms.json.
        tokens: Tokens of the scene, with the cameras of its photographs.
        frames: Number of frames of a named path. Files have their own number.

    Returns:
        CameraBatch of shape [1, frames], for `SceneTok.render`.

    Raises:
        DataError: The path is unknown, the file cannot be read, or the tokens hold no cameras; one line.
        ValueError: The tokens or the number of frames have another type.

    >>> frames = model.render(tokens, camera_path("orbit", tokens, 48))
    """
    check_kind(tokens, SceneTokens, "camera_path", "tokens", "the order is path, tokens, frames")
    if not isinstance(frames, Integral):
        raise ValueError(f"camera_path: expected a whole number of frames, got {frames!r}")
    side = load_preset(tokens.preset).data.image_size
    if str(path) in PATH_NAMES:
        if frames < 1:
            raise DataError(f"camera_path: expected at least 1 frame, got {frames}")
        return path_around(str(path), tokens, frames, (side, side)).cameras  # type: ignore[arg-type]
    if not Path(path).suffix:
        raise DataError(unknown_path(str(path)))
    return read_path(Path(path), None, side).cameras
