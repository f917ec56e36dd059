"""Suggest a known name for a misspelt one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

MANY = 5000
"""Number of names above which most are left out, because comparing with all takes seconds."""
SAME_START = 3
"""Number of first characters that a name must share with the misspelt one, if there are more than `MANY` names."""
SIMILAR_LENGTH = 2
"""Maximum difference of their lengths in that case."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean NAME?)" with the most similar known name, to add to a message; "" if none is similar.

    Among more than `MANY` names, only names with the same first characters and a similar length are compared. If these
    are still too many, there is no suggestion.
    """
    near = _nearest(name, known)
    return f" (did you mean {near}?)" if near is not None else ""


def did_you_mean_path(path: Path, names: Iterable[str] = ()) -> str:
    """Return a suggestion like `did_you_mean` for a path that does not exist.

    Compares the first missing part of the path with its neighbours on the disk, and, if the path is a bare name, with
    `names`.
    """
    missing = path
    while not missing.parent.is_dir() and missing.parent != missing:
        missing = missing.parent
    try:
        there = [entry.name for entry in missing.parent.iterdir()] if missing.parent.is_dir() else []
    except OSError:
        there = []
    if len(path.parts) <= 1:
        return did_you_mean(str(path), [*names, *there])
    near = _nearest(missing.name, there)
    if near is None:
        return ""
    whole = missing.parent / near / path.relative_to(missing)
    return f" (did you mean {whole if whole.exists() else missing.parent / near}?)"


def _nearest(name: str, known: Iterable[str]) -> str | None:
    name, folded = name.lower(), {other.lower(): other for other in known}
    if len(folded) > MANY:
        start = name[:SAME_START]
        folded = {
            key: other
            for key, other in folded.items()
            if key.startswith(start) and abs(len(key) - len(name)) <= SIMILAR_LENGTH
        }
        if len(folded) > MANY:
            return None
    near = difflib.get_close_matches(name, folded, 1)
    return folded[near[0]] if near else None
