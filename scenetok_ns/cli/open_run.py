"""`scenetok open`."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from scenetok_ns.cli.generation_options import (
    GenerationOptions,
    PhotographOptions,
    check_generator,
    condition_count,
    scene_guidance,
    show_photograph,
)
from scenetok_ns.data.evaluation_index import EvaluationIndex
from scenetok_ns.data.scenes import DataError
from scenetok_ns.data.token_scene import TokenSource
from scenetok_ns.models.presets import Solver, load_preset
from scenetok_ns.printing import command, plain_console

logger = logging.getLogger(__name__)

CAMERA_PATH = "camera_path.json"
"""In the folder of a photograph that came without a path: its trajectory, for ns-render."""

if TYPE_CHECKING:
    from scenetok_ns.run_folder import RunFolderConfig


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
    from scenetok_ns.camera_path_file import write_camera_path
    from scenetok_ns.run_files import write_run_folder
    from scenetok_ns.run_folder import derive_run, fill_checkpoints

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
            write_camera_path(folder.parent / CAMERA_PATH, source.path, source.fov, side)

    write_run_folder(output, fill, lambda: config)
    run = output / "config.yml"
    console.print(f"{output} is ready:\n  {command('ns-viewer', '--load-config', run)}", soft_wrap=True)
    if source is not None:
        path = photograph.path or output / CAMERA_PATH
        words = "--load-config", run, "--camera-path-filename", path, "--output-path", "scene.mp4"
        console.print(f"  {command('ns-render', 'camera-path', *words)}", soft_wrap=True)


def check_data(config: RunFolderConfig) -> None:
    """Raise FileNotFoundError if there is nothing to show: the tools have no option that would say what."""
    datamanager = config.pipeline.datamanager
    data = datamanager.data or datamanager.dataparser.data
    if not data.exists():
        raise FileNotFoundError(f"there is no data at {data} to show: give --data, --tokens, or a generator's --image")


def check_one_scene(tokens: Path | None, photograph: PhotographOptions, others: dict[str, object]) -> None:
    """Raise ValueError if more than one thing to show is given."""
    only = "--tokens" if tokens is not None else "--image" if photograph.image is not None else None
    if tokens is not None:
        others = {**others, "--image": photograph.image}
    if only is not None and any(value is not None for value in others.values()):
        *first, last = others
        raise ValueError(f"{only} shows that file alone: leave out {', '.join(first)} and {last}")


def check_tokens_alone(others: dict[str, object]) -> None:
    """Raise ValueError for options of photographs (by name, with their values) beside a token file."""
    given = [name for name, value in others.items() if value not in (None, (), False)]
    if given:
        raise ValueError(f"--tokens are scenes without photographs: leave out {', '.join(given)}")


def set_generation(config: RunFolderConfig, options: GenerationOptions) -> None:
    """Options of the generation of scenes; None leaves the run's. Raises ValueError for values that cannot be."""
    given = {name: value for name, value in vars(options).items() if value is not None}
    if not given:
        return
    check_generator(config, f"--{next(iter(given)).replace('_', '-')}")
    if "scene_steps" in given:
        positive("--scene-steps", given["scene_steps"])
    if "scene_guidance" in given:
        scene_guidance(given["scene_guidance"], "--scene-guidance")
    for name, value in given.items():
        setattr(config.pipeline.model, name, value)


def set_sampling(config: RunFolderConfig, seed: int | None, steps: int | None, guidance: float | None) -> None:
    """Options of a render; None leaves the run's. Raises ValueError for values that cannot be."""
    model = config.pipeline.model
    if seed is not None:
        model.seed = seed
    if steps is not None:
        model.steps = positive("--steps", steps)
    if guidance is not None:
        if guidance < 1:
            raise ValueError(f"--guidance must be at least 1 (off), got {guidance}")
        if guidance > 1 and not load_preset(model.preset).denoiser.null_token:
            raise ValueError(f"--guidance {guidance}: preset {model.preset} without null token takes 1 (off) only")
        model.guidance = guidance


def positive(option: str, value: int) -> int:
    if value < 1:
        raise ValueError(f"{option} must be at least 1, got {value}")
    return value


def set_num_context(config: RunFolderConfig, count: int | None) -> None:
    """Choose how many photographs scenes are encoded from; None: as the run says.

    Raises ValueError for a count that cannot be, and for runs that encode none.
    """
    if count is None:
        return
    check_encodes(config, "--num-context")
    config.pipeline.datamanager.num_context = positive("--num-context", count)


def check_encodes(config: RunFolderConfig, option: str) -> None:
    """Raise ValueError for an option of encoding where a run has the tokens already."""
    from scenetok_ns.dataparsers.tokens_dataparser import TokensDataParserConfig
    from scenetok_ns.refinement import RefinePipelineConfig

    if isinstance(config.pipeline, RefinePipelineConfig):
        raise ValueError(f"{option} would change nothing: this run has refined tokens; see ns-train scenetok-refine")
    if isinstance(config.pipeline.datamanager.dataparser, TokensDataParserConfig):
        raise ValueError(f"{option} would change nothing: this run shows a token file")


