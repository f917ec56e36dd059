"""Calls use the right graph, checked with a stand-in for CUDA graphs that records and calls functions."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import pytest
import torch
from torch import Tensor

from scenetok_ns.models.ops import graphs as module
from scenetok_ns.models.ops.graphs import KEPT, Replayed


class Recorded:
    """Stand-in for `StepGraphs`."""

    captures = 0

    def __init__(self) -> None:
        self._functions: dict[Hashable, Callable[[], None]] = {}

    def capture(self, name: Hashable, function: Callable[[], None]) -> None:
        Recorded.captures += 1
        self._functions[name] = function

    def replay(self, name: Hashable) -> None:
        self._functions[name]()


@pytest.fixture(autouse=True)
def graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "StepGraphs", Recorded)
    Recorded.captures = 0


def double(x: Tensor, added: int = 0) -> Tensor:
    return 2 * x + added


def test_one_graph_for_each_shape_and_setting() -> None:
    run = Replayed(double)
    for x, added in ((torch.ones(2), 0), (torch.zeros(2), 0), (torch.ones(3), 0), (torch.ones(2), 1)):
        assert torch.equal(run(x, added), double(x, added))
    assert Recorded.captures == 3


def test_results_are_the_callers() -> None:
    run = Replayed(double)
    first = run(torch.ones(2))
    run(torch.zeros(2))
    assert first.tolist() == [2, 2]


def test_fewer_rows_share_a_graph() -> None:
    run = Replayed(double, rows=3)
    for count in (3, 1, 2):
        x = torch.rand(count, 4)
        assert torch.equal(run(x), double(x))
    assert Recorded.captures == 1


def test_the_number_of_graphs_is_bounded() -> None:
    run = Replayed(double)
    for size in range(1, KEPT + 2):
        run(torch.ones(size))
    assert len(run._buffers) == 1
    assert torch.equal(run(torch.ones(1)), double(torch.ones(1)))
