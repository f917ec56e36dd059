"""Print tyro's help without its notes on options that have no default value."""

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
"""Placeholder for a removed character, until it is known whether its whole line is removed, too."""
EMPTIED = re.compile(rf"^(?=[^\n]*{GONE})(?:{STYLE}|[ │{GONE}])*\n", re.MULTILINE)


def tidy(text: str) -> str:
    """Remove `(default: None)`, `(default: )` and the choice of None from a help text.

    The help of an option says in words what happens without the option. Lines keep their width, so that boxes stay
    intact; lines that become empty are removed.
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
    """Tidy everything that is printed inside the `with` block."""
    outside, captured = sys.stdout, _Captured()
    sys.stdout = captured
    try:
        yield
    finally:
        sys.stdout = outside
        print(tidy(captured.getvalue()), end="", flush=True)
