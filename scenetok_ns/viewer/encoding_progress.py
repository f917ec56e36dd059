"""Report the progress of an encoding through forward hooks, without changes to the networks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn

from scenetok_ns.models.flow.sampling import OnStep
from scenetok_ns.models.networks.compressor import Compressor


@contextlib.contextmanager
def reported_encoding(compressor: Compressor, report: OnStep) -> Iterator[None]:
    """Report the steps of an encoding inside the `with` block: the photographs' latents, then each compressor block.

    `report(done, total)` is called in the thread that encodes, first with 0 and finally with the total, even after an
    error. The CUDA engine runs copies of the networks, so nothing is reported in between.
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
