"""The encoder laid out for inference computes the same function as diffusers' encoder, in float32."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from scenetok_ns.models.autoencoders.registry import latent_space
from scenetok_ns.models.autoencoders.vavae import VAVAE, VAVAEConfig, build_network
from scenetok_ns.models.presets import AutoencoderConfig

pytest.importorskip("diffusers")
CPU = torch.device("cpu")


@torch.no_grad()
def test_latents_are_those_of_the_plain_encoder() -> None:
    torch.manual_seed(0)
    network = build_network(VAVAEConfig((32, 32, 64, 64, 96), 2)).eval()
    for name, parameter in network.named_parameters():
        if "norm" in name:
            nn.init.normal_(parameter, 1.0 if "weight" in name else 0.0, 0.3)
    model = VAVAE(latent_space(AutoencoderConfig("vavae")), network)
    frames = torch.rand(1, 5, 3, 64, 64)
    expected = model.encode(frames)
    inference_copy = model.for_inference(CPU, torch.float32)
    torch.testing.assert_close(inference_copy.encode(frames), expected, atol=2e-5, rtol=1e-4)
    assert model._fast is None
    torch.testing.assert_close(inference_copy.decode(expected), model.decode(expected))
