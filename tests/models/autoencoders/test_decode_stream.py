"""Decoding latents as they arrive gives the same frames as decoding the whole clip."""

from __future__ import annotations

import pytest
import torch
from support.recorded_autoencoders import Case, video_dcae_config, video_dcae_tiling

from scenetok_ns.models.autoencoders.base import LatentSpace
from scenetok_ns.models.autoencoders.offload import OffloadedAutoencoder
from scenetok_ns.models.autoencoders.pixel import PixelAutoencoder
from scenetok_ns.models.autoencoders.video_dcae import VideoDCAE
from scenetok_ns.models.autoencoders.video_dcae_layers import VideoDCAENetwork
from scenetok_ns.models.temporal import TemporalLayout


@pytest.fixture(scope="module")
def video_dcae(video_dcae_case: Case) -> VideoDCAE:
    network = VideoDCAENetwork(video_dcae_config(video_dcae_case))
    network.load_state_dict(video_dcae_case.state)
    return VideoDCAE(video_dcae_case.space("video_dcae", 0.493), network.eval(), video_dcae_tiling(video_dcae_case))


def pieces(latents: torch.Tensor, first: int, others: int) -> list[torch.Tensor]:
    """Cut latents into a first window and pieces of the size that each later window adds."""
    return [latents[:, :first], *latents[:, first:].split(others, dim=1)] if latents.shape[1] > first else [latents]


@torch.no_grad()
def test_video_dcae_of_every_length_equals_the_whole_clip(video_dcae: VideoDCAE) -> None:
    tile = video_dcae.tiling.frames // 4
    channels = video_dcae.space.channels
    for length in range(1, 3 * tile + 2):
        latents = torch.randn(1, length, channels, 1, 1, generator=torch.Generator().manual_seed(length))
        whole = video_dcae.decode(latents)
        for first, others in ((tile, 2), (1, 1), (length, 1)):
            streamed = list(video_dcae.decode_stream(pieces(latents, first, others)))
            torch.testing.assert_close(torch.cat(streamed, dim=1), whole, atol=1e-5, rtol=0)


@torch.no_grad()
def test_video_dcae_gives_frames_before_the_last_latents(video_dcae: VideoDCAE) -> None:
    tile = video_dcae.tiling.frames // 4
    arrived = 0

    def arriving():
        nonlocal arrived
        for _ in range(3):
            arrived += tile
            yield torch.zeros(1, tile, video_dcae.space.channels, 1, 1)

    next(video_dcae.decode_stream(arriving()))
    assert arrived == tile


def test_video_dcae_decodes_a_short_path_from_at_least_two_latents(video_dcae: VideoDCAE) -> None:
    assert [video_dcae.latents_needed(frames) for frames in (1, 4, 5, 8, 9, 33)] == [2, 2, 2, 2, 3, 9]
    assert OffloadedAutoencoder(video_dcae).latents_needed(1) == 2


@torch.no_grad()
@pytest.mark.parametrize("offloaded", [False, True])
def test_video_dcae_decodes_the_next_latent_beside_the_one_before(video_dcae: VideoDCAE, offloaded: bool) -> None:
    model = OffloadedAutoencoder(video_dcae) if offloaded else video_dcae
    latents = torch.randn(1, 2, video_dcae.space.channels, 1, 1, generator=torch.Generator().manual_seed(0))
    first, second = model.decode_next(latents[:, :1], None), model.decode_next(latents[:, 1:], latents[:, :1])
    torch.testing.assert_close(first, video_dcae.decode(latents[:, :1]))
    torch.testing.assert_close(second, video_dcae.decode(latents)[:, 4:])
    assert not torch.allclose(second, video_dcae.decode(latents[:, 1:]), atol=1e-3)


def test_nothing_comes_of_nothing(video_dcae: VideoDCAE) -> None:
    assert list(video_dcae.decode_stream([])) == []


@pytest.mark.parametrize("layout", [TemporalLayout(1, 1), TemporalLayout(4, 1), TemporalLayout(17, 5)])
def test_independent_chunks(layout: TemporalLayout) -> None:
    space = LatentSpace(layout, 8, layout.frames_per_latent * 3 * 64, std=(0.5,))
    model = PixelAutoencoder(space)
    frames = torch.rand(2, 3 * layout.frames_per_chunk, 3, 8, 8)
    latents = model.encode(frames)
    streamed = list(model.decode_stream(latents.split(layout.latents_per_chunk, dim=1)))
    assert len(streamed) == 3
    torch.testing.assert_close(torch.cat(streamed, dim=1), frames)
