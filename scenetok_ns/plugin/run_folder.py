"""Configurations of run folders that are written by us and taken by the stock tools like those of ns-train."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field, fields
from pathlib import Path

from nerfstudio.engine.trainer import TrainerConfig

from scenetok_ns.bridge.run_configs import read_run
from scenetok_ns.models.presets import Preset, load_preset, preset_names
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.plugin.pipeline import SceneTokPipelineConfig
from scenetok_ns.tools.run_files import CHECKPOINTS, FIRST_CHECKPOINT, link_checkpoints, run_state, save_tensors


@dataclass
class RunFolderConfig(TrainerConfig):
    """Configuration of a run in a folder of any name; ns-train's are output_dir/experiment/method/timestamp.

    Stock tools look for checkpoints in the folder that the configuration names, not beside config.yml.
    """

    pipeline: SceneTokPipelineConfig = field(default_factory=SceneTokPipelineConfig)
    run_folder: Path | None = None

    def get_base_dir(self) -> Path:
        return super().get_base_dir() if self.run_folder is None else self.run_folder


def run_config(method: TrainerConfig, folder: Path) -> RunFolderConfig:
    """A copy of a method's (or another run's) configuration, for a run in `folder`."""
    values = {entry.name: deepcopy(getattr(method, entry.name)) for entry in fields(TrainerConfig)}
    folder = folder.absolute()
    values.update(output_dir=folder.parent, experiment_name=folder.name, timestamp="imported")
    values.update(relative_model_dir=Path(CHECKPOINTS), load_dir=None, load_checkpoint=None, load_config=None)
    return RunFolderConfig(**values, run_folder=folder)


def derive_run(run: Path, folder: Path) -> tuple[RunFolderConfig, Path | None]:
    """Configuration for a variant of `run` in `folder`, and the folder of the run's checkpoints.

    `run` may also be the name of a preset whose trained weights come with the package: there is no folder then.
    Checkpoints of ns-train are where the configuration says, which need not be beside config.yml.
    """
    if not run.exists() and str(run) in preset_names():
        return _embedded_config(load_preset(str(run)), folder), None
    source = read_run(run)
    if not isinstance(source.pipeline, SceneTokPipelineConfig):
        raise ValueError(f"{run} is a run of {source.method_name}, not of a scenetok method")
    return run_config(source, folder), source.get_checkpoint_dir().absolute()


def _embedded_config(preset: Preset, folder: Path) -> RunFolderConfig:
    from scenetok_ns.plugin.methods import (
        method_config,  # all methods: seconds, and the runs of most commands need none
    )

    if not preset.is_embedded:
        raise ValueError(f"no trained weights of preset {preset.name} come with this package; give a run folder")
    config = run_config(method_config(preset.method), folder)
    config.pipeline.model.preset = preset.name
    return config


def fill_checkpoints(config: RunFolderConfig, checkpoints: Path | None, target: Path) -> None:
    """Put the checkpoints that `derive_run` told of into a new run's folder: links, or the weights of the package."""
    if checkpoints is not None:
        link_checkpoints(checkpoints, target)
        return
    model = SceneTok(load_preset(config.pipeline.model.preset))
    model.load_embedded()
    save_tensors(target / FIRST_CHECKPOINT, run_state(model.state_dict(), model.preset.name))
