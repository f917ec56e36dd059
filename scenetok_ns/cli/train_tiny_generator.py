"""`scenetok train-tiny-generator`."""

from __future__ import annotations

from typing import Annotated

import tyro

from scenetok_ns.cli.training_results import print_files, show_log
from scenetok_ns.training.tiny.generator import GeneratorOptions, run_generator_training


def train_tiny_generator(options: Annotated[GeneratorOptions, tyro.conf.arg(name="")]) -> None:
    """Train the bundled scene generator on demo scenes that are created on the fly, and write its weights and a log.
    Use a GPU."""
    show_log()
    run_generator_training(options)
    print_files("weights.safetensors and log.jsonl", options.output)
