"""Compilation and checkpointing do not change results or keys, and compile each kind of block only once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from support.small_networks import NETWORKS, randomized
from torch import Tensor, nn
from torch._dynamo.utils import counters

from scenetok_ns.models.networks import block_execution as compilation
from scenetok_ns.models.networks.block_execution import (
    Checkpointing,
    checkpoint_for_training,
    compile_for_training,
    parts_of,
    run_block,
    set_runner,
)

every_network = pytest.mark.parametrize("name", sorted(NETWORKS))


@pytest.fixture(autouse=True)
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compile graphs as usual, but run them operation by operation, without building kernels."""
    monkeypatch.setattr(compilation, "BACKEND", "aot_eager")
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def gradients(network: nn.Module, run: Callable[[nn.Module], Tensor]) -> list[Tensor]:
    network.zero_grad()
    run(network).square().mean().backward()
    return [p.grad for p in network.parameters() if p.grad is not None]


@every_network
def test_compiled_networks_are_the_same_networks(name: str) -> None:
    make, run = NETWORKS[name]
    network = randomized(make())
    keys, expected = list(network.state_dict()), gradients(network, run)
    compile_for_training(network)
    counters.clear()
    compiled = gradients(network, run)
    assert len(compiled) == len(expected)
    for a, b in zip(compiled, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert list(network.state_dict()) == keys
    assert not counters["graph_break"]
    kinds = {"compressor": 3, "denoiser": 3, "scene_generator": 4}  # poses, blocks (the last compressor's differs), end
    assert counters["stats"]["unique_graphs"] == kinds[name], "every block was compiled on its own"
    with torch.no_grad():
        run(network)
    assert counters["stats"]["unique_graphs"] == kinds[name], "rendering compiles for its own shapes"


@pytest.mark.parametrize(
    ("checkpointing", "name"),
    [*(("selective", name) for name in sorted(NETWORKS)), ("full", "compressor")],  # its blocks return several tensors
)
def test_compiled_and_checkpointed(name: str, checkpointing: Checkpointing) -> None:
    make, run = NETWORKS[name]
    network = randomized(make())
    expected = gradients(network, run)
    checkpoint_for_training(network, checkpointing)
    compile_for_training(network)
    for a, b in zip(gradients(network, run), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@every_network
def test_a_runner_serves_training_only_and_belongs_to_its_part(name: str) -> None:
    make, run = NETWORKS[name]
    network = randomized(make())
    calls: list[nn.Module] = []

    def runner(part: nn.Module, *args: Any) -> Any:
        calls.append(part)
        return part(*args)

    for part in parts_of(network):
        part.runner = runner  # type: ignore[assignment]
    with torch.no_grad():
        run(network)
    assert calls == []
    run(network)
    assert {id(part) for part in calls} == {id(part) for part in parts_of(network)}


def test_copies_of_a_part_keep_neither_its_compiled_nor_its_fused_pass() -> None:
    """Both passes are bound to the weights of the original, so a copy must not keep them."""
    network = NETWORKS["denoiser"][0]()
    checkpoint_for_training(network, "selective")
    compile_for_training(network)
    for part in parts_of(network):
        set_runner(part, fused=lambda *args: NotImplemented)
    for part in parts_of(copy.deepcopy(network)):
        assert part.runner is not None and part.runner.compiled is None and part.runner.fused is None
        assert (part.runner.checkpointing == "selective") == part.repeated


def test_a_module_without_a_runner_is_called_as_it_is() -> None:
    layer = nn.Linear(2, 2)
    x = torch.ones(1, 2)
    assert torch.equal(run_block(layer, x), layer(x))
