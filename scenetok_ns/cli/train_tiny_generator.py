"""`scenetok train-tiny-generator`."""

from __future__ import annotations

import json
import logging
from typing import Annotated

import tyro

from scenetok_ns.printing import plain_console
from scenetok_ns.tiny_generator_training import GeneratorOptions, run_training


def train_tiny_generator(options: Annotated[GeneratorOptions, tyro.conf.arg(name="")]) -> None:
    """Train the embedded scene generator on demo scenes made on the fly (a GPU is wanted), and write weights and
    figures."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    figures = run_training(options)
    console = plain_console()
    console.print_json(json.dumps(figures))
    files = "weights.safetensors, log.jsonl, figures.json and samples.png"
    console.print(f"{files} are in {options.output}", soft_wrap=True)
