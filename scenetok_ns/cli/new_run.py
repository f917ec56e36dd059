"""`scenetok new-run`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from scenetok_ns.cli.photograph_options import PhotographOptions, print_photograph
from scenetok_ns.cli.run_options import GenerationOptions, RunChanges
from scenetok_ns.cli.runs import write_run
from scenetok_ns.models.presets import Encoding, Solver, load_preset
from scenetok_ns.tools.printing import command, plain_console
from scenetok_ns.tools.run_files import CONFIG

CAMERA_PATH = "camera_path.json"
"""File in the run folder of a photograph that was given without --path. It holds the trajectory, for ns-render."""


def new_run(
    run: Annotated[Path, tyro.conf.Positional],
    output: Path,
    scene: str | None = None,
    data: Path | None = None,
    index: Path | None = None,
    tokens: Path | None = None,
    photograph: Annotated[PhotographOptions, tyro.conf.arg(name="")] = PhotographOptions(),  # noqa: B008  frozen
    num_context: int | None = None,
    num_condition: int | None = None,
    seed: int | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    solver: Solver | None = None,
    wide: Literal["border", "fill"] | None = None,
    stream: bool = False,
    student: Path | None = None,
    low_vram: bool = False,
    engine: Literal["auto", "exact", "off"] | None = None,
    encoding: Encoding | None = None,
    protocol: Literal["default", "published", "notebook"] | None = None,
    generation: Annotated[GenerationOptions, tyro.conf.arg(name="")] = GenerationOptions(),  # noqa: B008  frozen
) -> None:
    """Create a run folder that displays another scene or uses other settings; ns-viewer, ns-render and ns-eval open it
    like any other run.

    The new folder shares the run's checkpoint by a hard link, so it takes almost no space.

    Args:
        run: Run folder of ns-train, `scenetok import` or `scenetok new-run` (or its config.yml), or the name of a
            preset whose trained weights come with the package (scenetok-tiny).
        output: Run folder to create; it must not exist.
        scene: Name of the evaluation scene to display.
        data: Another data set, or a capture: of scenetok capture or ns-process-data, or a COLMAP model.
        index: Evaluation index with the scenes and views that ns-eval uses; scenetok eval-index creates one.
        tokens: Token file to display, instead of a scene that is encoded from photographs.
        photograph: See the options.
        num_context: Number of context views to encode; for scenegen runs, number of anchor poses.
        num_condition: Number of photographs from which a scenegen run generates the scenes of a data set.
        seed: Random seed for rendering.
        steps: Number of denoising steps of a render.
        guidance: Classifier-free guidance scale of a render, 1 is off. More needs a preset with a null token; no
            released model has one.
        solver: Solver of a render: euler, or multistep, which needs fewer steps for the same error.
        wide: How pictures that are not square are rendered: border (a square view with a border beside it) or fill (cut
            from a larger square view, whose outer parts the model guesses); default: the run's.
        stream: Render with the model's few-step student: faster, without depth. scenetok-tiny needs no other weights.
        student: Weight file of a student (`ns-train scenetok-stream` writes it). Default: the run's.
        low_vram: Keep idle networks in CPU memory. Halves GPU memory; starts more slowly.
        engine: Renderer on a GPU: auto (the engine, autoencoders in bfloat16), exact (the engine, autoencoders in
            the published code's precision) or off (the plain loop); default: the run's.
        encoding: How photographs become tokens: mean (nothing is sampled), latents (VA-VAE's latents are sampled) or
            published (scene tokens are sampled, too, as in the published evaluation); default: the run's.
        protocol: How scenes are evaluated: published (as by the published command) or notebook (as by the published
            notebooks); see docs/reproduce.md. Default: the run's.
        generation: See the options.
    """
    is_photograph = photograph.image is not None
    changes = RunChanges(
        data=data,
        index=index,
        scene=scene,
        tokens=() if tokens is None else (tokens,),
        photograph=photograph if is_photograph else replace(photograph, pose_scale=None),
        num_context=num_context,
        num_condition=num_condition,
        pose_scale=None if is_photograph else photograph.pose_scale,
        seed=seed,
        steps=steps,
        guidance=guidance,
        solver=solver,
        wide=wide,
        engine=engine,
        encoding=encoding,
        protocol=protocol,
        stream=stream,
        student_weights=student,
        low_vram=low_vram,
        generation=generation,
    )
    # Nerfstudio takes seconds to import; bad options are reported before that.
    from scenetok_ns.cli.change_run import check_data, print_capture_note
    from scenetok_ns.data.camera_path_files import write_camera_path
    from scenetok_ns.plugin.run_folder import derive_run

    console = plain_console(stderr=True)
    derived = derive_run(run, output)
    source = changes.apply(derived.config)
    check_data(derived.config)
    print_capture_note(derived.config, console)
    if source is None or photograph.image is None:
        write_run(derived, output, console)
        return
    print_photograph(photograph.image, source, console)

    def write_trajectory(folder: Path) -> None:
        if photograph.path is None:
            side = load_preset(derived.config.pipeline.model.preset).data.image_size
            write_camera_path(folder / CAMERA_PATH, source.anchors_path, source.fov, side)

    write_run(derived, output, console, write_trajectory)
    path = photograph.path or output / CAMERA_PATH
    words = "--load-config", output / CONFIG, "--camera-path-filename", path, "--output-path", "scene.mp4"
    console.print(f"  {command('ns-render', 'camera-path', *words)}", soft_wrap=True)
