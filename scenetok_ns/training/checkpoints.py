"""Reading, writing and comparing training checkpoints"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from scenetok_ns.models.released_checkpoints import CheckpointError
from scenetok_ns.tools.atomic_files import atomic_file, save_torch

AVERAGE = "average."
"""Where a model's state has the averaged weights of training with --pipeline.model.ema-decay."""


SHOWN_DIFFERENCES = 3
"""Keys of each kind that an error about a checkpoint names."""


def model_state(pipeline_state: Mapping[str, Any]) -> dict[str, Any]:
    """The model's part of a saved pipeline, without the prefixes of pipeline and DistributedDataParallel."""
    state = {key.removeprefix("module."): value for key, value in pipeline_state.items()}
    state = {key.removeprefix("_model."): value for key, value in state.items() if key.startswith("_model.")}
    if state and all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


def averaged_weights(state: Mapping[str, Any]) -> dict[str, Any]:
    """A model's saved state with the averaged weights, where training kept some, in the place of the trained ones."""
    networks = AVERAGE + "networks."
    averaged = {"scenetok." + key.removeprefix(networks): v for key, v in state.items() if key.startswith(networks)}
    return {**{key: value for key, value in state.items() if not key.startswith(AVERAGE)}, **averaged}


def check_same(own: Mapping[str, Any], loaded: Mapping[str, Any]) -> None:
    """Raise CheckpointError in one line unless both have the same keys and shapes."""
    missing = [key for key in own if key not in loaded]
    surplus = [key for key in loaded if key not in own]
    shapes = [
        f"{key} is {list(loaded[key].shape)} instead of {list(value.shape)}"
        for key, value in own.items()
        if isinstance(value, Tensor) and key in loaded and loaded[key].shape != value.shape
    ]
    problems = [("misses", missing), ("has unknown", surplus), ("has other shapes:", shapes)]
    found = [f"it {what} {first_few(keys)}" for what, keys in problems if keys]
    if found:
        raise CheckpointError(f"the checkpoint does not fit this model: {'; '.join(found)}. It was not loaded.")


def first_few(keys: list[str]) -> str:
    more = f" and {len(keys) - SHOWN_DIFFERENCES} more" if len(keys) > SHOWN_DIFFERENCES else ""
    return ", ".join(keys[:SHOWN_DIFFERENCES]) + more


CHECKPOINT_NAME = "step-{:09d}.ckpt"


def checkpoint_path(folder: Path, step: int | None = None) -> Path:
    """The checkpoint of `step`, or the latest one, in a checkpoint folder."""
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
    """A whole training checkpoint, on the CPU. Raises CheckpointError in one line if it isn't one."""
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"cannot read checkpoint {path}: {reason}; is the file whole?") from error
    missing = {"step", "pipeline", "optimizers", "schedulers", "scalers"} - set(state)
    if missing:
        raise CheckpointError(f"{path} is not a training checkpoint: it lacks {', '.join(sorted(missing))}")
    return state


def save_checkpoint(state: dict[str, Any], path: Path, scratch: Path) -> None:
    """Write `state` to `path` so that a crash or a full disk leaves the old file or the new, never a part.

    The unfinished file lies in `scratch`, a folder of the same file system: Nerfstudio takes every file in the
    checkpoint folder for a checkpoint.
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
    """States of Python's, numpy's and torch's global generators, as plain values that load with weights_only."""
    kind, keys, position, has_gauss, gauss = cast(tuple, np.random.get_state(legacy=True))
    return {
        "python": random.getstate(),
        "numpy": (str(kind), torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(gauss)),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Undo `random_states`. Generators of GPUs that this machine lacks are left out."""
    random.setstate(states["python"])
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    for device, state in enumerate(states["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(state, device)
