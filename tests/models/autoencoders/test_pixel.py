"""The lossless autoencoder, and the arithmetic of latent spaces that all autoencoders share."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scenetok_ns.models.autoencoders.base import LatentSpace
from scenetok_ns.models.autoencoders.registry import build_autoencoder, latent_space
from scenetok_ns.models.presets import AutoencoderConfig
from scenetok_ns.models.temporal import IMAGE_LAYOUT

LAYOUTS = [(1, 1), (4, 1), (17, 5)]


def pixel_config(frames: int, latents: int, factor: int = 4, scale: float = 1.0) -> AutoencoderConfig:
    return AutoencoderConfig("pixel", scale, factor, frames, latents)


@settings(max_examples=25, deadline=None)
@given(
    layout=st.sampled_from(LAYOUTS),
    chunks=st.integers(1, 3),
    factor=st.sampled_from([1, 2, 4, 8]),
    size=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    seed=st.integers(0, 2**16),
)
def test_round_trip_is_lossless(layout, chunks, factor, size, seed):
    autoencoder = build_autoencoder(pixel_config(*layout, factor))
    height, width = size[0] * factor, size[1] * factor
    frames = torch.rand(2, chunks * layout[0], 3, height, width, generator=torch.Generator().manual_seed(seed))
    latents = autoencoder.encode(frames)
    space = autoencoder.space
    assert latents.shape == (2, chunks * layout[1], space.channels, *space.latent_size((height, width)))
    assert torch.allclose(autoencoder.decode(latents), frames, atol=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_frame_touches_its_own_latent_only(layout):
    autoencoder = build_autoencoder(pixel_config(*layout))
    frames = torch.rand(1, 2 * layout[0], 3, 8, 8)
    latents = autoencoder.encode(frames)
    for frame in range(frames.shape[1]):
        moved = frames.clone()
        moved[:, frame] = 1 - moved[:, frame]
        changed = (autoencoder.encode(moved) != latents).flatten(2).any(dim=2)[0].nonzero().flatten().tolist()
        assert changed == [autoencoder.space.layout.latent_of(frame)]


def test_a_patch_becomes_one_position():
    autoencoder = build_autoencoder(pixel_config(1, 1))
    frames = torch.full((1, 1, 3, 8, 12), 0.5)
    frames[..., 4:, 8:] = 1.0
    latents = autoencoder.encode_raw(frames)
    assert torch.equal(latents[..., 1, 2], torch.ones(1, 1, 48))
    assert latents.sum() == 48


def test_places_of_missing_frames_are_zero_and_ignored():
    autoencoder = build_autoencoder(pixel_config(17, 5))
    frames = torch.rand(1, 17, 3, 8, 8)
    latents = autoencoder.encode(frames)
    assert torch.count_nonzero(latents[:, 0, 48:]) == 0
    latents[:, 0, 48:] = 7.0
    assert torch.allclose(autoencoder.decode(latents), frames, atol=1e-6)


def test_normalised_pixels_have_about_unit_scale():
    latents = build_autoencoder(pixel_config(1, 1)).encode(torch.tensor([0.0, 0.5, 0.75, 1.0]).expand(1, 1, 3, 4, 4))
    assert latents.unique().tolist() == [-2.0, 0.0, 1.0, 2.0]
    doubled = build_autoencoder(pixel_config(1, 1, scale=2.0)).encode(torch.ones(1, 1, 3, 4, 4))
    assert doubled.unique().tolist() == [4.0]


def test_decoded_frames_are_clamped():
    autoencoder = build_autoencoder(pixel_config(4, 1))
    frames = autoencoder.decode(torch.linspace(-9, 9, 192).reshape(1, 1, 192, 1, 1))
    assert frames.min() == 0 and frames.max() == 1


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 5, 3, 8, 8), "5 frames are not whole chunks of 4"),
        ((1, 0, 3, 8, 8), "0 frames are not whole chunks of 4"),
        ((1, 4, 3, 8, 10), "8 x 10 is not divisible by 4"),
        ((1, 4, 4, 8, 8), r"expected frames \[b, f, 3, h, w\]"),
    ],
)
def test_bad_frames_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        build_autoencoder(pixel_config(4, 1)).encode(torch.zeros(shape))


def test_bad_latents_are_refused():
    autoencoder = build_autoencoder(pixel_config(17, 5))
    with pytest.raises(ValueError, match="4 latents are not whole chunks of 5"):
        autoencoder.decode(torch.zeros(1, 4, 192, 2, 2))
    with pytest.raises(ValueError, match=r"expected latents \[b, l, 192, h, w\]"):
        autoencoder.decode(torch.zeros(1, 5, 191, 2, 2))


def test_latent_space_statistics():
    space = LatentSpace(IMAGE_LAYOUT, 8, 2, mean=(1.0, -1.0), std=(2.0, 4.0))
    raw = torch.tensor([3.0, 7.0]).view(2, 1, 1)
    assert space.normalize(raw).flatten().tolist() == [1.0, 2.0]
    assert torch.equal(space.denormalize(space.normalize(raw)), raw)
    assert space.normalize(raw.bfloat16()).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="std needs 1 or 3 entries, got 2"):
        LatentSpace(IMAGE_LAYOUT, 8, 3, std=(1.0, 2.0))


def test_statistics_first_used_in_inference_mode_serve_training():
    space = LatentSpace(IMAGE_LAYOUT, 8, 1, mean=(0.123,), std=(0.456,))
    with torch.inference_mode():
        space.normalize(torch.zeros(1, 1, 1))
    raw = torch.ones(1, 1, 1, requires_grad=True)
    (space.normalize(raw) ** 2).sum().backward()
    assert raw.grad is not None


def test_unknown_and_useless():
    with pytest.raises(ValueError, match=r"no autoencoder 'jpeg'; known: .*pixel"):
        latent_space(AutoencoderConfig("jpeg"))
    with pytest.raises(ValueError, match=r"has no weights, got x\.pt"):
        build_autoencoder(pixel_config(1, 1), "x.pt")
