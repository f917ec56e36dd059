"""Return unused memory of the C library to the system."""

from __future__ import annotations

import ctypes
import functools
import os
import time
from collections.abc import Callable

PAUSE = 5.0
"""Minimum seconds between two returns of memory."""


MMAP_THRESHOLD, LARGE = -3, 2**20
"""glibc's name M_MMAP_THRESHOLD for an option, and the size in bytes from which a block is not part of a pool."""


def keep_large_blocks_out_of_pools() -> bool:
    """Let glibc return each large block to the system as soon as it is freed; return whether it does.

    By default, glibc raises the threshold to the size of freed blocks, up to 32 MiB, so that pools hold all tensors.
    Nothing changes if the user has set MALLOC_MMAP_THRESHOLD_. Other C libraries have no such option.
    """
    library = ctypes.CDLL(None) if os.name == "posix" else None
    if "MALLOC_MMAP_THRESHOLD_" in os.environ or not hasattr(library, "gnu_get_libc_version"):
        return False
    return bool(library.mallopt(MMAP_THRESHOLD, LARGE))  # type: ignore[union-attr]


class SpareMemory:
    """Returns free memory to the system from time to time.

    glibc keeps a pool of memory for each of many threads. Other threads do not use memory that one thread has freed,
    and the pool only shrinks at its end. A viewer has threads for its browsers, messages and videos, so after some
    minutes its pools would hold hundreds of MiB of free memory.
    """

    def __init__(self) -> None:
        self._returned = time.monotonic()

    def maybe_return(self) -> bool:
        """Return memory if the last time is `PAUSE` seconds ago. Returns whether some was returned."""
        trim = _malloc_trim()
        if trim is None or time.monotonic() < self._returned + PAUSE:
            return False
        released = trim(0)
        self._returned = time.monotonic()
        return bool(released)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    """The function of the C library; None: this library has none."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
