"""`scenetok train-tiny-depth`."""

from __future__ import annotations

from typing import Annotated

import tyro

from scenetok_ns.cli.training_results import print_files, show_log
from scenetok_ns.training.tiny.depth import DepthOptions, run_training


def train_tiny_depth(options: Annotated[DepthOptions, tyro.conf.arg(name="")]) -> None:
    """Train the bundled model's depth head on demo rooms that are created on the fly, and write its weights and
    figures. Use a GPU."""
    show_log()
    run_training(options)
    print_files("depth.safetensors, log.jsonl and figures.json", options.output)
