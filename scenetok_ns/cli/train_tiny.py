"""`scenetok train-tiny`."""

from __future__ import annotations

from typing import Annotated

import tyro

from scenetok_ns.cli.training_results import print_files, show_log
from scenetok_ns.training.tiny.stages import TinyOptions, run_training


def train_tiny(options: Annotated[TinyOptions, tyro.conf.arg(name="")]) -> None:
    """Train the bundled model on demo scenes that are created on the fly, and write its weights and a log. Use a GPU.

    Under torchrun, processes share the work. `benchmarks/tiny.py` measures the weights.
    """
    show_log()
    run_training(options)
    print_files("codec.safetensors, tokens.safetensors and log.jsonl", options.output)
