"""How idle threads of torch wait on a CPU."""

from __future__ import annotations

import os

CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Variables of OpenMP by which a user chooses; one of them is enough."""


def let_idle_threads_sleep() -> None:
    """Have OpenMP's threads sleep, not spin, while they wait for work, unless the environment says otherwise.

    Spinning threads hold the cores that another process needs, and rendering is then several times slower
    (docs/performance.md). OpenMP reads the variable when torch is imported: this must be called before. A later call
    affects only the processes that this one starts.
    """
    if not any(name in os.environ for name in CHOICES):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
