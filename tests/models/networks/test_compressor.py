from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from support.small_networks import CHANNELS, NUM_TOKENS, TOKEN_DIM, normal, random_cameras, randomized, small_compressor

from scenetok_ns.models.networks.compressor import Compressor, TokenDistribution
from scenetok_ns.models.presets import load_preset


@torch.no_grad()
def test_views_have_no_order() -> None:
    network = randomized(small_compressor())
    latents, cameras = normal(2, 4, CHANNELS, 8, 8), random_cameras(2, 4)
    order = [2, 0, 3, 1]
    tokens, shuffled = network(latents, cameras), network(latents[:, order], cameras.select(order))
    assert tokens.mean.shape == (2, NUM_TOKENS, TOKEN_DIM)
    torch.testing.assert_close(shuffled.mean, tokens.mean, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(network(latents, cameras.select(order)).mean, tokens.mean, atol=1e-3)


@torch.no_grad()
def test_elements_of_a_batch_are_apart() -> None:
    network = randomized(small_compressor())
    latents, cameras = normal(2, 3, CHANNELS, 8, 8), random_cameras(2, 3)
    both = network(latents, cameras).mean
    alone = network(latents[1:], type(cameras)(cameras.c2w[1:], cameras.intrinsics[1:])).mean
    torch.testing.assert_close(both[1:], alone, rtol=1e-4, atol=1e-5)


def test_the_last_block_leaves_the_views() -> None:
    keys = small_compressor().state_dict().keys()
    assert {"aggregate.0.norm3.weight", "aggregate.0.mlp1.w3.bias"} <= keys
    assert not {k for k in keys if k.startswith(("aggregate.1.norm3", "aggregate.1.mlp1"))}


def test_distribution_is_that_of_its_parameters() -> None:
    parameters = torch.randn(3, 2, 8, generator=torch.Generator().manual_seed(0))
    tokens = TokenDistribution.from_parameters(parameters)
    normal_ = torch.distributions.Normal(parameters[..., :4], (parameters[..., 4:] / 2).exp())
    expected = torch.distributions.kl_divergence(normal_, torch.distributions.Normal(0.0, 1.0)).sum((1, 2))
    torch.testing.assert_close(tokens.kl(), expected)
    noise = torch.randn(3, 2, 4)
    torch.testing.assert_close(tokens.sample(noise), normal_.mean + normal_.stddev * noise)


def test_extreme_variances_are_clamped_and_half_precision_is_left() -> None:
    tokens = TokenDistribution.from_parameters(torch.tensor([[[1.0, 1.0, 99.0, -99.0]]]).bfloat16())
    assert tokens.logvar.dtype == tokens.mean.dtype == torch.float32
    assert tokens.logvar.flatten().tolist() == [20.0, -30.0]
    assert tokens.std[0, 0, 0].item() == pytest.approx(math.exp(10))


def test_wrong_input_is_named() -> None:
    network = small_compressor()
    with pytest.raises(ValueError, match=r"latents: expected shape \[2, 3, 3, 8, 8\], got \[2, 4, 3, 8, 8\]"):
        network(torch.zeros(2, 4, CHANNELS, 8, 8), random_cameras(2, 3))


def test_a_context_of_video_latents_is_refused() -> None:
    preset = load_preset("scenetok-tiny")
    video = dataclasses.replace(preset.context_autoencoder, frames_per_chunk=4)
    with pytest.raises(ValueError, match="one latent of each image"):
        Compressor.from_preset(dataclasses.replace(preset, context_autoencoder=video))
