"""`scenetok encode`."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress
from rich.text import Text

from scenetok_ns.cli.run_options import EMBEDDED, RunChanges, positive
from scenetok_ns.cli.runs import load_run
from scenetok_ns.cli.scene_jobs import Split, chosen_shard, job_label, print_report, scene_progress
from scenetok_ns.data.errors import DataError
from scenetok_ns.tools.errors import UsageError
from scenetok_ns.tools.printing import command, plain_console

if TYPE_CHECKING:
    from scenetok_ns.data.scenes import Views
    from scenetok_ns.models.tokens import SceneTokens
    from scenetok_ns.plugin.pipeline import SceneTokPipeline
    from scenetok_ns.rendering.scene_renderer import SceneRenderer

DType = Literal["float32", "bfloat16", "float16"]
MOST_COMPARED = 12
"""Maximum number of views that are not encoded, for the PSNR after fitting."""
NUM_ENCODINGS = 8
"""Number of encodings of each scene of a split, if --encodings is not given."""


def encode(
    output: Path,
    run: Path = Path(EMBEDDED),
    data: Path | None = None,
    scene: str | None = None,
    num_context: int | None = None,
    pose_scale: float | None = None,
    fit_steps: int = 0,
    run_folder: bool = True,
    split: Split | None = None,
    encodings: int | None = None,
    seed: int | None = None,
    shard: str | None = None,
    dtype: DType | None = None,
    device: str | None = None,
) -> None:
    """Encode a scene to a token file, which renders without the photographs, and create a run folder that displays it.
    With --split, encode all scenes, so that scene generators train faster than from photographs.

    Run the same command again to continue an interrupted split. Several processes may share the work: under SLURM job
    arrays, srun or torchrun, each process takes its part automatically; otherwise give --shard.

    Args:
        output: Token file to write (.safetensors); with --split, a folder.
        run: Run folder with the model (or its config.yml), or a preset whose weights come with the package.
        data: A capture (of scenetok capture or ns-process-data, or a COLMAP model with its pictures), or a data set
            with the scene; default: the run's.
        scene: Name of the evaluation scene; default: the run's, or the first.
        num_context: Number of context views to encode; default: the run's.
        pose_scale: Factor from capture units to training units. Default: match the camera spread of the training data.
        fit_steps: Number of steps in which the tokens are then fitted to the encoded photographs. Each step takes a
            fraction of a second on a CPU; try 60.
        run_folder: Also create a run folder, named like the output without its ending, for ns-viewer and ns-render.
        split: Encode all scenes of this split, for ns-train scenegen --pipeline.datamanager.tokens OUTPUT.
        encodings: With --split: number of encodings of each scene, with different views; default 8.
        seed: With --split: random seed for the choice of views; default 0.
        shard: With --split: part of the work, e.g. 0/8. Detected automatically under SLURM and torchrun.
        dtype: Precision of the numbers in the file; bfloat16 halves the file without visible loss. Default: float32;
            with --split, float16.
        device: Device, such as cuda:1 or cpu. Default: the GPU, or the CPU without one.
    """
    from scenetok_ns.cli.token_files import check_token_file, write_tokens

    if split is None:
        check_token_file(output)
        if not encodings is seed is shard is None:
            raise UsageError("--encodings, --seed and --shard only work with --split")
    elif scene is not None or num_context is not None or fit_steps or not run_folder:
        raise UsageError(
            "--split encodes all scenes as in training: leave out --scene, --num-context, --fit-steps and "
            "--no-run-folder"
        )
    if fit_steps:
        positive("--fit-steps", fit_steps)
    encodings = positive("--encodings", NUM_ENCODINGS if encodings is None else encodings)
    changes = RunChanges(data=data, scene=scene, num_context=num_context, pose_scale=pose_scale)
    from scenetok_ns.plugin.run_folder import derive_run

    derived = derive_run(run, output)
    changes.apply(derived.config)
    derived.config.pipeline.datamanager.fits = fit_steps > 0
    console = plain_console(stderr=True)
    pipeline = load_run(derived, console, device)
    if split is None:
        tokens = _encoded_scene(pipeline, console, fit_steps)
        write_tokens(tokens, output, dtype or "float32", run, console, run_folder=run_folder)
        if getattr(pipeline.model, "adapters", None) is not None:
            rendering = command("scenetok", "render", "--run", run, "--tokens", output, "--output", "RENDERS")
            note = (
                "The adapters that these tokens were refined with are in the run, not in the file. Render with the run:"
            )
            console.print(f"{note}\n  {rendering}", soft_wrap=True)
    else:
        _encode_split(pipeline, output, split, encodings, seed or 0, shard, dtype or "float16", console)


def _encoded_scene(pipeline: SceneTokPipeline, console: Console, fit_steps: int) -> SceneTokens:
    from scenetok_ns.cli.token_files import with_sources
    from scenetok_ns.models.cameras import CameraBatch
    from scenetok_ns.models.token_fitting import fit_tokens

    renderer, scenes = pipeline.model.renderer, pipeline.model.renderer.scenes
    shown = scenes.scene(scenes.active)
    if scenes.stored_tokens(shown.number) is not None:
        raise DataError(f"{scenes.data} is a token file already; give --run the run that it was opened from")
    # Use all context views, even if the model would generate the scene from fewer.
    context = scenes.context_indices(shown.number)
    with console.status(Text(f"encoding {len(context)} photographs of {shown.scene.key}")):
        if shown.anchors is None:
            tokens = renderer.tokens_of(shown.number)  # a refined run returns its refined tokens
        else:
            views = shown.scene.load_views(context, renderer.scenetok.image_size)
            tokens = renderer.encode_views(views, shown.scene.key, scenes.pose_scale(shown.number))
    if fit_steps:
        views = shown.scene.load_views(context, renderer.scenetok.image_size)
        cameras = CameraBatch(views.c2w[None], views.intrinsics[None])
        with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console) as progress:
            task = progress.add_task(f"fitting to {len(context)} photographs", total=fit_steps)
            fit = partial(fit_tokens, renderer.networks, tokens, views.images, cameras, steps=fit_steps)
            fitted = fit(on_step=lambda done, total: progress.update(task, completed=done))
        encoded = set(context.tolist())
        held_out = [index for index in shown.target.tolist() if index not in encoded][:MOST_COMPARED]
        with console.status("comparing with the photographs"):
            line = f"PSNR of the {len(context)} encoded photographs: {_gain(renderer, tokens, fitted, views)}"
            if held_out:
                views = shown.scene.load_views(held_out, renderer.scenetok.image_size)
                others = f"{len(held_out)} other photograph{'s' * (len(held_out) > 1)}"
                line += f"; of {others}: {_gain(renderer, tokens, fitted, views)}"
        console.print(line, soft_wrap=True, highlight=False)
        tokens = fitted
    return with_sources(tokens, shown.scene, context)


def _gain(renderer: SceneRenderer, before: SceneTokens, after: SceneTokens, views: Views) -> str:
    """Describe the PSNR of views, rendered from two scenes."""
    from scenetok_ns.models.cameras import CameraBatch
    from scenetok_ns.models.metrics import psnr

    cameras, truth = CameraBatch(views.c2w[None], views.intrinsics[None]), views.images.float() / 255
    first, last = (
        float(psnr(pred=renderer.render(tokens, cameras).cpu(), target=truth).mean()) for tokens in (before, after)
    )
    return f"{first:.1f} -> {last:.1f} dB"


def _encode_split(
    pipeline: SceneTokPipeline,
    output: Path,
    split: Split,
    encodings: int,
    seed: int,
    shard: str | None,
    dtype: DType,
    console: Console,
) -> None:
    from scenetok_ns.data.precomputed.token_jobs import TokenJob, compute_tokens
    from scenetok_ns.data.precomputed.token_sets import TokenSettings
    from scenetok_ns.models.released_checkpoints import module_sha256

    model = pipeline.model.scenetok
    preset = model.preset
    settings = TokenSettings(
        preset=preset.name,
        compressor_sha256=module_sha256(model.compressor),
        image_size=preset.data.image_size,
        views=asdict(preset.data.views),
        random_flip=preset.data.random_flip,
        encodings=encodings,
        seed=seed,
        dtype=dtype,
    )
    job = TokenJob(
        root=output,
        split=split,
        source=pipeline.datamanager.training_source(split),
        settings=settings,
        shard=chosen_shard(shard),
    )
    with scene_progress(console) as progress:
        task = progress.add_task(job_label(f"{split} tokens", job.shard), total=len(job.scenes()))
        report = compute_tokens(job, model, lambda key: progress.advance(task))
    print_report(report, output, console)
