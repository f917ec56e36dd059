"""Run folders that are written by us and taken by ns-viewer, ns-render and ns-eval like those of ns-train."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
import yaml
from nerfstudio.engine.trainer import TrainerConfig
from torch import Tensor

from scenetok_ns.safe_config import read_config
from scenetok_ns.scenetok_pipeline import SceneTokPipelineConfig

CHECKPOINTS = "nerfstudio_models"
CONFIG = "config.yml"


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


def write_run_folder(folder: Path, config: RunFolderConfig, write_checkpoint: Callable[[Path], None]) -> None:
    """Make `folder` with config.yml and whatever `write_checkpoint` puts into the checkpoint folder it is given.

    All of it is written beside the final place and renamed at the end: an interrupted call leaves no `folder`.

    Raises:
        FileExistsError: `folder` exists already and is not empty.
    """
    folder = folder.absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists; choose another --output, or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.part-"))
    try:
        part.chmod(0o755)
        (part / CHECKPOINTS).mkdir()
        write_checkpoint(part / CHECKPOINTS)
        (part / CONFIG).write_text(yaml.dump(config), "utf8")
        os.replace(part, folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def save_tensors(
    path: Path, tensors: dict[str, Any], step: int = 0, progress: Callable[[int], None] = lambda count: None
) -> None:
    """Write a checkpoint as Nerfstudio's tools read it, without optimizer states; `progress` gets bytes as written.

    Memory-mapped tensors are copied from file to file, never held in memory as a whole.
    """
    state = {"step": step, "pipeline": tensors, "optimizers": {}, "schedulers": {}, "scalers": {}}
    with path.open("wb") as file:
        torch.save(state, _Counted(file.write, progress))  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())


def size_of(tensors: dict[str, Any]) -> int:
    """Bytes of all tensors: what a progress bar of `save_tensors` counts to."""
    return sum(value.numel() * value.element_size() for value in tensors.values() if isinstance(value, Tensor))


class _Counted:
    """A file to write to, for torch.save."""

    def __init__(self, write: Callable[[Any], int], progress: Callable[[int], None]) -> None:
        self._write, self._progress = write, progress

    def write(self, data: Any) -> int:
        count = self._write(data)
        self._progress(count)
        return count

    def flush(self) -> None:
        """torch.save calls this; the file is flushed when all is written."""


def link_checkpoints(source: Path, target: Path) -> None:
    """Put hard links to the checkpoints of one folder into another; copies where the file system has no such links."""
    found = sorted(source.glob("step-*.ckpt"))
    if not found:
        raise FileNotFoundError(f"no checkpoint (step-NNNNNNNNN.ckpt) in {source}")
    for file in found:
        try:
            os.link(file, target / file.name)
        except OSError:
            shutil.copy2(file, target / file.name)
