"""Write the files of a run folder, all of them or none.

This module does not import Nerfstudio, so commands report bad input at once, and an import of gigabytes has the memory
to itself.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from scenetok_ns.tools.atomic_files import atomic_folder, save_torch

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

CHECKPOINTS = "nerfstudio_models"
CONFIG = "config.yml"
FIRST_CHECKPOINT = "step-000000000.ckpt"
STATE_PREFIX = "_model.scenetok."
"""Prefix of the networks in the state of our Nerfstudio pipeline."""


def write_run_folder(folder: Path, write_checkpoint: Callable[[Path], None], make_config: Callable[[], Any]) -> None:
    """Create a run folder. An interrupted call leaves nothing at `folder`; see `atomic_folder`.

    Args:
        folder: Run folder to create.
        write_checkpoint: Called first, with the folder of checkpoints that it fills.
        make_config: Called next; returns the object that config.yml holds.

    Raises:
        FileExistsError: `folder` exists already and is not empty.
    """
    with atomic_folder(folder) as part:
        (part / CHECKPOINTS).mkdir()
        write_checkpoint(part / CHECKPOINTS)
        (part / CONFIG).write_text(yaml.dump(make_config()), "utf8")


def save_tensors(
    path: Path, tensors: dict[str, Any], step: int = 0, progress: Callable[[int], None] = lambda count: None
) -> None:
    """Write a checkpoint that Nerfstudio's tools read, without optimizer states.

    Memory-mapped tensors are copied from file to file, never held in memory as a whole.

    Args:
        path: File to write.
        tensors: State of the pipeline.
        step: Training step that the checkpoint states.
        progress: Called with the number of bytes of each piece written.
    """
    state = {"step": step, "pipeline": tensors, "optimizers": {}, "schedulers": {}, "scalers": {}}
    with path.open("wb") as file:
        save_torch(state, file, progress)
        file.flush()
        os.fsync(file.fileno())


def run_state(networks: Mapping[str, Tensor], preset: str) -> dict[str, Any]:
    """Build the pipeline's state for `save_tensors` from tensors with the keys of the released checkpoints."""
    import torch  # takes two seconds, which `--help` should not wait

    state: dict[str, Any] = {STATE_PREFIX + key: value for key, value in networks.items()}
    state["_model.device_indicator_param"] = torch.empty(0)
    state["_model._extra_state"] = {"preset": preset}
    return state


def size_of(tensors: dict[str, Any]) -> int:
    """Number of bytes of all tensors: the total for a progress bar of `save_tensors`."""
    import torch

    return sum(value.numel() * value.element_size() for value in tensors.values() if isinstance(value, torch.Tensor))


def link_checkpoints(source: Path, target: Path) -> None:
    """Create hard links to a folder's checkpoints in another folder, or copies if the file system has no hard links."""
    found = sorted(source.glob("step-*.ckpt"))
    if not found:
        raise FileNotFoundError(f"no checkpoint (step-NNNNNNNNN.ckpt) in {source}")
    for file in found:
        try:
            os.link(file, target / file.name)
        except OSError:
            shutil.copy2(file, target / file.name)


def checkpoint_folder(config: Path, relative: Path, named: Path) -> Path:
    """Find the folder of a run's checkpoints. A copied or moved run uses the checkpoints beside its config.yml.

    Args:
        config: The run's config.yml.
        relative: Path of the checkpoint folder in a run folder.
        named: Checkpoint folder that the configuration names. It is used if there is none beside config.yml; if it
            exists there, a warning is logged.
    """
    folder, named = config.absolute().parent, named.absolute()
    beside = folder / relative
    if beside.is_dir():
        return beside
    if named != beside and named.is_dir():
        logger.warning("%s has no checkpoints of its own; those of %s are used", folder, named.parent)
    return named
