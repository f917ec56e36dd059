"""Options and rendering of views around a scene, shared by the commands that need such views."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress

from scenetok_ns.cli.run_options import RunChanges, run_for
from scenetok_ns.cli.runs import load_run
from scenetok_ns.data.path_names import PATH_NAMES, unknown_path
from scenetok_ns.tools.errors import UsageError

if TYPE_CHECKING:
    from scenetok_ns.rendering.views import DepthWanted, RenderedScene

FEWEST_VIEWS, USUAL_VIEWS, MOST_VIEWS = 16, 120, 10_000
"""Number of views of a scene: minimum, default and maximum."""


@dataclass(frozen=True)
class ViewOptions:
    """Options of the scene and its views."""

    path: str = "interpolate"
    """Cameras of the views: interpolate (through the photographs' cameras; in a generated scene, along its path),
    orbit, dolly, spiral, or a file with poses in the capture's coordinates: a camera path of the viewer, or a
    transforms.json."""
    run: Path | None = None
    """Run folder with the model (or its config.yml), or a preset whose weights come with the package; default: the
    preset that made the tokens, else scenetok-tiny."""
    tokens: Path | None = None
    """A token file."""
    data: Path | None = None
    """Instead of a token file: a capture or a data set with the scene; default: the run's."""
    scene: str | None = None
    """With a data set: name of the scene; default: the run's, or the first."""
    frames: int | None = None
    """Number of views on a named path. Default: 120."""
    num_context: int | None = None
    """Number of context views to encode."""
    pose_scale: float | None = None
    """Factor from capture units to training units. Default: match the camera spread of the training data."""
    seed: int | None = None
    """Random seed for rendering."""
    steps: int | None = None
    """Number of denoising steps of a render. With few steps, pictures agree better with each other, but are softer."""
    device: str | None = None
    """Device, such as cuda:1 or cpu. Default: the GPU, or the CPU without one."""


def check_path(path: str, preset: str) -> None:
    """Check a path that is given as a file. Raises a one-line error unless its poses can be read and rendered."""
    from scenetok_ns.data.camera_path_files import read_path
    from scenetok_ns.models.presets import load_preset

    if not Path(path).suffix and not Path(path).exists():
        raise UsageError(unknown_path(path))
    read_path(Path(path), None, load_preset(preset).data.image_size)


def rendered_scene(output: Path, options: ViewOptions, console: Console, depth: DepthWanted = "never") -> RenderedScene:
    """Load a run and render the views. Raises DataError, ValueError or OSError, in one line."""
    changes = RunChanges(
        data=options.data,
        scene=options.scene,
        tokens=() if options.tokens is None else (options.tokens,),
        num_context=options.num_context,
        pose_scale=options.pose_scale,
        seed=options.seed,
        steps=options.steps,
    )
    if options.path not in PATH_NAMES and options.frames is not None:
        raise UsageError("--frames only works with named paths: a file has its own number of poses")
    views = USUAL_VIEWS if options.frames is None else options.frames
    if not FEWEST_VIEWS <= views <= MOST_VIEWS:
        raise UsageError(f"--frames must be from {FEWEST_VIEWS} to {MOST_VIEWS}, got {views}")
    from scenetok_ns.plugin.run_folder import derive_run
    from scenetok_ns.rendering.views import render_scene

    derived = derive_run(options.run or run_for(changes.tokens), output)
    changes.apply(derived.config)
    if options.path not in PATH_NAMES:
        check_path(options.path, derived.config.pipeline.model.preset)  # before the model is loaded
    renderer = load_run(derived, console, options.device).model.renderer
    with Progress(*Progress.get_default_columns(), console=console) as progress:
        task = progress.add_task("rendering views", total=None)
        return render_scene(
            renderer,
            options.path,
            views,
            lambda done, total: progress.update(task, completed=done, total=total),
            depth,
        )
