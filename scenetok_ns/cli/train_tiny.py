"""`scenetok train-tiny` and `scenetok train-tiny-generator`."""

from __future__ import annotations

import logging
from typing import Annotated

import tyro

from scenetok_ns.tools.printing import plain_console
from scenetok_ns.training.tiny.generator import GeneratorOptions, run_generator_training
from scenetok_ns.training.tiny.stages import TinyOptions, run_training


def train_tiny(options: Annotated[TinyOptions, tyro.conf.arg(name="")]) -> None:
    """Train the embedded model on demo scenes made on the fly (a GPU is wanted), and write weights and log.

    With torchrun, processes share the work. `benchmarks/tiny.py` measures the weights.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run_training(options)
    plain_console().print(f"weights and log.jsonl are in {options.output}", soft_wrap=True)


def train_tiny_generator(options: Annotated[GeneratorOptions, tyro.conf.arg(name="")]) -> None:
    """Train the embedded scene generator on demo scenes made on the fly (a GPU is wanted): weights and log."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run_generator_training(options)
    plain_console().print(f"weights.safetensors and log.jsonl are in {options.output}", soft_wrap=True)
