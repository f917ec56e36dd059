"""Find and read checkpoints of training runs.

A checkpoint is named `step-NNNNNNNNN.ckpt`, as in Nerfstudio. It holds the states of the pipeline, the optimizers and
the random generators. `training/checkpoints.py` writes it.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from scenetok_ns.models.weight_files import CheckpointError

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
        The state without EMA keys. Weights that have an average are replaced by it.
    """
    networks = AVERAGE + "networks."
    averaged = {"scenetok." + key.removeprefix(networks): v for key, v in state.items() if key.startswith(networks)}
    return {**{key: value for key, value in state.items() if not key.startswith(AVERAGE)}, **averaged}


CHECKPOINT_NAME = "step-{:09d}.ckpt"
"""Name of the checkpoint of a step."""


def checkpoint_path(folder: Path, step: int | None = None) -> Path:
    """Find the checkpoint of `step` (None: the latest) in a checkpoint folder.

    Raises FileNotFoundError, which lists the existing checkpoints.
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
    """Read a whole training checkpoint into CPU memory. Runs no code that the file might hold.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: The file is damaged, or not a training checkpoint. The message is one line.
    """
    state = _load(path, mmap=False)
    _check_parts(path, state)
    missing = {"step", "pipeline", "optimizers", "schedulers", "scalers"} - set(state)
    if missing:
        raise CheckpointError(f"{path} is not a training checkpoint: it lacks {', '.join(sorted(missing))}")
    return state


def check_checkpoint(path: Path) -> None:
    """Check a checkpoint without reading its tensors. Raises the same errors as `read_checkpoint`."""
    _check_parts(path, _load(path, mmap=True))


def _load(path: Path, *, mmap: bool) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and zipfile.is_zipfile(path))
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"cannot read checkpoint {path}: {reason}; is the file complete?") from error


def _check_parts(path: Path, state: Any) -> None:
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} is not a training checkpoint: it holds a {type(state).__name__}")
    if missing := {"step", "pipeline"} - set(state):
        raise CheckpointError(f"{path} is not a training checkpoint: it lacks {', '.join(sorted(missing))}")
    if not isinstance(state["step"], int) or not isinstance(state["pipeline"], dict):
        raise CheckpointError(f"{path} is not a training checkpoint: its step or its pipeline is invalid")
