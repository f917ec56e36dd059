"""`scenetok generate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from scenetok_ns.cli.run_options import (
    PhotographOptions,
    check_generator,
    condition_count,
    scene_guidance,
    show_photograph,
)
from scenetok_ns.cli.token_files import check_token_file, load_run, with_sources, write_tokens
from scenetok_ns.data.scenes import DataError
from scenetok_ns.models.presets import Solver
from scenetok_ns.models.tokens import SceneTokens
from scenetok_ns.tools.printing import description_column, plain_console

if TYPE_CHECKING:
    from scenetok_ns.plugin.run_folder import RunFolderConfig

EMBEDDED = "scenegen-tiny"
"""Preset whose model is used where no run is given."""


def generate(
    output: Path,
    photograph: Annotated[PhotographOptions, tyro.conf.arg(name="")] = PhotographOptions(),  # noqa: B008  frozen
    run: Path = Path(EMBEDDED),
    data: Path | None = None,
    scene: str | None = None,
    num_condition: int | None = None,
    seed: int = 0,
    steps: int | None = None,
    guidance: float | None = None,
    solver: Solver | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    run_folder: bool = True,
) -> None:
    """Generate a scene from a photograph and a path (--image), or from one to a few views of a data set's scene, and
    write its tokens to a file, which everything else can render.

    The same seed gives the same scene on every device, but for rounding.

    Args:
        output: The token file to write (.safetensors).
        photograph: See the options.
        run: Run folder of a scenegen method (or its config.yml), or a preset whose weights come with the package.
        data: Without --image: data set with the scene; default: the run's.
        scene: Without --image: name of the evaluation scene; default: the run's, or the first.
        num_condition: Without --image: number of photographs to generate from; default: the run's.
        seed: Another seed gives another of the scenes that fit.
        steps: Steps of the generation; default: the run's.
        guidance: Classifier-free guidance scale, 1 is off; default: the run's.
        solver: euler, or multistep, which needs fewer steps for the same error; default: the run's.
        dtype: Of the numbers in the file; bfloat16 halves it at no visible loss.
        run_folder: Also make a run folder of the output's name without its ending, for ns-viewer and ns-render.
    """
    check_token_file(output)
    if photograph.image is not None and (data is not None or scene is not None or num_condition is not None):
        raise ValueError("--image is a scene of its own: leave out --data, --scene and --num-condition")
    from scenetok_ns.cli.run_options import positive, show_data, show_scene
    from scenetok_ns.plugin.run_folder import derive_run

    console = plain_console(stderr=True)
    config, checkpoints = derive_run(run, output)
    check_generator(config, "scenetok generate")
    show_photograph(config, photograph, console)
    if data is not None:
        show_data(config, data)
    if scene is not None:
        show_scene(config, scene)
    if num_condition is not None:
        config.pipeline.datamanager.num_condition = condition_count(config, num_condition)
    model = config.pipeline.model
    model.scene_seed = seed
    model.scene_steps = model.scene_steps if steps is None else positive("--steps", steps)
    model.scene_guidance = model.scene_guidance if guidance is None else scene_guidance(guidance, "--guidance")
    model.scene_solver = solver or model.scene_solver
    tokens = _generated(config, checkpoints, console)
    write_tokens(tokens, output, dtype, run, console, run_folder=run_folder)


def _generated(config: RunFolderConfig, checkpoints: Path | None, console: Console) -> SceneTokens:
    renderer = load_run(config, checkpoints, console).model.renderer
    scenes = renderer.scenes
    shown = scenes.scene(scenes.active)
    if scenes.stored_tokens(shown.number) is not None:
        raise DataError(f"{scenes.data} is a token file already; give --image, or --data with photographs")
    columns = description_column(), *Progress.get_default_columns()[1:]
    with Progress(*columns, MofNCompleteColumn(), console=console) as progress:
        task = progress.add_task(f"generating {shown.scene.key}", total=None)
        tokens = renderer.tokens_of(
            shown.number, lambda done, total: progress.update(task, completed=done, total=total)
        )
    return with_sources(tokens, shown.scene, shown.context)
