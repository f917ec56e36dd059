"""The option of the C library that keeps a viewer's memory flat."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from scenetok_ns.viewer.memory import ARENAS, limit_arenas

COUNT = """
import ctypes, re, threading, sys
from scenetok_ns.viewer.memory import limit_arenas
if sys.argv[1] == "limited":
    assert limit_arenas()
library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
together = threading.Barrier(12)
def work():
    library.malloc(1000)
    together.wait()
threads = [threading.Thread(target=work) for _ in range(12)]
for thread in threads: thread.start()
for thread in threads: thread.join()
library.malloc_stats()
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="the C library is not glibc")
def test_threads_share_a_few_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    pools = {}
    for mode in ("limited", "free"):
        done = subprocess.run([sys.executable, "-c", COUNT, mode], check=True, capture_output=True, text=True)
        pools[mode] = done.stderr.count("Arena ")
    assert pools["limited"] <= ARENAS < pools["free"]


def test_who_has_chosen_is_asked_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "4")
    assert not limit_arenas()
