"""Return of free memory to the system."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from scenetok_ns.viewer import memory
from scenetok_ns.viewer.memory import SpareMemory

BLOCK, COUNT = 100_000, 600


def resident() -> float:
    """Resident memory of this process in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("VmRSS:"))


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="the C library is not glibc")
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
    assert not spare.maybe_return() and resident() > before - 10
    monkeypatch.setattr(memory, "PAUSE", 0.0)
    assert spare.maybe_return() and resident() < before - 0.7 * BLOCK * COUNT / 1e6
    library.free(blocks[-1])
