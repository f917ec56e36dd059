"""Complaints about files of weights. Imports nothing heavy: commands know them before anything is loaded."""

from __future__ import annotations


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names file and problem."""
