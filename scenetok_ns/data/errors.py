"""Errors about data. Imports nothing heavy, so that commands can use them before torch is loaded."""

from __future__ import annotations


class DataError(ValueError):
    """A data set, or a request for some of its data, is unusable; the message is one line for the user."""


class BadScene(DataError):  # noqa: N818  a condition of the data, not of the program
    """One scene is unusable; callers with several scenes skip it and record it in `SkippedScenes`."""

    def __init__(self, reason: str, key: str = "") -> None:
        # One positional argument is enough, because DataLoader rebuilds a worker's exception from its text alone.
        super().__init__(f"scene {key}: {reason}" if key else reason)
        self.key = key
        self.reason = reason
