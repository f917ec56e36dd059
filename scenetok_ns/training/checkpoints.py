"""Checkpoints of training runs, written: whole files, and the states of the random generators in them.

`models/run_checkpoints.py` reads them.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from scenetok_ns.tools.atomic_files import atomic_file, save_torch


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
