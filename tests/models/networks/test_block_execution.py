"""Compiled blocks and checkpointing: the same results, one compilation for each kind of block, the same keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from support.small_networks import NETWORKS, randomized
from torch import Tensor, nn
from torch._dynamo.utils import counters

from scenetok_ns.models.networks import block_execution as compilation
from scenetok_ns.models.networks.block_execution import Checkpointing, compile_for_training

every_network = pytest.mark.parametrize("name", sorted(NETWORKS))


@pytest.fixture(autouse=True)
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Graphs are made as always, and run operation by operation."""
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
    compile_for_training(network.compilable())
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


@every_network
@pytest.mark.parametrize("checkpointing", ["selective", "full"])
def test_compiled_and_checkpointed(name: str, checkpointing: Checkpointing) -> None:
    make, run = NETWORKS[name]
    network = randomized(make())
    expected = gradients(network, run)
    network.set_gradient_checkpointing(checkpointing)
    compile_for_training(network.compilable())
    for a, b in zip(gradients(network, run), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
