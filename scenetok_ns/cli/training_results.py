"""Printing what a training of an embedded model wrote, shared by `scenetok train-tiny` and `train-tiny-generator`."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scenetok_ns.tools.printing import plain_console
from scenetok_ns.tools.quiet import is_quiet


def show_log() -> None:
    """Let the training's log messages appear on the terminal."""
    logging.basicConfig(level=logging.WARNING if is_quiet() else logging.INFO, format="%(message)s")


FILES = ("weights.safetensors", "log.jsonl", "figures.json", "samples.png")


def print_results(figures: dict[str, Any], output: Path, files: Sequence[str] = FILES) -> None:
    """Print the figures of a training, and which files are in its folder."""
    console = plain_console()
    console.print_json(json.dumps(figures))
    console.print(f"{', '.join(files)} are in {output}", soft_wrap=True)
