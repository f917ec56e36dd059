"""`scenetok train-tiny`."""

from __future__ import annotations

from typing import Annotated

import tyro

from scenetok_ns.cli.training_results import print_results, show_log
from scenetok_ns.training.tiny.tokenizer import TinyOptions, run_training


def train_tiny(options: Annotated[TinyOptions, tyro.conf.arg(name="")]) -> None:
    """Train the embedded model on demo scenes made on the fly (use a GPU), and write weights and figures."""
    show_log()
    print_results(run_training(options), options.output)
