"""`scenetok train-tiny-generator`."""

from __future__ import annotations

import json
import logging
from typing import Annotated

import tyro
from rich.console import Console

from scenetok_ns.tiny_generator_training import GeneratorOptions, run_training


def train_tiny_generator(options: Annotated[GeneratorOptions, tyro.conf.arg(name="")]) -> None:
    """Train the embedded scene generator on demo scenes made on the fly (a GPU is wanted), and write weights and
    figures."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    figures = run_training(options)
    Console().print_json(json.dumps(figures))
    Console().print(f"weights.safetensors, log.jsonl, figures.json and samples.png are in {options.output}")
