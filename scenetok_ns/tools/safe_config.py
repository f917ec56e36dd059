"""Read a run's config.yml without running any code that the file may name.

Nerfstudio's tools read these files with YAML's unsafe loader, which calls any function that a file names. The
configuration of a scenetok run needs only the classes listed here, paths and one enumeration.
"""

from __future__ import annotations

import dataclasses
import importlib
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import yaml

from scenetok_ns.tools.earlier_modules import current_name

CONFIGURATIONS = {
    "nerfstudio.cameras.camera_optimizers.CameraOptimizerConfig": "CameraOptimizer",
    "nerfstudio.configs.base_config.LocalWriterConfig": "nerfstudio.utils.writer.LocalWriter",
    "nerfstudio.configs.base_config.LoggingConfig": None,
    "nerfstudio.configs.base_config.MachineConfig": None,
    "nerfstudio.configs.base_config.ViewerConfig": None,
    "nerfstudio.data.dataparsers.arkitscenes_dataparser.ARKitScenesDataParserConfig": "ARKitScenes",
    "nerfstudio.data.dataparsers.blender_dataparser.BlenderDataParserConfig": "Blender",
    "nerfstudio.data.dataparsers.colmap_dataparser.ColmapDataParserConfig": "ColmapDataParser",
    "nerfstudio.data.dataparsers.dnerf_dataparser.DNeRFDataParserConfig": "DNeRF",
    "nerfstudio.data.dataparsers.dycheck_dataparser.DycheckDataParserConfig": "Dycheck",
    "nerfstudio.data.dataparsers.instant_ngp_dataparser.InstantNGPDataParserConfig": "InstantNGP",
    "nerfstudio.data.dataparsers.minimal_dataparser.MinimalDataParserConfig": "MinimalDataParser",
    "nerfstudio.data.dataparsers.nerfosr_dataparser.NeRFOSRDataParserConfig": "NeRFOSR",
    "nerfstudio.data.dataparsers.nerfstudio_dataparser.NerfstudioDataParserConfig": "Nerfstudio",
    "nerfstudio.data.dataparsers.nuscenes_dataparser.NuScenesDataParserConfig": "NuScenes",
    "nerfstudio.data.dataparsers.phototourism_dataparser.PhototourismDataParserConfig": "Phototourism",
    "nerfstudio.data.dataparsers.scannet_dataparser.ScanNetDataParserConfig": "ScanNet",
    "nerfstudio.data.dataparsers.scannetpp_dataparser.ScanNetppDataParserConfig": "ScanNetpp",
    "nerfstudio.data.dataparsers.sdfstudio_dataparser.SDFStudioDataParserConfig": "SDFStudio",
    "nerfstudio.data.dataparsers.sitcoms3d_dataparser.Sitcoms3DDataParserConfig": "Sitcoms3D",
    "nerfstudio.data.pixel_samplers.PixelSamplerConfig": "PixelSampler",
    "nerfstudio.engine.optimizers.AdamOptimizerConfig": "torch.optim.adam.Adam",
    "nerfstudio.engine.schedulers.ExponentialDecaySchedulerConfig": "ExponentialDecayScheduler",
    "nerfstudio.engine.trainer.TrainerConfig": "Trainer",
    "nerfstudio.pipelines.base_pipeline.VanillaPipelineConfig": "VanillaPipeline",
    "scenetok_ns.dataparsers.dl3dv_dataparser.Dl3dvDataParserConfig": "Dl3dvDataParser",
    "scenetok_ns.dataparsers.photograph_dataparser.PhotographDataParserConfig": "PhotographDataParser",
    "scenetok_ns.dataparsers.re10k_dataparser.Re10kDataParserConfig": "Re10kDataParser",
    "scenetok_ns.dataparsers.tokens_dataparser.TokensDataParserConfig": "TokensDataParser",
    "scenetok_ns.evaluation.options.EvaluationOptions": None,
    "scenetok_ns.plugin.datamanager.SceneTokDataManagerConfig": "SceneTokDataManager",
    "scenetok_ns.plugin.depth_training.DepthDataManagerConfig": "DepthDataManager",
    "scenetok_ns.plugin.depth_training.DepthModelConfig": "DepthModel",
    "scenetok_ns.plugin.depth_training.DepthPipelineConfig": "DepthPipeline",
    "scenetok_ns.plugin.model.SceneTokModelConfig": "SceneTokModel",
    "scenetok_ns.plugin.pipeline.SceneTokPipelineConfig": "SceneTokPipeline",
    "scenetok_ns.plugin.refinement.RefineDataManagerConfig": "RefineDataManager",
    "scenetok_ns.plugin.refinement.RefineModelConfig": "RefineModel",
    "scenetok_ns.plugin.refinement.RefinePipelineConfig": "RefinePipeline",
    "scenetok_ns.plugin.run_folder.RunFolderConfig": "scenetok_ns.plugin.trainer.SceneTokTrainer",
    "scenetok_ns.plugin.splat_datamanager.SplatDataManagerConfig": "SplatDataManager",
    "scenetok_ns.plugin.splat_model.SplatModelConfig": "SplatModel",
    "scenetok_ns.plugin.splat_trainer.SplatTrainerConfig": "nerfstudio.engine.trainer.Trainer",
    "scenetok_ns.plugin.stream_training.StudentModelConfig": "StudentModel",
    "scenetok_ns.plugin.stream_training.StudentPipelineConfig": "StudentPipeline",
    "scenetok_ns.plugin.trainer.SceneTokTrainerConfig": "SceneTokTrainer",
    "scenetok_ns.training.optimizers.AdamWConfig": "ClippedAdamW",
    "scenetok_ns.training.optimizers.WarmupMilestonesConfig": "WarmupMilestones",
}
"""Dataclass that a configuration may hold -> the class that it sets up (its `_target`): a name in the same module, a
full name, or None."""

