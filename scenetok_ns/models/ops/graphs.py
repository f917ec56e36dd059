"""CUDA graphs of steps that work on buffers which stay where they are."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


class StepGraphs:
    """Graphs by name.

    All graphs share one memory pool, since they never run at the same time. To be used from one thread, on the
    current stream, which must not be the default one.
    """

    def __init__(self) -> None:
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def capture(self, name: Hashable, function: Callable[[], None]) -> None:
        """Run `function` once as it is, so that libraries set themselves up, then capture it."""
        if name in self._graphs:
            return
        function()
        graph = torch.cuda.CUDAGraph()
        # Other threads may go on using the device meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            function()
        self._graphs[name] = graph

    def replay(self, name: Hashable) -> None:
        self._graphs[name].replay()


KEPT = 6
"""Shapes and settings whose graphs are kept; one more, and all are captured afresh when they are next needed."""


@dataclass
class _Buffers:
    """What a graph reads and writes."""

    given: Tensor
    made: Tensor


class Replayed:
    """Calls `function(x, *settings)`, which gives one tensor and must not wait for the device.

    There is one graph for each shape and dtype of `x` and each of the settings; all share their memory. Results are
    copies. To be used from one thread and on one stream at a time.
    """

    def __init__(self, function: Callable[..., Tensor], *, rows: int | None = None) -> None:
        """rows: `x` may have up to this many rows, which share nothing, and one graph serves them all; it always works
        on this many."""
        self._function, self._rows = function, rows
        self._start_afresh()

    def __call__(self, x: Tensor, *settings: Hashable) -> Tensor:
        shape = x.shape if self._rows is None else (self._rows, *x.shape[1:])
        key = (tuple(shape), x.dtype, *settings)
        buffers = self._buffers.get(key)
        if buffers is None:
            if len(self._buffers) >= KEPT:
                self._start_afresh()
            given = x.new_zeros(shape)
            self._buffers[key] = buffers = _Buffers(given, given)
            self._capture(key, buffers, settings)
        buffers.given[: len(x)].copy_(x)
        self._graphs.replay(key)
        return buffers.made[: len(x)].clone() if self._rows is not None else buffers.made.clone()

    def _capture(self, key: Hashable, buffers: _Buffers, settings: tuple[Hashable, ...]) -> None:
        def run() -> None:
            buffers.made = self._function(buffers.given, *settings)

        self._graphs.capture(key, run)

    def _start_afresh(self) -> None:
        self._buffers: dict[Hashable, _Buffers] = {}
        self._graphs = StepGraphs()


@contextmanager
def working(stream: torch.cuda.Stream | None) -> Iterator[None]:
    """Without gradients, on `stream` where there is one. Never to span a yield: it would leak into the caller."""
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        if stream is not None:
            stack.enter_context(torch.cuda.stream(stream))
        yield
