"""Configurations of run folders that are written by us and taken by the stock tools like those of ns-train."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field, fields
from pathlib import Path

from nerfstudio.engine.trainer import TrainerConfig

from scenetok_ns.run_files import CHECKPOINTS, CONFIG
from scenetok_ns.safe_config import read_config
from scenetok_ns.scenetok_pipeline import SceneTokPipelineConfig


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


def read_run(run: Path) -> TrainerConfig:
    """Configuration of a run folder, or of the config.yml in it. Runs nothing that the file might name."""
    path = run / CONFIG if run.is_dir() else run
    if not path.is_file():
        raise FileNotFoundError(f"{run} is not a run folder: it has no {CONFIG}")
    config = read_config(path)
    if not isinstance(config, TrainerConfig):
        raise ValueError(f"{path} does not hold the configuration of a run")
    return config


def derive_run(run: Path, folder: Path) -> tuple[RunFolderConfig, Path]:
    """Configuration for a variant of `run` in `folder`, and the folder of the run's checkpoints.

    Checkpoints of ns-train are where the configuration says, which need not be beside config.yml.
    """
    source = read_run(run)
    if not isinstance(source.pipeline, SceneTokPipelineConfig):
        raise ValueError(f"{run} is a run of {source.method_name}, not of a scenetok method")
    return run_config(source, folder), source.get_checkpoint_dir().absolute()