FUNCTIONS = ("nerfstudio.data.utils.nerfstudio_collate.nerfstudio_collate",)
"""Functions that a configuration may name; the loader never calls them."""

ENUMERATIONS = ("nerfstudio.utils.writer.EventName",)

PATHS = ("pathlib.PosixPath", "pathlib.WindowsPath", "pathlib.PurePosixPath", "pathlib.PureWindowsPath", "pathlib.Path")

PYTHON = "tag:yaml.org,2002:python/"


def read_config(path: pathlib.Path) -> Any:
    """Read the configuration object in a config.yml.

    Earlier names of this package's classes are read as their current names.

    Raises:
        ValueError: The file cannot be read, is damaged, or names something that no scenetok run has; one line.
    """
    text = ""
    try:
        text = path.read_text("utf8")
        loader = ConfigLoader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except UnicodeDecodeError:
        problem = "it is not UTF-8 text"
    except RecursionError:
        problem = "it is nested too deeply"
    except yaml.YAMLError as error:
        problem = (getattr(error, "problem", None) or str(error)).splitlines()[0]
        method = re.search(r"^method_name: (\S+)$", text, re.MULTILINE)
        if isinstance(error, _Foreign) and method is not None:
            problem += f" (its method is {method[1]})"
    except (ValueError, TypeError, OverflowError) as error:  # an impossible number or date
        problem = str(error).splitlines()[0]
    except OSError as error:
        problem = error.strerror or str(error)
    raise ValueError(f"{path} cannot be read as the configuration of a scenetok run: {problem}")


