"""The help that tyro prints, without its notes on options that have no value."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO

STYLE = r"\x1b\[[0-9;]*m"
NONE = re.compile(rf"(\(default:)((?:{STYLE}|[ \n│])*)((?:None)?\))")
CHOICE, LITERAL = re.compile(r"(\{None\}\|)(\S+(?: \S+)*)"), re.compile(r"(None,)((?<=\{None,)\S+)")
GONE = "\0"
"""Stands for a character that was removed, until it is known whether its line goes, too."""
EMPTIED = re.compile(rf"^(?=[^\n]*{GONE})(?:{STYLE}|[ │{GONE}])*\n", re.MULTILINE)


def tidy(text: str) -> str:
    """Remove `(default: None)`, `(default: )` and the choice of None from a help text.

    The text of the option says what happens without it. Lines keep their width, so that boxes stay whole; lines with
    nothing else go.
    """
    text = NONE.sub(lambda found: GONE * len(found[1]) + found[2] + GONE * len(found[3]), text)
    for choice in (CHOICE, LITERAL):
        text = choice.sub(lambda found: found[2] + GONE * len(found[1]), text)
    return EMPTIED.sub("", text).replace(GONE, " ")


class _Captured(StringIO):
    """A text that looks like the terminal, so that it gets the colours that the terminal would."""

    def isatty(self) -> bool:
        return sys.__stdout__ is not None and sys.__stdout__.isatty()


@contextmanager
def tidied() -> Iterator[None]:
    """Tidy what is printed inside."""
    outside, captured = sys.stdout, _Captured()
    sys.stdout = captured
    try:
        yield
    finally:
        sys.stdout = outside
        print(tidy(captured.getvalue()), end="", flush=True)
