"""Print for people: paths and names as they are, and commands to copy.

Rich takes `[old]` for markup and `:smile:` for a picture, and both may be parts of a path; nothing here does.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from rich.console import Console
from rich.progress import TextColumn

from scenetok_ns.tools.quiet import is_quiet


def command(*words: object) -> str:
    """Quote a command for a shell: paths with spaces, quotes or brackets in them stay whole, those with a dash are
    paths."""
    return shlex.join(
        f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word) for word in words
    )


def plain_console(*, stderr: bool = False) -> Console:
    """A console that prints strings as they are. (Of `status` that isn't true: give it a rich.text.Text.)"""
    return Console(stderr=stderr, markup=False, emoji=False, quiet=is_quiet())


def description_column() -> TextColumn:
    """A progress bar's description as it is."""
    return TextColumn("{task.description}", markup=False)


def print_line(line: str, style: str | None = None) -> None:
    """Print a line as it is on the console that Nerfstudio's tools print on."""
    from nerfstudio.utils.rich_utils import CONSOLE  # importing it takes seconds

    if is_quiet():
        return
    CONSOLE.print(line, style=style, soft_wrap=True, markup=False, emoji=False)
