"""Choose how idle threads of torch wait on a CPU."""

from __future__ import annotations

import os

CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""OpenMP variables with which users choose the waiting themselves; if one is set, nothing is changed."""


def let_idle_threads_sleep() -> None:
    """Have OpenMP's threads sleep, not spin, while they wait for work, unless the environment says otherwise.

    Spinning threads occupy cores that another process needs, which makes rendering several times slower
    (docs/performance.md). OpenMP reads the variable when torch is imported, so call this before. A later call affects
    only the processes that this one starts.
    """
    if not any(name in os.environ for name in CHOICES):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
