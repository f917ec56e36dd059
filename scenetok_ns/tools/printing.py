"""Print paths and names unchanged, and commands that users can copy.

Rich reads `[old]` as markup and `:smile:` as an emoji, and a path may contain both. The functions here switch that off.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from rich.console import Console
from rich.progress import TextColumn

from scenetok_ns.tools.quiet import is_quiet


def command(*words: object) -> str:
    """Join the words of a command, quoted for a shell. A Path that starts with a dash gets `./` in front."""
    return shlex.join(
        f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word) for word in words
    )


def plain_console(*, stderr: bool = False) -> Console:
    """A console that prints strings without markup. Its `status` still reads markup: give that a rich.text.Text."""
    return Console(stderr=stderr, markup=False, emoji=False, quiet=is_quiet())


def description_column() -> TextColumn:
    """Progress bar column that displays the description without markup."""
    return TextColumn("{task.description}", markup=False)


def print_line(line: str, style: str | None = None) -> None:
    """Print a line without markup on the console that Nerfstudio's tools use."""
    from nerfstudio.utils.rich_utils import CONSOLE  # importing it takes seconds

    if is_quiet():
        return
    CONSOLE.print(line, style=style, soft_wrap=True, markup=False, emoji=False)
