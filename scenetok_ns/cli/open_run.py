"""`scenetok open`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from scenetok_ns.cli.run_options import (
    GenerationOptions,
    PhotographOptions,
    check_data,
    check_generator,
    check_one_scene,
    check_tokens_alone,
    condition_count,
    set_generation,
    set_num_context,
    set_pose_scale,
    set_sampling,
    show_data,
    show_index,
    show_photograph,
    show_scene,
    show_tokens,
)
from scenetok_ns.models.presets import Solver, load_preset
from scenetok_ns.tools.printing import command, plain_console

CAMERA_PATH = "camera_path.json"
"""In the folder of a photograph that came without a path: its trajectory, for ns-render."""

if TYPE_CHECKING:
    pass


def open_run(
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
    low_vram: bool = False,
    engine: Literal["auto", "exact", "off"] | None = None,
    generation: Annotated[GenerationOptions, tyro.conf.arg(name="")] = GenerationOptions(),  # noqa: B008  frozen
) -> None:
    """Make a run folder that shows something else of a run; ns-viewer, ns-render and ns-eval take it unchanged.

    The checkpoint is shared with the run by a hard link, so the new folder takes no space worth mentioning.

    Args:
        run: Run folder of ns-train, `scenetok import` or `scenetok open` (or its config.yml), or the name of a preset
            whose trained weights come with the package (scenetok-tiny).
        output: The run folder to make; it must not exist.
        scene: Name of the evaluation scene to show.
        data: Another data set, or a capture: a folder of ns-process-data, a COLMAP model with its pictures.
        index: Evaluation index (scenetok eval-index makes them): which scenes ns-eval takes, and which of their views.
        tokens: File of scene tokens to show, in place of a scene that is encoded from photographs.
        photograph: See the options.
        num_context: Number of photographs that scenes are encoded from; of a scenegen run, number of anchor poses.
        num_condition: Of a scenegen run: number of photographs that scenes of a data set are generated from.
        seed: Of the noise that renders start from.
        steps: Denoising steps of a render.
        guidance: Classifier-free guidance scale of a render, 1 is off. More needs a preset with a null token; no
            released model has one.
        solver: Of a render: euler, or multistep, which needs fewer steps for the same error.
        wide: Pictures that are no squares: border (the whole square view, with its border) or fill (a part of a larger
            square, whose ends are the model's guess); default: the run's.
        low_vram: Keep in main memory what has nothing to do: about half the memory on the GPU, a slower start.
        engine: What renders on a GPU: auto (the engine, autoencoders in bfloat16), exact (the engine, autoencoders in
            the published code's precision) or off (the plain loop); default: the run's.
        generation: See the options.
    """
    check_one_scene(
        tokens, photograph, {"--scene": scene, "--data": data, "--index": index, "--num-context": num_context}
    )
    if tokens is not None:
        check_tokens_alone({"--pose-scale": photograph.pose_scale})
    # Nerfstudio takes seconds to import, and bad options should be told before.
    from scenetok_ns.data.camera_path_files import write_camera_path
    from scenetok_ns.plugin.run_folder import derive_run, fill_checkpoints
    from scenetok_ns.tools.run_files import write_run_folder

    config, checkpoints = derive_run(run, output)
    console = plain_console(stderr=True)
    set_sampling(config, seed, steps, guidance)
    config.pipeline.model.solver = solver or config.pipeline.model.solver
    config.pipeline.model.wide = wide or config.pipeline.model.wide
    config.pipeline.model.low_vram = config.pipeline.model.low_vram or low_vram
    config.pipeline.model.engine = engine or config.pipeline.model.engine
    set_generation(config, generation)
    if num_condition is not None:
        check_generator(config, "--num-condition")
        config.pipeline.datamanager.num_condition = condition_count(config, num_condition)
    if data is not None:
        show_data(config, data)
    set_num_context(config, num_context)
    if index is not None:
        show_index(config, index)
    if photograph.image is None and photograph.pose_scale is not None:
        set_pose_scale(config, photograph.pose_scale)
        photograph = replace(photograph, pose_scale=None)
    if scene is not None:
        show_scene(config, scene)
    if tokens is not None:
        show_tokens(config, tokens)
    source = show_photograph(config, photograph, console)
    check_data(config)

    def fill(folder: Path) -> None:
        fill_checkpoints(config, checkpoints, folder)
        if source is not None and photograph.path is None:
            side = load_preset(config.pipeline.model.preset).data.image_size
            write_camera_path(folder.parent / CAMERA_PATH, source.anchors_path, source.fov, side)

    write_run_folder(output, fill, lambda: config)
    run = output / "config.yml"
    console.print(f"{output} is ready:\n  {command('ns-viewer', '--load-config', run)}", soft_wrap=True)
    if source is not None:
        path = photograph.path or output / CAMERA_PATH
        words = "--load-config", run, "--camera-path-filename", path, "--output-path", "scene.mp4"
        console.print(f"  {command('ns-render', 'camera-path', *words)}", soft_wrap=True)
