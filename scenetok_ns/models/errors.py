"""Errors about weight files. This module imports nothing heavy, so that commands can catch them before torch loads."""

from __future__ import annotations


class CheckpointError(ValueError):
    """Raised for a checkpoint that cannot be used; the message names the file and the problem."""
