"""Apply `RunChanges` to the configuration of a run: one function for each change.

All raise DataError, ValueError or OSError with a one-line message if a change does not fit the run or its data.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from scenetok_ns.bridge.capture_kinds import find_dataparser
from scenetok_ns.bridge.scene_views import unrefined_note
from scenetok_ns.cli.photograph_options import PhotographOptions, given
from scenetok_ns.data.errors import no_such_scene
from scenetok_ns.data.evaluation_index import EvaluationIndex
from scenetok_ns.data.scenes import DataError
from scenetok_ns.data.sources.photograph import PhotographSource
from scenetok_ns.data.sources.token_file import TokenSource
from scenetok_ns.dataparsers.photograph_dataparser import PhotographDataParserConfig
from scenetok_ns.dataparsers.scene_dataparser import SceneDataParserConfig
from scenetok_ns.dataparsers.tokens_dataparser import TokensDataParserConfig
from scenetok_ns.models.autoencoders.registry import check_encoding
from scenetok_ns.models.presets import Encoding, load_preset
from scenetok_ns.models.scenegen import SMALLEST_REACH
from scenetok_ns.plugin.refinement import RefinePipelineConfig
from scenetok_ns.plugin.run_folder import RunFolderConfig
from scenetok_ns.tools.printing import command
from scenetok_ns.tools.suggestions import did_you_mean_path

logger = logging.getLogger(__name__)


def check_data(config: RunFolderConfig) -> None:
    """Raise FileNotFoundError if the run has nothing to display: Nerfstudio's tools have no option for data."""
    datamanager = config.pipeline.datamanager
    dataparser: Any = datamanager.dataparser
    data = datamanager.data or dataparser.data
    if data.exists():
        return
    if datamanager.data is None and data == type(dataparser)().data:  # a preset: nobody has named data
        raise FileNotFoundError(
            "there is no scene to display: give --data with a capture or a data set (or --tokens or --image, if the "
            "command has them)"
        )
    raise FileNotFoundError(f"the run's data {data} is not there{did_you_mean_path(data)}: give its place with --data")


def print_capture_note(config: RunFolderConfig, console: Console) -> None:
    """Print a note on quality if a bundled model displays a capture or a photograph that it was not refined on."""
    datamanager = config.pipeline.datamanager
    preset = load_preset(config.pipeline.model.preset)
    scenes = (SceneDataParserConfig, TokensDataParserConfig)
    if isinstance(datamanager.dataparser, scenes) or isinstance(config.pipeline, RefinePipelineConfig):
        return
    if preset.is_embedded:
        console.print(unrefined_note(preset.name, datamanager.dataparser.data), soft_wrap=True)


def check_generator(config: RunFolderConfig, option: str) -> None:
    """Raise ValueError unless the run's model generates scenes."""
    preset = load_preset(config.pipeline.model.preset)
    if preset.scene_generator is None:
        raise ValueError(f"{option} is for runs that generate scenes; preset {preset.name} encodes them")


def check_encodes(config: RunFolderConfig, option: str) -> None:
    """Raise ValueError if the run already has its tokens, so that an encoding option would change nothing."""
    if isinstance(config.pipeline, RefinePipelineConfig):
        raise ValueError(f"{option} would change nothing: this run has refined tokens; see ns-train scenetok-refine")
    if isinstance(config.pipeline.datamanager.dataparser, TokensDataParserConfig):
        raise ValueError(f"{option} would change nothing: this run shows a token file")


def change_rendering(config: RunFolderConfig, settings: Mapping[str, Any]) -> None:
    """Set the model's render settings, by name."""
    model = config.pipeline.model
    load_preset(model.preset).check_guidance(settings.get("guidance"))
    for name, value in settings.items():
        setattr(model, name, value)


def change_encoding(config: RunFolderConfig, encoding: Encoding) -> None:
    """Choose which Gaussians are sampled when photographs are encoded."""
    check_encodes(config, "--encoding")
    check_encoding(load_preset(config.pipeline.model.preset), encoding, "--encoding")
    config.pipeline.model.encoding = encoding


def change_generation(config: RunFolderConfig, settings: Mapping[str, Any]) -> None:
    """Set the model's settings of scene generation, by name."""
    for name, value in settings.items():
        check_generator(config, f"--{name.replace('_', '-')}")
        setattr(config.pipeline.model, name, value)


def change_num_context(config: RunFolderConfig, count: int) -> None:
    """Choose the number of context views."""
    check_encodes(config, "--num-context")
    config.pipeline.datamanager.num_context = count


def change_num_condition(config: RunFolderConfig, count: int) -> None:
    """Choose the number of photographs that scenes are generated from."""
    check_generator(config, "--num-condition")
    preset = load_preset(config.pipeline.model.preset)
    most = preset.data.views.max_condition_views
    if not 1 <= count <= most:
        raise ValueError(f"--num-condition {count}: preset {preset.name} takes 1 to {most} photographs")
    config.pipeline.datamanager.num_condition = count


def only_content(config: RunFolderConfig) -> str | None:
    """Describe the only scene that a run can display, as in "holds the refined tokens of room"; None: it encodes or
    generates any."""
    datamanager = config.pipeline.datamanager
    data = datamanager.data or datamanager.dataparser.data
    if isinstance(config.pipeline, RefinePipelineConfig):
        return f"holds the refined tokens of {data}"
    if isinstance(datamanager.dataparser, (TokensDataParserConfig, PhotographDataParserConfig)):
        return f"displays the single file {data}"
    return None


