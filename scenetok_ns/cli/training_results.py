"""Log and last line of a training run of a bundled model, shared by the three `scenetok train-tiny` commands."""

from __future__ import annotations

import logging
from pathlib import Path

from scenetok_ns.tools.printing import plain_console
from scenetok_ns.tools.quiet import is_quiet


def show_log() -> None:
    """Let the training's log messages appear on the terminal."""
    logging.basicConfig(level=logging.WARNING if is_quiet() else logging.INFO, format="%(message)s")


def print_files(files: str, output: Path) -> None:
    """Print the files that a training run has written."""
    plain_console().print(f"{files} are in {output}", soft_wrap=True)
