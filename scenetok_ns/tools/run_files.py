"""The files of a run folder: written whole or not at all. Needs no Nerfstudio, so that bad input is reported at once
and an import of gigabytes has the memory to itself."""

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
    """Make `folder`: `write_checkpoint` fills the checkpoint folder it is given, then config.yml gets `make_config()`.

    An interrupted call leaves no `folder`; see `atomic_folder`.

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
    """Write a checkpoint as Nerfstudio's tools read it, without optimizer states; `progress` gets bytes as written.

    Memory-mapped tensors are copied from file to file, never held in memory as a whole.
    """
    state = {"step": step, "pipeline": tensors, "optimizers": {}, "schedulers": {}, "scalers": {}}
    with path.open("wb") as file:
        save_torch(state, file, progress)
        file.flush()
        os.fsync(file.fileno())


def run_state(networks: Mapping[str, Tensor], preset: str) -> dict[str, Any]:
    """The state of our pipeline with these networks (keys of the released checkpoints), for `save_tensors`."""
    import torch  # two seconds, which `--help` need not wait for

    state: dict[str, Any] = {STATE_PREFIX + key: value for key, value in networks.items()}
    state["_model.device_indicator_param"] = torch.empty(0)
    state["_model._extra_state"] = {"preset": preset}
    return state


def size_of(tensors: dict[str, Any]) -> int:
    """Bytes of all tensors: the total of a progress bar of `save_tensors`."""
    import torch

    return sum(value.numel() * value.element_size() for value in tensors.values() if isinstance(value, torch.Tensor))


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


def checkpoint_folder(config: Path, relative: Path, named: Path) -> Path:
    """Find the folder of a run's checkpoints: beside its config.yml, so that a copied or moved run has its own.

    Args:
        config: The run's config.yml.
        relative: Folder of the checkpoints in a run folder.
        named: Folder that the configuration names. It is taken where there is none beside the file; a warning says so
            if it belongs to another run.
    """
    folder, named = config.absolute().parent, named.absolute()
    beside = folder / relative
    if beside.is_dir():
        return beside
    if named != beside and named.is_dir():
        logger.warning("%s has no checkpoints of its own; those of %s are used", folder, named.parent)
    return named
