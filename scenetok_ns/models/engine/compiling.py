"""Whether and when the blocks are compiled: compiling costs seconds, and saves milliseconds a step."""

from __future__ import annotations

import logging
import os
from functools import cache
from pathlib import Path

import torch

from scenetok_ns.models.engine import trunk
from scenetok_ns.models.engine.options import CompilePolicy

logger = logging.getLogger(__name__)

WORTH_COMPILING = 3000
"""Forwards of the network after which compiling has paid for itself (docs/performance.md)."""


class BlockCompiler:
    """Decides between plain and compiled blocks by the work that has been asked for so far, this job included.

    As with skis, rented until they have cost what a pair costs: nobody waits more than about twice as long as with
    the best choice in hindsight.
    """

    def __init__(self, policy: CompilePolicy) -> None:
        self._policy, self._forwards, self._compiled = policy, 0, False

    def block(self, forwards: int) -> tuple[trunk.RunBlock, bool]:
        """What runs a block, given that it is about to run that many more times, and whether that has just changed."""
        self._forwards += forwards
        worth = self._policy == "always" or (self._policy == "auto" and self._forwards >= WORTH_COMPILING)
        changed = worth and not self._compiled
        if changed:
            self._compiled = True
            use_compile_cache()
            logger.info("compiling the blocks of the network; this takes up to a minute, once for this machine")
        return (compiled_block() if self._compiled else trunk.block_forward), changed


@cache
def compiled_block() -> trunk.RunBlock:
    """One function for all blocks, so that it is compiled once."""
    return torch.compile(trunk.block_forward, fullgraph=True, dynamic=False)


def use_compile_cache() -> None:
    """Keep compiled code between processes, unless the user has said where: torch's own place is emptied at reboot."""
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(home / "scenetok_ns" / "inductor"))
