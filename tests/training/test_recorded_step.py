"""Recorded passes without a GPU: what a graph would record (tests/training/test_training_gpu.py takes real ones)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from support.recorded_graphs import stand_in_for_graphs
from torch import Tensor, nn

from scenetok_ns.training.recorded_step import MOST_RECORDINGS, RecordedStep, joined_gradients, parts_of


class Cast(nn.Module):
    """Layers that autocast gives half-precision weights, as `SceneTokModel.forward` does."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1, bias=False)
        self.other = nn.Linear(1, 3, bias=False)
        self.unused = nn.Parameter(torch.zeros(7))

    def forward(self, batch: Any) -> dict[str, Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            other = self.other(batch.x[:1, :1]).float().sum()
            return {"loss": self.layer(batch.x).float().sum() + 0.5 * (other - other.detach())}

    def set_weight(self, value: float) -> None:
        with torch.no_grad():
            self.layer.weight.fill_(value)


def recorded(module: nn.Module, processes: int = 1, steps: list[str] | None = None) -> RecordedStep:
    """`steps` gets what is called before each replay."""
    told: list[str] = [] if steps is None else steps
    loss: Any = SimpleNamespace(generator=torch.Generator(), prepare=lambda step: told.append(f"prepare {step}"))
    return RecordedStep(module, loss, lambda: told.append("on_step"), processes)


@pytest.fixture
def batch() -> Any:
    given = SimpleNamespace(x=torch.ones(2, 4), step=0)
    given.map, given.tensors = (lambda change: given), (lambda: (given.x,))
    return given


def test_a_pass_is_recorded_with_weights_of_its_own(monkeypatch: pytest.MonkeyPatch, batch: Any) -> None:
    """Nerfstudio's trainer has an autocast around each step, so copies of weights outlast the passes that made them."""
    model = Cast()
    model.set_weight(1.0)
    stand_in_for_graphs(monkeypatch, lambda: model.set_weight(2.0))
    with torch.autocast("cpu", enabled=False):
        recording = recorded(model)._record(batch, ())
        assert recording.outputs["loss"] == 2 * 4 * 2.0
        model.set_weight(3.0)
        assert model(batch)["loss"] == 2 * 4 * 3.0


@pytest.mark.parametrize("processes", [1, 2])
def test_gradients_are_handed_out_added_and_averaged(
    monkeypatch: pytest.MonkeyPatch, batch: Any, processes: int
) -> None:
    """The pass is recorded once, and its replays, which do nothing here, give the same gradient each time."""
    stand_in_for_graphs(monkeypatch)
    monkeypatch.setattr(dist, "get_backend", lambda: "gloo")
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: tensor.add_(100.0))  # the other's
    model, steps = Cast(), []
    step = recorded(model, processes, steps)
    first, second = model.layer.weight, model.other.weight

    def gradients() -> tuple[Tensor, Tensor]:
        assert first.grad is not None and second.grad is not None and model.unused.grad is None
        return first.grad, second.grad

    for accumulates, times in ((False, 1), (False, 1), (True, 1), (True, 2), (True, 3)):
        if (accumulates, times) == (True, 1):
            model.zero_grad(set_to_none=True)
        if times == 3:  # as when the compressor freezes amid a cycle
            step = recorded(model, processes, steps)
        steps.clear()
        step(batch, accumulates=accumulates)
        assert steps == ["prepare 0", "on_step"]
        torch.testing.assert_close(gradients(), (torch.full((1, 4), 2.0 * times), torch.full((3, 1), 0.5 * times)))
    if processes == 2:
        step.average()
        torch.testing.assert_close(gradients(), (torch.full((1, 4), 53.0), torch.full((3, 1), 50.75)))
        model.zero_grad(set_to_none=True)
        step(batch, accumulates=True)
    model.zero_grad(set_to_none=True)
    step(batch)
    torch.testing.assert_close(gradients(), (torch.full((1, 4), 2.0), torch.full((3, 1), 0.5)))


def test_gradients_of_several_processes_are_aligned_parts_of_one_tensor() -> None:
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in ((3, 5), (64,), (1,))]
    joined = joined_gradients(parameters)
    parts = parts_of(joined, parameters)
    for number, part in enumerate(parts):
        part.fill_(number + 1.0)
        assert (part.data_ptr() - joined.data_ptr()) % 256 == 0 and part.is_contiguous()
    assert [part.shape for part in parts] == [parameter.shape for parameter in parameters]
    assert joined.sum() == 15 * 1 + 64 * 2 + 3  # nothing overlaps, what lies between is zero


def failing(monkeypatch: pytest.MonkeyPatch, message: str) -> None:
    def refuse(self: RecordedStep, *args: Any) -> None:
        raise RuntimeError(message)

    monkeypatch.setattr(RecordedStep, "_record", refuse)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)


@pytest.mark.parametrize("processes", [1, 2])
def test_gradients_without_a_recording_are_those_of_one(
    monkeypatch: pytest.MonkeyPatch, batch: Any, processes: int
) -> None:
    """The exchange is also the same, because another process may have recorded its pass."""
    failing(monkeypatch, "out of memory")
    monkeypatch.setattr(dist, "get_backend", lambda: "gloo")
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: tensor.add_(100.0))  # the other's
    model = Cast()
    step = recorded(model, processes)

    def gradients() -> tuple[Tensor, ...]:
        return tuple(p.grad for p in (model.layer.weight, model.other.weight) if p.grad is not None)

    for times in (1, 2):
        outputs = step(batch, accumulates=True)
        outputs["loss"].backward()  # as trainers do; adds nothing
        torch.testing.assert_close(gradients(), (torch.full((1, 4), 2.0 * times), torch.full((3, 1), 0.5 * times)))
    assert step.unrecorded == "out of memory" and model.unused.grad is None
    if processes == 2:
        step.average()
        torch.testing.assert_close(gradients(), (torch.full((1, 4), 52.0), torch.full((3, 1), 50.5)))
    model.zero_grad(set_to_none=True)
    step(batch)
    torch.testing.assert_close(gradients(), (torch.full((1, 4), 2.0), torch.full((3, 1), 0.5)))


def test_batches_of_ever_new_shapes_are_not_recorded_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in_for_graphs(monkeypatch)
    step = recorded(Cast())

    def of_size(size: int) -> Any:
        given = SimpleNamespace(x=torch.ones(size, 4), step=0)
        given.map, given.tensors = (lambda change: given), (lambda: (given.x,))
        return given

    for size in range(1, MOST_RECORDINGS + 1):
        step(of_size(size))
        step(of_size(size))
        assert step.unrecorded is None
    step(of_size(9))
    assert step.unrecorded == f"batches change their shape: {MOST_RECORDINGS} were recorded"
    assert torch.equal(step(of_size(7))["loss"].detach(), step._module(of_size(7))["loss"].detach())
