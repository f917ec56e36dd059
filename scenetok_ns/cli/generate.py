"""`scenetok generate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from scenetok_ns.cli.photograph_options import PhotographOptions, print_photograph
from scenetok_ns.cli.run_options import EMBEDDED_GENERATOR, GenerationOptions, RunChanges, guidance_scale, positive
from scenetok_ns.cli.runs import load_run
from scenetok_ns.data.errors import DataError
from scenetok_ns.models.presets import Solver
from scenetok_ns.tools.printing import description_column, plain_console

if TYPE_CHECKING:
    from scenetok_ns.data.scenes import Views
    from scenetok_ns.models.tokens import SceneTokens
    from scenetok_ns.plugin.run_folder import DerivedRun
    from scenetok_ns.rendering.token_renderer import TokenRenderer


def generate(
    output: Path,
    photograph: Annotated[PhotographOptions, tyro.conf.arg(name="")] = PhotographOptions(),  # noqa: B008  frozen
    run: Path = Path(EMBEDDED_GENERATOR),
    data: Path | None = None,
    scene: str | None = None,
    num_condition: int | None = None,
    seed: int = 0,
    steps: int | None = None,
    guidance: float | None = None,
    solver: Solver | None = None,
    fit_steps: int | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    run_folder: bool = True,
    device: str | None = None,
) -> None:
    """Generate a scene from a photograph and a path (--image), or from one to a few views of a data set's scene, and
    write its tokens to a file, which all other commands can render.

    The same seed gives the same scene on every device, up to rounding.

    Args:
        output: Token file to write (.safetensors).
        photograph: See the options.
        run: Run folder of a scenegen method (or its config.yml), or a preset whose weights come with the package.
        data: Without --image: data set with the scene; default: the run's.
        scene: Without --image: name of the evaluation scene; default: the run's, or the first.
        num_condition: Without --image: number of photographs to generate from; default: the run's.
        seed: Random seed. Each seed gives another scene that fits the photographs.
        steps: Number of denoising steps of the generation; default: the run's.
        guidance: Classifier-free guidance scale, 1 is off; default: the run's.
        solver: euler, or multistep, which needs fewer steps for the same error; default: the run's.
        fit_steps: Number of steps in which the finished tokens are fitted to the photographs, so that a render from a
            photograph's camera shows the photograph; 0 is off; default: the run's.
        dtype: Precision of the numbers in the file; bfloat16 halves the file without visible loss.
        run_folder: Also create a run folder, named like the output without its ending, for ns-viewer and ns-render.
        device: Device, such as cuda:1 or cpu. Default: the GPU, or the CPU without one.
    """
    from scenetok_ns.cli.token_files import check_token_file, write_tokens

    check_token_file(output)
    if steps is not None:
        positive("--steps", steps)
    if guidance is not None:
        guidance_scale("--guidance", guidance)
    if fit_steps:
        positive("--fit-steps", fit_steps)
    changes = RunChanges(
        data=data,
        scene=scene,
        photograph=photograph,
        num_condition=num_condition,
        generation=GenerationOptions(seed, steps, guidance, solver, fit_steps),
    )
    from scenetok_ns.cli.change_run import check_generator, print_capture_note
    from scenetok_ns.plugin.run_folder import derive_run

    console = plain_console(stderr=True)
    derived = derive_run(run, output)
    check_generator(derived.config, "scenetok generate")
    source = changes.apply(derived.config)
    if source is not None and photograph.image is not None:
        print_photograph(photograph.image, source, console)
        print_capture_note(derived.config, console)  # for --data, reading the capture prints it
    tokens, likeness = _generated(derived, console, device)
    write_tokens(tokens, output, dtype, run, console, run_folder=run_folder)
    console.print(likeness, soft_wrap=True)


def _generated(run: DerivedRun, console: Console, device: str | None) -> tuple[SceneTokens, str]:
    """Generate the tokens, and describe how well they show the photographs."""
    from scenetok_ns.cli.token_files import with_sources

    renderer = load_run(run, console, device).model.renderer
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
    conditions = scenes.conditions(shown.number)
    assert conditions is not None  # the run generates its scenes
    with console.status("comparing with the photographs"):
        likeness = _likeness(renderer, tokens, conditions.views)
    return with_sources(tokens, shown.scene, shown.context), likeness


def _likeness(renderer: TokenRenderer, tokens: SceneTokens, photographs: Views) -> str:
    """Render the views of the photographs, and describe their PSNR in one line."""
    from scenetok_ns.models.cameras import CameraBatch
    from scenetok_ns.models.metrics import psnr

    frames = renderer.render(tokens, CameraBatch(photographs.c2w[None], photographs.intrinsics[None]))
    count = len(photographs.images)
    mean = float(psnr(pred=frames.cpu(), target=photographs.images.float() / 255).mean())
    shown, cameras = ("photograph", "its camera") if count == 1 else (f"{count} photographs", "their cameras")
    return f"PSNR of the {shown}, rendered from {cameras}: {mean:.1f} dB; more --fit-steps raise it"
