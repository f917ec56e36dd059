"""The help that tyro prints, without what it says of options that have no value of their own."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO

STYLE = r"\x1b\[[0-9;]*m"
NONE = re.compile(rf"\(default:((?:{STYLE}|[ \n│])*)None\)")
CHOICE = re.compile(r"\{None\}\|(\S+)")
LITERAL = re.compile(r"\{None,(\S+)")
BLANK = re.compile(rf"^(?:{STYLE})*│(?:{STYLE}| )*│(?:{STYLE})*\n", re.MULTILINE)
"""A line of a box with nothing in it."""
ALONE = re.compile(rf"^(?:{STYLE}| )*\(default: None\)(?:{STYLE}| )*\n", re.MULTILINE)
"""A line outside of boxes with nothing else in it."""


def tidy(text: str) -> str:
    """Remove `(default: None)` and the choice of None from a help text: what happens without the option, its text says.

    Lines keep their width, so that boxes stay whole.
    """
    text = ALONE.sub("", text)
    text = NONE.sub(lambda found: " " * len("(default:") + found[1] + " " * len("None)"), text)
    text = LITERAL.sub(lambda found: "{" + found[1] + " " * len("None,"), text)
    text = CHOICE.sub(lambda found: found[1] + " " * len("{None}|"), text)
    return BLANK.sub("", text)


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
