"""Run `scenetok` commands in this process, as a user types them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scenetok_ns.cli.main import entrypoint


def scenetok(command: str, *words: Any, **options: Any) -> None:
    """Run a command: the given words, then each `option=value` as `--option value`."""
    flags = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    entrypoint([command, *map(str, words), *flags])


def failure(command: str, *words: Any, **options: Any) -> str:
    """Run a command that must fail. Returns its one line."""
    with pytest.raises(SystemExit) as stop:
        scenetok(command, *words, **options)
    assert stop.value.code in (1, 2) and "\n" not in str(stop.value)
    return str(stop.value)


FILES = ("checkpoint", "data", "output", "run", "tokenizer", "tokens", "vavae")
"""Options whose values name files."""


def scenetok_in(folder: Path, command: str, *words: Any, **options: Any) -> None:
    """Run a command; values of options that name files become paths in `folder`."""
    scenetok(command, *words, **_in_folder(folder, options))


def failure_in(folder: Path, command: str, *words: Any, **options: Any) -> str:
    """Like `failure`; values of options that name files become paths in `folder`."""
    return failure(command, *words, **_in_folder(folder, options))


def _in_folder(folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    return {
        name: folder / value if name in FILES or str(value).endswith(".yaml") else value
        for name, value in options.items()
    }
