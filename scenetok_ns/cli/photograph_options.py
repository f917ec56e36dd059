"""Options of a photograph that becomes a scene, shared by `scenetok new-run` and `scenetok generate`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from scenetok_ns.data.path_names import Trajectory
from scenetok_ns.tools.errors import UsageError

if TYPE_CHECKING:
    from scenetok_ns.data.sources.photograph import PhotographSource


@dataclass(frozen=True)
class PhotographOptions:
    """Options of a photograph, and of the path from which its scene is seen."""

    image: Path | None = None
    """A photograph to generate the scene from; its central square is used."""
    path: Path | None = None
    """With --image: camera path (camera_path.json of the viewer) along which you want to see the scene."""
    trajectory: Trajectory | None = None
    """With --image, without --path: motion of the camera: forward (1 unit, the default), sideways (1 unit) or turn
    (along a quarter of a circle of radius 1)."""
    photo_at: Literal["first", "origin"] | None = None
    """With --image: camera of the photograph: first (the first camera of the path, the default) or origin (at the
    world's origin, level, looking along +y, as with --trajectory)."""
    fov: float | None = None
    """With --image: field of view along the shorter side in degrees; default: from EXIF, else 58."""
    pose_scale: float | None = None
    """With --image or a capture: factor from the units of the path or capture to training units. Default: 1 for the
    path of a photograph; for captures, match the camera spread of the training data."""

    def check(self) -> None:
        """Raise UsageError for options that need another option, or exclude each other."""
        if self.image is None and (surplus := given(self)):
            raise UsageError(f"--{next(iter(surplus)).replace('_', '-')} only works with --image")
        if self.path is not None and self.trajectory is not None:
            raise UsageError("--path and --trajectory both say where the cameras are: leave one out")


def given(options: Any) -> dict[str, Any]:
    """The fields of a dataclass of options that are not None, by name."""
    values = {field.name: getattr(options, field.name) for field in fields(options)}
    return {name: value for name, value in values.items() if value is not None}


def print_photograph(image: Path, source: PhotographSource, console: Console) -> None:
    """Print the size, focal length and path of a photograph."""
    photograph = source.photograph
    height, width = photograph.image.shape[1:]
    for note in (f"{width} x {height} pixels", *photograph.notes, source.focal_note, source.path_note()):
        console.print(f"{image.name}: {note}", highlight=False, soft_wrap=True)
