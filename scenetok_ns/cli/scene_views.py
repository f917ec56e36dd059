"""What `scenetok splat` and `scenetok export-dataset` share: the options of the views, and their rendering."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress

from scenetok_ns.data.camera_paths import PATH_NAMES

if TYPE_CHECKING:
    from scenetok_ns.rendering.views import RenderedScene

FEWEST_VIEWS, USUAL_VIEWS = 16, 120


@dataclass(frozen=True)
class ViewOptions:
    """Which views of which scene."""

    path: str = "interpolate"
    """Where the views are: interpolate (through the photographs' cameras), orbit, dolly, spiral, or a file with poses
    in the capture's coordinates: a camera path of the viewer, or a transforms.json."""
    run: Path | None = None
    """Run folder with the model (or its config.yml), or a preset whose weights come with the package; default: the
    preset that the tokens are of, else scenetok-tiny."""
    tokens: Path | None = None
    """A token file."""
    data: Path | None = None
    """In the place of a token file: a capture or a data set with the scene; default: the run's."""
    scene: str | None = None
    """Of a data set: name of the scene; default: the run's, or the first."""
    views: int | None = None
    """Number of views on a path by name; default: 120."""
    num_context: int | None = None
    """Number of photographs that the scene is encoded from."""
    pose_scale: float | None = None
    """Of a capture: what its positions are multiplied by to be in units of the training data; default: so that its
    cameras spread as those of the training scenes."""
    seed: int | None = None
    """Of the noise that renders start from."""
    steps: int | None = None
    """Denoising steps of a render. Few make pictures that agree with each other, but are softer."""


def rendered_scene(output: Path, options: ViewOptions, console: Console) -> RenderedScene:
    """Load a run and render the views. Raises DataError, ValueError or OSError, in one line."""
    from scenetok_ns.cli.run_options import (
        check_tokens_alone,
        set_num_context,
        set_pose_scale,
        set_sampling,
        show_data,
        show_scene,
        show_tokens,
    )

    if options.tokens is not None:
        names = ("data", "scene", "num_context", "pose_scale")
        check_tokens_alone({f"--{name.replace('_', '-')}": getattr(options, name) for name in names})
    if options.path not in PATH_NAMES and not Path(options.path).suffix:
        raise ValueError(f"unknown path {options.path!r}; give {', '.join(PATH_NAMES)} or a JSON file with poses")
    if options.path not in PATH_NAMES and options.views is not None:
        raise ValueError("--views is for paths by name: a file has its own number of poses")
    views = USUAL_VIEWS if options.views is None else options.views
    if views < FEWEST_VIEWS:
        raise ValueError(f"--views must be at least {FEWEST_VIEWS}, got {views}")
    from scenetok_ns.cli.run_options import preset_of
    from scenetok_ns.cli.token_files import load_run
    from scenetok_ns.plugin.run_folder import derive_run
    from scenetok_ns.rendering.views import render_scene

    run = options.run or preset_of(() if options.tokens is None else (options.tokens,))
    config, checkpoints = derive_run(run, output)
    set_sampling(config, options.seed, options.steps, None)
    if options.data is not None:
        show_data(config, options.data)
    set_num_context(config, options.num_context)
    set_pose_scale(config, options.pose_scale)
    if options.scene is not None:
        show_scene(config, options.scene)
    if options.tokens is not None:
        show_tokens(config, options.tokens)
    renderer = load_run(config, checkpoints, console).model.renderer
    with Progress(*Progress.get_default_columns(), console=console) as progress:
        task = progress.add_task("rendering views", total=None)
        return render_scene(
            renderer,
            options.path,
            views,
            lambda done, total: progress.update(task, completed=done, total=total),
        )
