"""Low-rank adapters change nothing at first, give the same result merged, and are the only ones with gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.networks.adapters import LowRankAdapters, adapted_layers
from scenetok_ns.models.networks.block_execution import checkpoint_for_training
from scenetok_ns.models.networks.denoiser import Denoiser
from scenetok_ns.models.presets import load_preset

PRESET = Path(__file__).parents[2] / "support" / "tiny_preset.yaml"


def network() -> tuple[Denoiser, LowRankAdapters]:
    torch.manual_seed(0)
    denoiser = Denoiser.from_preset(load_preset(str(PRESET)))
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape))
    return denoiser.requires_grad_(False), LowRankAdapters(denoiser, rank=3)


def run(denoiser: Denoiser) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 2, *denoiser.latent_shape, generator=generator)
    cameras = CameraBatch(torch.eye(4).repeat(2, 8, 1, 1), torch.eye(3).repeat(2, 8, 1, 1))
    state = denoiser.project(torch.randn(2, 8, 4, generator=generator))
    return denoiser(latents, cameras, torch.full((2, 2), 500.0), state)


def stir(adapters: LowRankAdapters) -> None:
    with torch.no_grad():
        for parameter in adapters.up.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape))


def test_they_begin_as_nothing_and_can_be_switched_off() -> None:
    denoiser, adapters = network()
    plain = run(denoiser)
    adapters.enabled = True
    assert torch.equal(run(denoiser), plain)
    stir(adapters)
    assert (run(denoiser) - plain).abs().max() > 0.1
    adapters.enabled = False
    assert torch.equal(run(denoiser), plain)


def test_a_merged_copy_does_the_same_by_itself() -> None:
    denoiser, adapters = network()
    stir(adapters)
    adapters.enabled = True
    merged = adapters.merged(denoiser)
    expected = run(denoiser)
    stir(adapters)  # must not change the copy
    torch.testing.assert_close(run(merged), expected, atol=1e-5, rtol=1e-4)
    assert denoiser.state_dict().keys() == merged.state_dict().keys()
    assert {type(layer) for layer in adapted_layers(merged).values()} == {torch.nn.Linear}


@pytest.mark.parametrize("checkpointing", ["none", "full"])
def test_gradients_are_those_of_the_merged_weights(checkpointing: str) -> None:
    """The gradients also hold if blocks are recomputed in the backward pass."""
    denoiser, adapters = network()
    checkpoint_for_training(denoiser, checkpointing)  # type: ignore[arg-type]
    stir(adapters)
    adapters.enabled = True
    run(denoiser).square().mean().backward()
    merged = adapters.merged(denoiser).requires_grad_(True)
    checkpoint_for_training(merged, "none")
    run(merged).square().mean().backward()
    for name, layer in adapted_layers(merged).items():
        key = name.replace(".", "/")
        assert layer.weight.grad is not None
        torch.testing.assert_close(
            adapters.up[key].grad, layer.weight.grad @ adapters.down[key].mT, atol=1e-5, rtol=1e-3
        )
    assert all(parameter.grad is None for parameter in denoiser.parameters())


def test_layers_of_conditions_are_left_alone() -> None:
    denoiser, _ = network()
    names = list(adapted_layers(denoiser))
    assert len(names) == 2 * len({name.split("blocks.0.")[-1] for name in names if "blocks.0." in name}) > 8
    assert not any("adaLN" in name or "embed" in name for name in names)
    with pytest.raises(ValueError, match="a rank of at least 1, got 0"):
        LowRankAdapters(denoiser, 0)
