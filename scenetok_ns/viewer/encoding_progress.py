"""How far the encoding of photographs is, as seen from outside: nothing in the networks changes for it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn

from scenetok_ns.models.flow.sampling import OnStep
from scenetok_ns.models.networks.compressor import Compressor


@contextlib.contextmanager
def reported_encoding(compressor: Compressor, report: OnStep) -> Iterator[None]:
    """Report the steps of an encoding inside the block: the photographs' latents, then each block of the compressor.

    `report(done, total)` is called in the thread that encodes, first with 0 and at last with the total, also after an
    error. The engine on CUDA runs copies of the networks: then nothing comes in between.
    """
    parts: list[nn.Module] = [compressor.y_embed, *compressor.aggregate]
    total, done = len(parts), 0

    def passed(*args: Any) -> None:
        nonlocal done
        done += 1
        if done < total:
            report(done, total)

    hooks = [part.register_forward_hook(passed) for part in parts]
    report(0, total)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        report(total, total)
