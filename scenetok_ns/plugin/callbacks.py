"""Callbacks of training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.utils import comms

from scenetok_ns.tools.printing import print_line


def write_after_training(
    attributes: TrainingCallbackAttributes, name: str, write: Callable[[Path], str]
) -> list[TrainingCallback]:
    """Write a file into the run folder at the end of training, in the main process.

    Args:
        attributes: Attributes that Nerfstudio gives to `get_training_callbacks`.
        name: Name of the file.
        write: Called with the path of the file, which it writes; returns the line to print.

    Returns:
        The callbacks that `get_training_callbacks` returns.
    """
    trainer: Any = attributes.trainer

    def run(step: int) -> None:
        if comms.is_main_process():
            print_line(write(trainer.base_dir / name))

    return [TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN], run)]
