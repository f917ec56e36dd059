"""`scenetok encode`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.text import Text

from scenetok_ns.cli.token_files import check_token_file, load_run, with_sources, write_tokens
from scenetok_ns.data.scenes import DataError
from scenetok_ns.models.tokens import SceneTokens
from scenetok_ns.tools.printing import command, plain_console

if TYPE_CHECKING:
    from scenetok_ns.plugin.pipeline import SceneTokPipeline

Split = Literal["train", "test"]
DType = Literal["float32", "bfloat16", "float16"]
EMBEDDED = "scenetok-tiny"
"""Preset whose model is used where no run is given."""
NUM_ENCODINGS = 8


def encode(
    output: Path,
    run: Path = Path(EMBEDDED),
    data: Path | None = None,
    scene: str | None = None,
    num_context: int | None = None,
    pose_scale: float | None = None,
    run_folder: bool = True,
    split: Split | None = None,
    encodings: int | None = None,
    seed: int | None = None,
    shard: str | None = None,
    dtype: DType | None = None,
) -> None:
    """Write the tokens of a scene to a file, from which it can be shown without its photographs, with a run folder that
    shows it; or, with --split, those of all scenes, from which scene generators train faster than from photographs.

    A split that was interrupted is continued by running the same command again. Several processes may share the work:
    under SLURM job arrays, srun or torchrun each takes its part by itself, else give --shard.

    Args:
        output: The token file to write (.safetensors); with --split a folder.
        run: Run folder with the model (or its config.yml), or a preset whose weights come with the package.
        data: A capture (a folder of ns-process-data, or a COLMAP model with its pictures), or a data set with the
            scene; default: the run's.
        scene: Name of the evaluation scene; default: the run's, or the first.
        num_context: Number of photographs to encode; default: the run's.
        pose_scale: Of a capture: what its positions are multiplied by to be in units of the training data; default:
            so that its cameras spread as those of the training scenes.
        run_folder: Also make a run folder of the output's name without its ending, for ns-viewer and ns-render.
        split: Encode all scenes of this split for training, ns-train scenegen --pipeline.datamanager.tokens OUTPUT.
        encodings: With --split: encodings of each scene, with different views; default 8.
        seed: With --split: of the choice of views; default 0.
        shard: With --split: which part of the work, i/n with i from 0; default: as SLURM's or torchrun's variables say,
            else all.
        dtype: Of the numbers in the file; bfloat16 halves it at no visible loss. Default: float32, with --split
            float16.
    """
    if split is None:
        check_token_file(output)
        if not encodings is seed is shard is None:
            raise ValueError("--encodings, --seed and --shard are for the scenes of a --split: leave them out")
    elif scene is not None or num_context is not None or not run_folder:
        raise ValueError(
            "a --split is encoded whole, as in training: leave out --scene, --num-context and --no-run-folder"
        )
    from scenetok_ns.cli.run_options import positive, set_num_context, set_pose_scale, show_data, show_scene
    from scenetok_ns.plugin.run_folder import derive_run

    config, checkpoints = derive_run(run, output)
    encodings = positive("--encodings", NUM_ENCODINGS if encodings is None else encodings)
    if data is not None:
        show_data(config, data)
    if scene is not None:
        show_scene(config, scene)
    set_num_context(config, num_context)
    set_pose_scale(config, pose_scale)
    console = plain_console(stderr=True)
    pipeline = load_run(config, checkpoints, console)
    if split is None:
        tokens = _encoded_scene(pipeline, console)
        write_tokens(tokens, output, dtype or "float32", run, console, run_folder=run_folder)
        if getattr(pipeline.model, "adapters", None) is not None:
            rendering = command("scenetok", "render", "--run", run, "--tokens", output, "--output", "RENDERS")
            note = (
                "The adapters that these tokens were refined with are in the run, not in the file: render them with it"
            )
            console.print(f"{note}\n  {rendering}", soft_wrap=True)
    else:
        _encode_split(pipeline, output, split, encodings, seed or 0, shard, dtype or "float16", console)


def _encoded_scene(pipeline: SceneTokPipeline, console: Console) -> SceneTokens:
    renderer, scenes = pipeline.model.renderer, pipeline.model.renderer.scenes
    shown = scenes.scene(scenes.active)
    if scenes.stored_tokens(shown.number) is not None:
        raise DataError(f"{scenes.data} is a token file already; give --run the run that it was opened from")
    # All context views, also of a model that would generate the scene from fewer.
    context = scenes.context_indices(shown.number)
    with console.status(Text(f"encoding {len(context)} photographs of {shown.scene.key}")):
        if shown.anchors is None:
            tokens = renderer.tokens_of(shown.number)  # of a refined run, those
        else:
            views = shown.scene.load_views(context, renderer.scenetok.image_size)
            tokens = renderer.encode_views(views, shown.scene.key, scenes.pose_scale(shown.number))
        return with_sources(tokens, shown.scene, context)


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
    import os

    from scenetok_ns.cli.latents import scene_progress, tell_report
    from scenetok_ns.data.precomputed.scene_jobs import Shard
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
        shard=Shard.parse(shard) if shard is not None else Shard.from_environment(os.environ),
    )
    with scene_progress(console) as progress:
        label = f"{split} tokens" + (f", shard {job.shard.index}/{job.shard.count}" * (job.shard.count > 1))
        task = progress.add_task(label, total=len(job.scenes()))
        report = compute_tokens(job, model, lambda key: progress.advance(task))
    tell_report(report, output, console)