def show_data(config: RunFolderConfig, data: Path) -> None:
    """Choose another data set or capture; raises DataError if it is none.

    The run's dataparser reads it if it can, else the one that fits what is there. The run's scene and evaluation index
    are kept where the new data set has their scenes.
    """
    from scenetok_ns.capture_kinds import find_dataparser
    from scenetok_ns.dataparsers.photograph_dataparser import PhotographDataParserConfig
    from scenetok_ns.dataparsers.scene_dataparser import SceneDataParserConfig
    from scenetok_ns.dataparsers.tokens_dataparser import TokensDataParserConfig
    from scenetok_ns.refinement import RefinePipelineConfig

    if not data.exists():
        raise FileNotFoundError(f"no data at {data}")
    datamanager = config.pipeline.datamanager
    dataparser: Any = datamanager.dataparser
    if isinstance(dataparser, (TokensDataParserConfig, PhotographDataParserConfig)):
        raise DataError("this run shows a single file: give --data with the run that it was opened from")
    if isinstance(config.pipeline, RefinePipelineConfig):
        raise DataError(
            "this run is the tokens of one capture: leave out --data, or refine other data (scenetok-refine)"
        )
    data = data.absolute()
    config.data = datamanager.data = dataparser.data = data
    if not (isinstance(dataparser, SceneDataParserConfig) and _reads(dataparser)):
        found: Any = find_dataparser(data)
        if type(found) is not type(dataparser):
            dataparser = datamanager.dataparser = found
    if not isinstance(dataparser, SceneDataParserConfig):
        return
    source = dataparser.setup().scene_source("test")
    if dataparser.scene is not None and dataparser.scene not in source.keys:
        logger.warning("%s has no scene %s, which the run showed: the first is shown", data, dataparser.scene)
        dataparser.scene = None
    if dataparser.eval_index is not None:
        try:
            EvaluationIndex.load(dataparser.eval_index).keys_in(source)
        except DataError as error:
            logger.warning("the run's evaluation index is left out: %s", error)
            dataparser.eval_index = None


def set_pose_scale(config: RunFolderConfig, scale: float | None) -> None:
    """Choose what a capture's positions are multiplied by, to get to the training data's; None: as the run says."""
    if scale is None:
        return
    from scenetok_ns.dataparsers.photograph_dataparser import PhotographDataParserConfig
    from scenetok_ns.dataparsers.scene_dataparser import SceneDataParserConfig

    check_encodes(config, "--pose-scale")
    datamanager = config.pipeline.datamanager
    if isinstance(datamanager.dataparser, (SceneDataParserConfig, PhotographDataParserConfig)):
        raise ValueError("--pose-scale is for captures (--data) and photographs (--image), whose units are their own")
    if not 0 < scale < float("inf"):
        raise ValueError(f"--pose-scale must be above 0, got {scale:g}")
    datamanager.pose_scale = scale


def _reads(dataparser: Any) -> bool:
    """Whether a dataparser of many scenes finds some in its data folder."""
    try:
        return bool(dataparser.setup().scene_source("test").keys)
    except DataError:
        return False


def show_index(config: RunFolderConfig, index: Path) -> None:
    """Choose an evaluation index; raises DataError for one that does not belong to the run's data."""
    datamanager = config.pipeline.datamanager
    dataparser = datamanager.dataparser
    if not hasattr(dataparser, "eval_index"):
        raise DataError(f"{type(dataparser).__name__} has one scene: leave out --index")
    if datamanager.data is not None:
        dataparser.data = datamanager.data
    EvaluationIndex.load(index).keys_in(dataparser.setup().scene_source("test"))
    dataparser.eval_index = index.absolute()


def show_scene(config: RunFolderConfig, scene: str) -> None:
    """Choose the evaluation scene; raises DataError that names some scenes if there is none of that name."""
    datamanager = config.pipeline.datamanager
    dataparser = datamanager.dataparser
    if not hasattr(dataparser, "scene"):
        raise DataError(f"{type(dataparser).__name__} has one scene: leave out --scene")
    if datamanager.data is not None:
        dataparser.data = datamanager.data
    keys = dataparser.setup().scene_source("test").keys
    if scene not in keys:
        raise DataError(f"no evaluation scene {scene!r} in {dataparser.data}; it has {', '.join(list(keys)[:5])}, ...")
    dataparser.scene = scene


def show_tokens(config: RunFolderConfig, tokens: Path) -> None:
    """Choose a token file in place of a data set; raises DataError for a file that this model cannot render."""
    from scenetok_ns.dataparsers.tokens_dataparser import TokensDataParserConfig

    made = TokenSource(tokens).tokens
    expected = load_preset(config.pipeline.model.preset).compressor
    if made.mean.shape != (expected.num_tokens, expected.token_dim):
        raise DataError(
            f"{tokens}: {made.mean.shape[0]} tokens of {made.mean.shape[1]} numbers, made by preset {made.preset}, but "
            f"this run's model takes {expected.num_tokens} of {expected.token_dim}"
        )
    datamanager = config.pipeline.datamanager
    datamanager.dataparser = TokensDataParserConfig(data=tokens.absolute())
    config.data = datamanager.data = tokens.absolute()
