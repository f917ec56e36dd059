"""A stand-in for CUDA graphs on a machine without CUDA, for tests of recorded code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import pytest
import torch


def stand_in_for_graphs(monkeypatch: pytest.MonkeyPatch, before: Callable[[], None] = lambda: None) -> None:
    """Replace CUDA graphs: recorded code runs directly, after `before`, and a replay does nothing."""

    @contextmanager
    def graph(*args: Any, **options: Any) -> Iterator[None]:
        before()
        yield

    stream = mock.Mock()
    for name, stand_in in (
        ("Stream", lambda: stream),
        ("stream", lambda _: nullcontext()),
        ("current_stream", lambda: stream),
        ("CUDAGraph", mock.Mock()),
        ("graph", graph),
    ):
        monkeypatch.setattr(torch.cuda, name, stand_in)
