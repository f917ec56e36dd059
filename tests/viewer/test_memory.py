"""Return of free memory to the system."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from scenetok_ns.viewer import memory
from scenetok_ns.viewer.memory import LARGE, SpareMemory, keep_large_blocks_out_of_pools

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
    assert not spare.maybe_return() and resident() > before - 10
    monkeypatch.setattr(memory, "PAUSE", 0.0)
    assert spare.maybe_return() and resident() < before - 0.7 * BLOCK * COUNT / 1e6
    library.free(blocks[-1])


class Usage(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    NAMES = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    _fields_ = [(name, ctypes.c_size_t) for name in NAMES]


@needs_glibc
def test_large_blocks_are_in_no_pool_even_after_larger_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "1")
    assert not keep_large_blocks_out_of_pools()  # the user's choice
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_")
    assert keep_large_blocks_out_of_pools()
    library = ctypes.CDLL(None)
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.argtypes, library.mallinfo2.restype = [ctypes.c_void_p], Usage
    library.free(library.malloc(20 * LARGE))  # raises the usual threshold
    before = library.mallinfo2().hblks
    block = library.malloc(2 * LARGE)
    assert library.mallinfo2().hblks == before + 1
    library.free(block)
