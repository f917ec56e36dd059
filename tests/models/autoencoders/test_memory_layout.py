"""Wan's memory layout on CUDA changes only the speed."""

from __future__ import annotations

import torch
from support.recorded_autoencoders import Case, wan_config

from scenetok_ns.models.autoencoders import wan
from scenetok_ns.models.autoencoders.base import to_channels_last


def test_channels_last_weights_give_the_same_frames() -> None:
    case = Case.read("wan22vae")
    torch.manual_seed(0)
    network = wan.build_network(wan_config(case)).eval()
    model = wan.WanVAE(case.space("wan"), network)
    latents = torch.randn(1, 5, model.space.channels, 2, 3, generator=torch.Generator().manual_seed(0))
    plain = model.decode(latents)
    to_channels_last(network)
    weights = [p for p in network.parameters() if p.ndim == 5]
    assert all(w.is_contiguous(memory_format=torch.channels_last_3d) for w in weights)
    torch.testing.assert_close(model.decode(latents), plain, atol=1e-5, rtol=1e-4)
