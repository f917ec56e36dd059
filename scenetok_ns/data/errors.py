"""Errors about data. Imports nothing heavy, so that commands can use them before torch is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from scenetok_ns.tools.suggestions import did_you_mean

SHOWN = 5
"""Maximum number of scenes that a message names."""


class DataError(ValueError):
    """A data set, or a request for some of its data, is unusable; the message is one line for the user."""


class BadScene(DataError):  # noqa: N818  a condition of the data, not of the program
    """One scene is unusable; callers with several scenes skip it and record it in `SkippedScenes`."""

    def __init__(self, reason: str, key: str = "") -> None:
        # One positional argument is enough, because DataLoader rebuilds a worker's exception from its text alone.
        super().__init__(f"scene {key}: {reason}" if key else reason)
        self.key = key
        self.reason = reason


def no_such_scene(name: str, keys: Sequence[str], split: str, data: Path) -> DataError:
    """Describe that a split of a data set has no scene of this name, with a similar name and the first ones."""
    there = ", ".join(keys[:SHOWN]) + (", ..." if len(keys) > SHOWN else "")
    meant = did_you_mean(name, keys)
    return DataError(f"there is no scene {name!r}{meant} in the {split} split of {data}; it has {there or 'no scenes'}")
