"""Wan's decoder prepared for inference gives the same frames, from copies of the weights."""

from __future__ import annotations

import pytest
import torch

from scenetok_ns.models.autoencoders.registry import latent_space
from scenetok_ns.models.autoencoders.wan import WanConfig, WanVAE, build_network
from scenetok_ns.models.autoencoders.wan_fast import _duplicate
from scenetok_ns.models.presets import AutoencoderConfig

pytest.importorskip("diffusers")
CPU = torch.device("cpu")


@pytest.mark.parametrize("channels", [8, 16])
@pytest.mark.parametrize("factor_t", [1, 2])
@pytest.mark.parametrize("first", [False, True])
def test_shortcuts_are_copies(channels: int, factor_t: int, first: bool) -> None:
    from diffusers.models.autoencoders.autoencoder_kl_wan import DupUp3D

    up, x = DupUp3D(channels, 8, factor_t, 2), torch.randn(2, channels, 3, 4, 5)
    assert torch.equal(_duplicate(up, x, first), up(x, first))


@torch.no_grad()
def test_frames_are_those_of_the_plain_decoder() -> None:
    torch.manual_seed(0)
    model = WanVAE(latent_space(AutoencoderConfig("wan")), build_network(WanConfig(8, 8, (1, 2, 2, 2), 1)).eval())
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(parameter, 1.0, 0.3)
    latents = torch.randn(1, 10, 48, 2, 2)
    expected = model.decode(latents)
    parameters = len(list(model.parameters()))
    inference_copy = model.for_inference(CPU, torch.float32)
    assert len(list(model.parameters())) == parameters  # the copies are not submodules
    model.network.decoder.to("meta")
    found = torch.cat(list(inference_copy.decode_stream([latents], num_frames=20)), dim=1)
    torch.testing.assert_close(found, expected[:, :20], atol=1e-5, rtol=1e-5)
