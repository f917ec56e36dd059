"""`scenetok train-tiny-generator`."""

from __future__ import annotations

from typing import Annotated

import tyro

from scenetok_ns.cli.training_results import print_results, show_log
from scenetok_ns.training.tiny.generator import GeneratorOptions, run_training


def train_tiny_generator(options: Annotated[GeneratorOptions, tyro.conf.arg(name="")]) -> None:
    """Train the embedded scene generator on demo scenes made on the fly (use a GPU), and write weights and figures."""
    show_log()
    print_results(run_training(options), options.output)
