"""Recorded passes without a GPU: what a graph would record (tests/test_training_gpu.py takes real ones)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from scenetok_ns.recorded_step import RecordedStep


class Cast(nn.Module):
    """A layer that autocast gives a half-precision weight, as `SceneTokModel.forward` does."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1, bias=False)
        self.training_loss = SimpleNamespace(generator=torch.Generator())

    def forward(self, batch: Any) -> dict[str, Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            return {"loss": self.layer(batch.x).float().sum()}

    def set_weight(self, value: float) -> None:
        with torch.no_grad():
            self.layer.weight.fill_(value)


@pytest.fixture
def batch() -> Any:
    given = SimpleNamespace(x=torch.ones(2, 4), step=0)
    given.map, given.tensors = (lambda change: given), (lambda: (given.x,))
    return given


def test_a_pass_is_recorded_with_weights_of_its_own(monkeypatch: pytest.MonkeyPatch, batch: Any) -> None:
    """Nerfstudio's trainer has an autocast around each step, so copies of weights outlast the passes that made them."""
    model = Cast()
    model.set_weight(1.0)

    @contextmanager
    def graph(*args: Any, **options: Any) -> Iterator[None]:
        model.set_weight(2.0)
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
    with torch.autocast("cpu", enabled=False):
        recording = RecordedStep(model)._record(batch, ())  # type: ignore[arg-type]
        assert recording.outputs["loss"] == 2 * 4 * 2.0
        model.set_weight(3.0)
        assert model(batch)["loss"] == 2 * 4 * 3.0
