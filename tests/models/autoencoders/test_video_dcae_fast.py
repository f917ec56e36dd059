"""The decoder laid out for inference computes the same function as the plain one, in float32."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from scenetok_ns.models.autoencoders.registry import latent_space
from scenetok_ns.models.autoencoders.video_dcae import VideoDCAE
from scenetok_ns.models.autoencoders.video_dcae_fast import FastDecoder, fast_relu_linear_attention, merge_kernels
from scenetok_ns.models.autoencoders.video_dcae_layers import (
    HEAD_SIZE,
    VideoDCAEConfig,
    VideoDCAENetwork,
    relu_linear_attention,
)
from scenetok_ns.models.presets import AutoencoderConfig

CPU = torch.device("cpu")
SMALL = VideoDCAEConfig(128, (8, 16, 32, 32, 64, 128), (1,) * 6, (1, 2, 1, 1, 1, 1))


@pytest.fixture(scope="module")
def network() -> VideoDCAENetwork:
    torch.manual_seed(0)
    network = VideoDCAENetwork(SMALL).eval().requires_grad_(False)
    for name, parameter in network.named_parameters():
        if "norm" in name:  # random, like trained norms, instead of 1 and 0
            nn.init.normal_(parameter, 1.0 if "weight" in name else 0.0, 0.3)
    return network


@pytest.mark.parametrize("fold", [(1, 2, 2), (2, 2, 2), (1, 1, 1)])
def test_merged_kernels_compute_on_the_small_image_what_the_kernel_does_on_the_large_one(fold) -> None:
    torch.manual_seed(1)
    weight, x = torch.randn(3, 2, 3, 3, 3), torch.randn(1, 2, 3, 4, 5)
    expected = F.conv3d(F.interpolate(x, scale_factor=[float(f) for f in fold], mode="nearest"), weight, padding=1)
    phases = F.conv3d(x, merge_kernels(weight, fold), padding=1).unflatten(1, (*fold, 3))
    found = torch.empty_like(expected)
    t, h, w = x.shape[2:]
    for a, b, c in torch.cartesian_prod(*(torch.arange(f) for f in fold)).tolist():
        found[:, :, a :: fold[0], b :: fold[1], c :: fold[2]] = phases[:, a, b, c, :, a : a + t, b : b + h, c : c + w]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("latents", [2, 3, 8])
@pytest.mark.parametrize("strips", [1, 3, 12])  # 12: also three strips in the stage before the finest
def test_it_is_the_same_function(network: VideoDCAENetwork, latents: int, strips: int) -> None:
    x = torch.randn(1, 128, latents, 2, 2, generator=torch.Generator().manual_seed(latents))
    expected = network.decoder(x)
    found = FastDecoder(network.decoder, CPU, torch.float32, strip_positions=latents * 4 * 64 * 64 // strips)(x)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("frames", [1, 4, 19])
def test_leading_frames_are_those_of_the_whole_clip(network: VideoDCAENetwork, frames: int) -> None:
    x = torch.randn(1, 128, 6, 2, 2, generator=torch.Generator().manual_seed(0))
    found = FastDecoder(network.decoder, CPU, torch.float32, strip_positions=24 * 64 * 64 // 2)(x, frames)
    assert found.shape[2] == frames
    torch.testing.assert_close(found, network.decoder(x)[:, :, :frames], atol=2e-5, rtol=1e-4)


def test_few_frames_are_less_work(network: VideoDCAENetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    plain = F.conv3d
    monkeypatch.setattr(F, "conv3d", lambda x, *args, **kw: (counted.append(x.numel()), plain(x, *args, **kw))[1])
    x, work = torch.randn(1, 128, 8, 2, 2), []
    for frames in (None, 1):
        counted.clear()
        FastDecoder(network.decoder, CPU, torch.float32)(x, frames)
        work.append(sum(counted))
    assert work[1] < 0.6 * work[0]


@pytest.mark.parametrize("num_frames", [None, 1, 24, 25, 33, 56, 70])
def test_a_stream_of_tiles_for_inference(network: VideoDCAENetwork, num_frames: int | None) -> None:
    model = VideoDCAE(latent_space(AutoencoderConfig("video_dcae", scale=0.493)), network)
    latents = torch.randn(1, 18, 128, 1, 1, generator=torch.Generator().manual_seed(3))
    expected = model.decode(latents)[:, :num_frames]
    inference_copy = model.for_inference(CPU, torch.float32)
    found = list(inference_copy.decode_stream(latents.split(5, dim=1), num_frames=num_frames))
    torch.testing.assert_close(torch.cat(found, dim=1), expected, atol=2e-5, rtol=1e-4)
    assert model._fast is None and inference_copy.space is model.space


def test_attention_in_half_precision_does_not_overflow() -> None:
    """Sums over all positions exceed the largest float16, so both implementations must compute them in float32."""
    qkv = (torch.rand(1, 4096, 3 * 2 * HEAD_SIZE, generator=torch.Generator().manual_seed(0)) * 30).half()
    q, k, v = qkv.view(1, 4096, 2, 3, HEAD_SIZE).permute(3, 0, 2, 4, 1).unbind()
    expected = relu_linear_attention(q, k, v).permute(0, 3, 1, 2).flatten(2)
    found = fast_relu_linear_attention(qkv)
    assert found.dtype == torch.float16 and found.isfinite().all()
    torch.testing.assert_close(found.float(), expected, rtol=2e-3, atol=2e-3)
