"""Options that `scenetok open` and `scenetok generate` share: a photograph with a path, and how it becomes a scene."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from scenetok_ns.data.anchors import Trajectory
from scenetok_ns.data.scenes import DataError
from scenetok_ns.models.presets import Solver, load_preset
from scenetok_ns.models.scenegen import SMALLEST_REACH

if TYPE_CHECKING:
    from scenetok_ns.data.photograph_scene import PhotographSource
    from scenetok_ns.run_folder import RunFolderConfig


@dataclass(frozen=True)
class PhotographOptions:
    """A photograph, and where the scene made from it is meant to be seen."""

    image: Path | None = None
    """A photograph to generate the scene from; its middle square is used."""
    path: Path | None = None
    """With --image: camera path (camera_path.json of the viewer) along which the scene is meant to be seen."""
    trajectory: Trajectory | None = None
    """With --image, without --path: 1 unit forward (the default) or sideways, or a turn along a quarter of a circle of
    radius 1."""
    photo_at: Literal["first", "origin"] | None = None
    """With --image: where it was taken: at the first camera of the path (the default), or at the world's origin,
    level, looking along +y, where a photograph with a trajectory is."""
    fov: float | None = None
    """With --image: field of view along its shorter side in degrees; default: from EXIF, else 58."""
    pose_scale: float | None = None
    """With --image, or of a capture: positions are multiplied by this to be in units of the training data. Default: 1
    for the path of a photograph; captures are scaled so that their cameras spread as those of the training scenes."""


@dataclass(frozen=True)
class GenerationOptions:
    """How a scenegen run makes scenes."""

    scene_seed: int | None = None
    """Of a scenegen run: another seed gives another of the scenes that fit the photographs."""
    scene_steps: int | None = None
    """Of a scenegen run: steps in which a scene is generated."""
    scene_guidance: float | None = None
    """Of a scenegen run: classifier-free guidance scale of the generation, 1 is off."""
    scene_solver: Solver | None = None
    """Of a scenegen run: euler, or multistep, which needs fewer steps for the same error."""


def show_photograph(config: RunFolderConfig, options: PhotographOptions, console: Console) -> PhotographSource | None:
    """Choose a photograph in the place of a data set, and say what is made of it; None if no photograph is given.

    Raises ValueError for options that need one, DataError for files that cannot be used or a model that cannot.
    """
    from scenetok_ns.dataparsers.photograph_dataparser import PhotographDataParserConfig

    given: dict[str, Any] = {f.name: getattr(options, f.name) for f in fields(options)}
    given = {name: value for name, value in given.items() if value is not None}
    if options.image is None:
        if given:
            raise ValueError(f"--{next(iter(given)).replace('_', '-')} belongs to --image; give a photograph")
        return None
    if options.path is not None and options.trajectory is not None:
        raise ValueError("--path and --trajectory are two ways to say the same: leave one out")
    preset = load_preset(config.pipeline.model.preset)
    if preset.scene_generator is None:
        raise DataError(
            f"preset {preset.name} encodes scenes from many posed photographs; a lone one needs a run of a scenegen "
            "method"
        )
    image = given.pop("image").absolute()
    if options.path is not None:
        given["path"] = options.path.absolute()
    datamanager = config.pipeline.datamanager
    datamanager.dataparser = PhotographDataParserConfig(data=image, **given)
    config.data = datamanager.data = image
    source = datamanager.dataparser.setup().scene_source("test")
    source.check_size(preset.data.image_size)
    if source.reach < SMALLEST_REACH:
        raise DataError(
            f"the path of {image.name} stays where the photograph was taken, so nothing tells how large the scene is: "
            "give one that moves (turning on the spot is not enough), or a larger --pose-scale"
        )
    height, width = source.photograph.image.shape[1:]
    for note in (f"{width} x {height} pixels", *source.photograph.notes, source.focal_note, source.path_note()):
        console.print(f"{image.name}: {note}", highlight=False, soft_wrap=True)
    return source


def check_generator(config: RunFolderConfig, option: str) -> None:
    """Raise ValueError unless the run's model generates scenes."""
    preset = load_preset(config.pipeline.model.preset)
    if preset.scene_generator is None:
        raise ValueError(f"{option} is for runs that generate scenes; preset {preset.name} encodes them")


def scene_guidance(value: float, option: str) -> float:
    if not value >= 1:
        raise ValueError(f"{option} must be at least 1 (1 is off), got {value:g}")
    return value


def condition_count(config: RunFolderConfig, count: int) -> int:
    """Raise ValueError unless the run's generator takes `count` photographs."""
    preset = load_preset(config.pipeline.model.preset)
    most = preset.data.views.max_condition_views
    if not 1 <= count <= most:
        raise ValueError(f"--num-condition {count}: preset {preset.name} takes 1 to {most} photographs")
    return count
