"""Return of free memory to the system."""

from __future__ import annotations

import ctypes
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scenetok_ns.viewer import memory
from scenetok_ns.viewer.memory import LARGE, SpareMemory

BLOCK, COUNT = 100_000, 600


def resident() -> float:
    """Resident memory of this process in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("VmRSS:"))


needs_glibc = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="no glibc")


@needs_glibc
def test_free_memory_below_used_memory_is_returned_but_not_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    library, spare = ctypes.CDLL(None), SpareMemory()
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    blocks = [library.malloc(BLOCK) for _ in range(COUNT)]
    for block in blocks:
        ctypes.memset(block, 1, BLOCK)
    for block in blocks[:-1]:
        library.free(block)
    before = resident()
    monkeypatch.setattr(memory, "PAUSE", math.inf)
    assert not spare.maybe_return() and resident() > before - 10
    monkeypatch.setattr(memory, "PAUSE", 0.0)
    assert spare.maybe_return() and resident() < before - 0.7 * BLOCK * COUNT / 1e6
    library.free(blocks[-1])


IN_A_NEW_PROCESS = """
import ctypes
from scenetok_ns.viewer.memory import LARGE, keep_large_blocks_out_of_pools

class Usage(ctypes.Structure):  # glibc's struct mallinfo2
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

kept_out = keep_large_blocks_out_of_pools()
library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.argtypes, library.mallinfo2.restype = [ctypes.c_void_p], Usage
library.free(library.malloc(20 * LARGE))  # raises the usual threshold
before = library.mallinfo2().hblks
block = library.malloc(2 * LARGE)
print(kept_out, library.mallinfo2().hblks - before)
"""
"""Blocks of a process that has worked before may find a place in one of its pools."""


@needs_glibc
@pytest.mark.parametrize("threshold", [None, str(64 * LARGE)])
def test_large_blocks_are_in_no_pool_even_after_larger_ones(threshold: str | None) -> None:
    """Blocks of their own are counted. A threshold that the user has set stays."""
    own = {} if threshold is None else {"MALLOC_MMAP_THRESHOLD_": threshold}
    environment = {key: value for key, value in os.environ.items() if key != "MALLOC_MMAP_THRESHOLD_"} | own
    words = [sys.executable, "-c", IN_A_NEW_PROCESS]
    found = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.split() == (["True", "1"] if threshold is None else ["False", "0"])
