"""Options that `scenetok open` and `scenetok generate` share: a photograph with a path, and how it becomes a scene."""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from scenetok_ns.bridge.capture_kinds import find_dataparser
from scenetok_ns.data.anchors import Trajectory
from scenetok_ns.data.evaluation_index import EvaluationIndex
from scenetok_ns.data.scenes import DataError
from scenetok_ns.data.sources.token_file import TokenSource
from scenetok_ns.dataparsers.photograph_dataparser import PhotographDataParserConfig
from scenetok_ns.dataparsers.scene_dataparser import SceneDataParserConfig
from scenetok_ns.dataparsers.tokens_dataparser import TokensDataParserConfig
from scenetok_ns.models.presets import Solver, load_preset, preset_names
from scenetok_ns.models.scenegen import SMALLEST_REACH
from scenetok_ns.models.tokens import SceneTokens
from scenetok_ns.plugin.refinement import RefinePipelineConfig
from scenetok_ns.plugin.run_folder import RunFolderConfig

if TYPE_CHECKING:
    from scenetok_ns.data.sources.photograph import PhotographSource
    from scenetok_ns.plugin.run_folder import RunFolderConfig


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


logger = logging.getLogger(__name__)


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

    if isinstance(config.pipeline, RefinePipelineConfig):
        raise ValueError(f"{option} would change nothing: this run has refined tokens; see ns-train scenetok-refine")
    if isinstance(config.pipeline.datamanager.dataparser, TokensDataParserConfig):
        raise ValueError(f"{option} would change nothing: this run shows a token file")


def show_data(config: RunFolderConfig, data: Path) -> None:
    """Choose another data set or capture; raises DataError if it is none.

    The run's dataparser reads it if it can, else the one that fits what is there. The run's scene and evaluation index
    are kept where the new data set has their scenes.
    """
    from scenetok_ns.dataparsers.photograph_dataparser import PhotographDataParserConfig
    from scenetok_ns.dataparsers.tokens_dataparser import TokensDataParserConfig
    from scenetok_ns.plugin.refinement import RefinePipelineConfig

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


EMBEDDED = "scenetok-tiny"
"""Preset whose model is used where neither a run is given nor the tokens say another."""


def preset_of(tokens: tuple[Path, ...]) -> Path:
    """The embedded preset that renders these token files."""
    if not tokens:
        return Path(EMBEDDED)
    made = SceneTokens.load(tokens[0]).preset
    if made not in preset_names():
        raise ValueError(f"{tokens[0]} was made by preset {made}, which is not in this package: give --run")
    return Path(made)
