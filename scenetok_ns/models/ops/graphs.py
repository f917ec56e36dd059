"""CUDA graphs: capture and replay work on buffers whose addresses do not change."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def warm_up(function: Callable[[], object], times: int) -> None:
    """Run `function` on a side stream, so that libraries choose kernels and memory before `capture` records it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(times):
            function()
    torch.cuda.current_stream().wait_stream(stream)


def capture(
    function: Callable[[], T],
    *,
    generators: Iterable[torch.Generator] = (),
    pool: Any = None,
    stream: torch.cuda.Stream | None = None,
) -> tuple[torch.cuda.CUDAGraph, T]:
    """Record `function` as a CUDA graph. Other threads may use the device meanwhile.

    Args:
        function: Work on tensors whose addresses do not change. It must have run before (`warm_up`), and must not wait
            for the device.
        generators: Random generators on the device that `function` uses; each replay draws new numbers.
        pool: Memory pool to share with other graphs that never run at the same time. None: a separate pool.
        stream: Stream to record on. None: a stream that all captures share. Memory freed on one stream is not reused on
            another.

    Returns:
        The graph, and the result of `function`, whose tensors each replay overwrites.
    """
    # A surrounding autocast caches its casts of weights. The graph must cast them itself, or each replay would use the
    # old ones. Nor may later code use the graph's casts.
    torch.clear_autocast_cache()
    graph = torch.cuda.CUDAGraph()
    for generator in generators:
        graph.register_generator_state(generator)
    with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
        result = function()
    torch.clear_autocast_cache()
    return graph, result


class StepGraphs:
    """CUDA graphs by name. They share a memory pool, because they never run at the same time.

    Use an object from one thread, on the current stream, which must not be the default one.
    """

    def __init__(self) -> None:
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def capture(self, name: Hashable, function: Callable[[], None]) -> None:
        """Run `function` once and record it, unless there already is a graph of this name."""
        if name in self._graphs:
            return
        function()
        self._graphs[name], _ = capture(function, pool=self._pool)

    def replay(self, name: Hashable) -> None:
        self._graphs[name].replay()


KEPT = 6
"""Maximum number of graphs, for different shapes and settings, that are kept. One more drops them all."""


@dataclass
class _Buffers:
    """Tensors that a graph reads and writes."""

    given: Tensor
    made: Tensor


class Replayed:
    """A function of one tensor that runs as a CUDA graph: `replayed(x, *settings)` is `function(x, *settings)`.

    There is a graph for each combination of settings with shape and dtype of `x`; all graphs share their memory.
    Results are copies. Use an object from one thread and on one stream at a time.
    """

    def __init__(self, function: Callable[..., Tensor], *, rows: int | None = None) -> None:
        """Wrap a function that returns one tensor and does not wait for the device.

        `rows` is the maximum number of rows of `x`. The function must then treat rows independently: a single graph
        always works on this many rows, even if `x` has fewer. None: there is a graph for each number of rows.
        """
        self._function, self._rows = function, rows
        self._drop_all()

    def __call__(self, x: Tensor, *settings: Hashable) -> Tensor:
        shape = x.shape if self._rows is None else (self._rows, *x.shape[1:])
        key = (tuple(shape), x.dtype, *settings)
        buffers = self._buffers.get(key)
        if buffers is None:
            if len(self._buffers) >= KEPT:
                self._drop_all()
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

    def _drop_all(self) -> None:
        self._buffers: dict[Hashable, _Buffers] = {}
        self._graphs = StepGraphs()


@contextmanager
def working(stream: torch.cuda.Stream | None) -> Iterator[None]:
    """Turn gradients off and use `stream`, if there is one. Do not yield inside: both would leak into the caller."""
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        if stream is not None:
            stack.enter_context(torch.cuda.stream(stream))
        yield
