"""CUDA graphs of steps that work on buffers which stay where they are."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch


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