def change_data(config: RunFolderConfig, data: Path) -> None:
    """Choose another data set or capture.

    The run keeps its dataparser if that can read the data; otherwise it gets the dataparser that fits the data. The
    run's scene and evaluation index are kept if the new data set has their scenes.
    """
    if not data.exists():
        raise FileNotFoundError(f"no data at {data}{did_you_mean_path(data)}")
    datamanager = config.pipeline.datamanager
    dataparser: Any = datamanager.dataparser
    if (content := only_content(config)) is not None:
        refining = command("ns-train", "scenetok-refine", "--data", data)
        raise DataError(
            f"--data needs a run that can display any scene, and this run {content}: leave out --data, give the run "
            f"that it was made from, or refine the other data ({refining})"
        )
    data = data.absolute()
    config.data = datamanager.data = dataparser.data = data
    if not (isinstance(dataparser, SceneDataParserConfig) and _finds_scenes(dataparser)):
        found: Any = find_dataparser(data)
        if type(found) is not type(dataparser):
            dataparser = datamanager.dataparser = found
    if isinstance(dataparser, SceneDataParserConfig):
        _keep_what_fits(dataparser)


def _finds_scenes(dataparser: SceneDataParserConfig) -> bool:
    try:
        return bool(dataparser.setup().scene_source("test").keys)
    except DataError:
        return False


def _keep_what_fits(dataparser: SceneDataParserConfig) -> None:
    """Remove the scene and the evaluation index, with a warning, if they do not fit the data set."""
    source = dataparser.setup().scene_source("test")
    if dataparser.scene is not None and dataparser.scene not in source.keys:
        logger.warning("%s has no scene %s; the run shows the first one instead", dataparser.data, dataparser.scene)
        dataparser.scene = None
    if dataparser.eval_index is not None:
        try:
            EvaluationIndex.load(dataparser.eval_index).keys_in(source)
        except DataError as error:
            logger.warning("the run's evaluation index is left out: %s", error)
            dataparser.eval_index = None


def change_pose_scale(config: RunFolderConfig, scale: float) -> None:
    """Choose the factor from capture units to training units."""
    check_encodes(config, "--pose-scale")
    datamanager = config.pipeline.datamanager
    if isinstance(datamanager.dataparser, (SceneDataParserConfig, PhotographDataParserConfig)):
        raise ValueError("--pose-scale is for captures (--data) and photographs (--image), whose units are their own")
    datamanager.pose_scale = scale


def change_index(config: RunFolderConfig, index: Path) -> None:
    """Choose an evaluation index of the run's data set."""
    dataparser = _data_set(config, "--index")
    source = dataparser.setup().scene_source("test")
    found = EvaluationIndex.load(index)
    keys = found.keys_in(source)
    shown = dataparser.scene if dataparser.scene in keys else keys[0] if keys else None
    if shown is not None:
        found.views(source.scene(shown))  # frames out of range are refused here, not by the first tool
    dataparser.eval_index = index.absolute()


def change_scene(config: RunFolderConfig, scene: str) -> None:
    """Choose an evaluation scene of the run's data set."""
    dataparser = _data_set(config, "--scene")
    keys = dataparser.setup().scene_source("test").keys
    if scene not in keys:
        raise no_such_scene(scene, list(keys), "test", dataparser.data)
    dataparser.scene = scene


def _data_set(config: RunFolderConfig, option: str) -> SceneDataParserConfig:
    """Return the run's dataparser for data sets, with its data.

    Raises DataError, which names the option, if the dataparser has a single scene.
    """
    datamanager = config.pipeline.datamanager
    dataparser = datamanager.dataparser
    if not isinstance(dataparser, SceneDataParserConfig):
        raise DataError(f"{type(dataparser).__name__} has one scene: leave out {option}")
    if datamanager.data is not None:
        dataparser.data = datamanager.data
    return dataparser


def change_tokens(config: RunFolderConfig, file: Path) -> None:
    """Display a token file instead of a data set."""
    TokenSource(file).check_preset(load_preset(config.pipeline.model.preset))
    datamanager = config.pipeline.datamanager
    datamanager.dataparser = TokensDataParserConfig(data=file.absolute())
    config.data = datamanager.data = file.absolute()


def change_photograph(config: RunFolderConfig, options: PhotographOptions) -> PhotographSource:
    """Generate the scene from a photograph instead of using a scene of a data set."""
    preset = load_preset(config.pipeline.model.preset)
    if preset.scene_generator is None:
        raise DataError(
            f"--image: preset {preset.name} encodes scenes from many posed photographs; a single one needs a run of a "
            "scenegen method"
        )
    values = given(options)
    image = values.pop("image").absolute()
    if options.path is not None:
        values["path"] = options.path.absolute()
    datamanager = config.pipeline.datamanager
    dataparser = datamanager.dataparser = PhotographDataParserConfig(data=image, **values)
    config.data = datamanager.data = image
    source = dataparser.setup().scene_source("test")
    source.check_size(preset.data.image_size)
    if source.reach < SMALLEST_REACH:
        raise DataError(
            f"the path of {image.name} stays where the photograph was taken, so the size of the scene is unknown: "
            "give one that moves (turning on the spot is not enough), or a larger --pose-scale"
        )
    return source
