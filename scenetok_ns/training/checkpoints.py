"""Checkpoints of training runs: finding, reading and writing them, and what a saved state holds.

A checkpoint is `step-NNNNNNNNN.ckpt`, as Nerfstudio names it: the pipeline's state, the optimizers', and the random
generators'.
"""

from __future__ import annotations

import os
import random
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from scenetok_ns.models.weight_files import CheckpointError
from scenetok_ns.tools.atomic_files import atomic_file, save_torch

AVERAGE = "average."
"""Key prefix of the EMA weights in a model's state dict (--pipeline.model.ema-decay)."""


def model_state(pipeline_state: Mapping[str, Any]) -> dict[str, Any]:
    """Take the model's part of a pipeline's state, without the prefixes of pipeline and DistributedDataParallel."""
    state = {key.removeprefix("module."): value for key, value in pipeline_state.items()}
    state = {key.removeprefix("_model."): value for key, value in state.items() if key.startswith("_model.")}
    if state and all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


def averaged_weights(state: Mapping[str, Any]) -> dict[str, Any]:
    """Replace trained weights by their EMA weights, if training kept them.

    Args:
        state: A model's state, as `model_state` returns it.

    Returns:
        The state without EMA keys; weights that have an average are the average.
    """
    networks = AVERAGE + "networks."
    averaged = {"scenetok." + key.removeprefix(networks): v for key, v in state.items() if key.startswith(networks)}
    return {**{key: value for key, value in state.items() if not key.startswith(AVERAGE)}, **averaged}


CHECKPOINT_NAME = "step-{:09d}.ckpt"
"""Name of the checkpoint of a step."""


def checkpoint_path(folder: Path, step: int | None = None) -> Path:
    """Find the checkpoint of `step` (None: the latest) in a checkpoint folder.

    Raises FileNotFoundError, which lists those that are there.
    """
    found = sorted(folder.glob("step-*.ckpt"))
    if not found:
        raise FileNotFoundError(
            f"no checkpoint (step-NNNNNNNNN.ckpt) in {folder}; give a run's nerfstudio_models folder"
        )
    if step is None:
        return found[-1]
    path = folder / CHECKPOINT_NAME.format(step)
    if path not in found:
        raise FileNotFoundError(
            f"no checkpoint of step {step} in {folder}; there are {', '.join(p.name for p in found)}"
        )
    return path


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a training checkpoint, all of it, on the CPU. Runs no code that the file might hold.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: It is damaged, or not a training checkpoint; one line.
    """
    state = _load(path, mmap=False)
    _check_parts(path, state)
    missing = {"step", "pipeline", "optimizers", "schedulers", "scalers"} - set(state)
    if missing:
        raise CheckpointError(f"{path} is not a training checkpoint: it lacks {', '.join(sorted(missing))}")
    return state


def check_checkpoint(path: Path) -> None:
    """Look at a checkpoint without reading its tensors. Raises CheckpointError, as `read_checkpoint`."""
    _check_parts(path, _load(path, mmap=True))


def _load(path: Path, *, mmap: bool) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and zipfile.is_zipfile(path))
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"cannot read checkpoint {path}: {reason}; is the file whole?") from error


def _check_parts(path: Path, state: Any) -> None:
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} is not a training checkpoint: it holds a {type(state).__name__}")
    if missing := {"step", "pipeline"} - set(state):
        raise CheckpointError(f"{path} is not a training checkpoint: it lacks {', '.join(sorted(missing))}")
    if not isinstance(state["step"], int) or not isinstance(state["pipeline"], dict):
        raise CheckpointError(f"{path} is not a training checkpoint: its step or its pipeline is not what it should be")


def save_checkpoint(state: dict[str, Any], path: Path, scratch: Path) -> None:
    """Write `state` to `path` so that a crash or a full disk leaves the old file or the new, never a part.

    Args:
        state: What torch.save takes.
        path: Checkpoint to write.
        scratch: Folder of the same file system for the unfinished file: Nerfstudio takes every file in the checkpoint
            folder for a checkpoint.

    Raises:
        OSError: The file cannot be written; one line.
    """
    try:
        with atomic_file(path, scratch) as file:
            save_torch(state, file)
    except (OSError, RuntimeError) as error:
        raise OSError(f"{error}; free some space, earlier checkpoints are kept") from error
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def random_states() -> dict[str, Any]:
    """Save the states of Python's, numpy's and torch's global generators, as values that load with weights_only."""
    kind, keys, position, has_gauss, gauss = cast(tuple, np.random.get_state(legacy=True))
    return {
        "python": random.getstate(),
        "numpy": (str(kind), torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(gauss)),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Set the generators to what `random_states` saved. Skips generators of GPUs that this machine lacks."""
    random.setstate(states["python"])
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    for device, state in enumerate(states["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(state, device)
