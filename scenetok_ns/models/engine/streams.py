"""Where and how the engine's work is run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def working(stream: torch.cuda.Stream | None) -> Iterator[None]:
    """Without gradients, on `stream` where there is one. Never to span a yield: it would leak into the caller."""
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        if stream is not None:
            stack.enter_context(torch.cuda.stream(stream))
        yield
