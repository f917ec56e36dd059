"""`scenetok train-tiny`."""

from __future__ import annotations

import json
import logging
from typing import Annotated

import tyro

from scenetok_ns.tools.printing import plain_console
from scenetok_ns.training.tiny.generator import GeneratorOptions
from scenetok_ns.training.tiny.generator import run_training as run_generator_training
from scenetok_ns.training.tiny.tokenizer import TinyOptions
from scenetok_ns.training.tiny.tokenizer import run_training as run_tokenizer_training


def train_tiny(options: Annotated[TinyOptions, tyro.conf.arg(name="")]) -> None:
    """Train the embedded model on demo scenes made on the fly (a GPU is wanted), and write weights and figures."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    figures = run_tokenizer_training(options)
    console = plain_console()
    console.print_json(json.dumps(figures))
    files = "weights.safetensors, log.jsonl, figures.json and samples.png"
    console.print(f"{files} are in {options.output}", soft_wrap=True)


def train_tiny_generator(options: Annotated[GeneratorOptions, tyro.conf.arg(name="")]) -> None:
    """Train the embedded scene generator on demo scenes made on the fly (a GPU is wanted), and write weights and
    figures."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    figures = run_generator_training(options)
    console = plain_console()
    console.print_json(json.dumps(figures))
    files = "weights.safetensors, log.jsonl, figures.json and samples.png"
    console.print(f"{files} are in {options.output}", soft_wrap=True)
