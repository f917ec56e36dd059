"""`scenetok completion`."""

from __future__ import annotations

import importlib
import re
import sys
from contextlib import redirect_stdout
from io import StringIO
from typing import Annotated, Literal

import tyro

from scenetok_ns.cli.commands import COMMANDS


def completion(shell: Annotated[Literal["bash", "zsh"], tyro.conf.Positional]) -> None:
    """Print a script that completes commands and options in a shell.

    bash: scenetok completion bash > ~/.local/share/bash-completion/completions/scenetok
    zsh: scenetok completion zsh > _scenetok, in a folder of $fpath

    Args:
        shell: The shell to print it for.
    """
    sys.stdout.write(script(shell))


def script(shell: str) -> str:
    """Return the completion script of all commands and their options."""
    functions = {}
    for name, command in COMMANDS.items():
        module, function = command.function.split(":")
        functions[name] = getattr(importlib.import_module(module), function)
    printed = StringIO()
    try:
        with redirect_stdout(printed):
            words = ["--tyro-print-completion", shell]
            tyro.extras.subcommand_cli_from_dict(functions, prog="scenetok", args=words)
    except SystemExit as stop:
        if stop.code not in (0, None):
            raise
    # tyro may put colours into the script, which a shell could not read.
    return re.sub(r"\x1b\[[0-9;]*m", "", printed.getvalue())
