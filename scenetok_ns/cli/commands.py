"""Commands that are printed to be copied."""

from __future__ import annotations

import shlex

from rich.markup import escape


def command(*words: object) -> str:
    """What a shell takes and rich prints: paths with spaces, quotes or brackets in them stay whole."""
    return escape(shlex.join(str(word) for word in words))
