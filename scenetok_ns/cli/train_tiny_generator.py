"""`scenetok train-tiny-generator`."""

from __future__ import annotations

from typing import Annotated

import tyro

from scenetok_ns.cli.training_results import print_files, show_log
from scenetok_ns.training.tiny.generator import GeneratorOptions, run_generator_training


def train_tiny_generator(options: Annotated[GeneratorOptions, tyro.conf.arg(name="")]) -> None:
    """Train the embedded scene generator on demo scenes made on the fly (use a GPU), and write weights and log."""
    show_log()
    run_generator_training(options)
    print_files("weights.safetensors and log.jsonl", options.output)