class ConfigLoader(yaml.SafeLoader):
    """YAML's safe loader, plus the classes listed in this module; raises yaml.YAMLError for anything else."""

    def _tuple(self, node: yaml.SequenceNode) -> tuple[Any, ...]:
        # Constructed deeply, because a tuple cannot be filled later.
        return tuple(self.construct_sequence(node, deep=True))

    def _name(self, suffix: str, node: yaml.Node) -> Any:
        name = current_name(suffix)
        if name not in TARGETS and name not in FUNCTIONS:
            raise _refused(suffix, node)
        return _import(name, node)

    def _configuration(self, suffix: str, node: yaml.Node) -> Iterator[Any]:
        name = current_name(suffix)
        if name not in CONFIGURATIONS or not isinstance(node, yaml.MappingNode):
            raise _refused(suffix, node)
        kind = _import(name, node)
        found = object.__new__(kind)
        yield found  # before its values, which may refer to it
        values = self.construct_mapping(node, deep=hasattr(found, "__setstate__"))  # which may look into them
        _check_values(suffix, kind, values, _target(name), node)
        if hasattr(found, "__setstate__"):
            found.__setstate__(values)
        else:
            vars(found).update(values)

    def _value(self, suffix: str, node: yaml.Node) -> Any:
        """Read a path or a member of an enumeration, which YAML writes as a call with plain arguments."""
        if not isinstance(node, yaml.SequenceNode):
            raise _refused(suffix, node)
        if suffix == "builtins.getattr":
            return self._member(node)
        arguments = self.construct_sequence(node)
        if suffix in PATHS and all(isinstance(part, str) for part in arguments):
            return pathlib.Path(*arguments)
        if suffix in ENUMERATIONS and len(arguments) == 1 and isinstance(arguments[0], (str, int)):
            kind = _import(suffix, node)
            if arguments[0] in [member.value for member in kind]:
                return kind(arguments[0])
        raise _refused(suffix, node)

    def _member(self, node: yaml.SequenceNode) -> Any:
        """Read a member of an enumeration as Python 3.11.0 to 3.11.3 write it: getattr(class, name of the member)."""
        names = [value.tag.removeprefix(f"{PYTHON}name:") for value in node.value[:1]]
        if len(node.value) == 2 and names[0] in ENUMERATIONS and isinstance(node.value[1], yaml.ScalarNode):
            members = _import(names[0], node).__members__
            if (member := node.value[1].value) in members:
                return members[member]
        raise _refused("builtins.getattr", node)

    def _unknown(self, suffix: str, node: yaml.Node) -> Any:
        raise _refused(suffix.partition(":")[2] or f"!!python/{suffix}", node)


ConfigLoader.add_constructor(f"{PYTHON}tuple", ConfigLoader._tuple)
ConfigLoader.add_multi_constructor(f"{PYTHON}name:", ConfigLoader._name)
ConfigLoader.add_multi_constructor(f"{PYTHON}object:", ConfigLoader._configuration)
ConfigLoader.add_multi_constructor(f"{PYTHON}object/apply:", ConfigLoader._value)
ConfigLoader.add_multi_constructor(PYTHON, ConfigLoader._unknown)  # last, because the first matching prefix wins


def _target(configuration: str) -> str | None:
    """Full name of the class that a configuration sets up."""
    target = CONFIGURATIONS[configuration]
    return target if target is None or "." in target else f"{configuration.rpartition('.')[0]}.{target}"


TARGETS = {target for name in CONFIGURATIONS if (target := _target(name)) is not None}


def _import(name: str, node: yaml.Node) -> Any:
    """Import a class or function whose name is in one of this module's lists."""
    module, _, member = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), member)
    except (ImportError, AttributeError) as error:
        raise _error(f"{name} is not installed ({error})", node) from error


def _check_values(name: str, kind: type, values: dict[Any, Any], target: str | None, node: yaml.Node) -> None:
    """Raise yaml.YAMLError unless `values` are the fields of the dataclass `kind`, with the right `_target`."""
    names = {field.name for field in dataclasses.fields(kind)}
    if unknown := [str(key) for key in values if key not in names]:
        raise _error(f"{name} has no setting {unknown[0]}", node)
    # A file of an earlier version may lack fields with a plain default, which is an attribute of the class.
    if missing := sorted(field for field in names - values.keys() if not hasattr(kind, field)):
        raise _error(f"it is cut short: {name} lacks {', '.join(missing)}", node)
    if "_target" in names:
        found = values["_target"]
        if not isinstance(found, type) or f"{found.__module__}.{found.__qualname__}" != target:
            raise _error(f"the _target of {name} is not {target}", node)


class _Foreign(yaml.constructor.ConstructorError):
    """The file names something that no scenetok run has."""


def _refused(name: str, node: yaml.Node) -> yaml.YAMLError:
    return _Foreign(None, None, f"it names {name}, which no scenetok run has", node.start_mark)


def _error(problem: str, node: yaml.Node) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
