from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scenetok_ns.models.autoencoders.registry import latent_space
from scenetok_ns.models.presets import AutoencoderConfig
from scenetok_ns.models.temporal import TemporalLayout

LAYOUTS = {
    "image": TemporalLayout(1, 1),
    "video": TemporalLayout(4, 1),
    "wan": TemporalLayout(17, 5),
    "lone first of three": TemporalLayout(9, 3),
    "three full": TemporalLayout(9, 3, 3),
}
layouts = st.sampled_from(list(LAYOUTS.values()))


@given(layouts, st.integers(0, 200))
def test_every_frame_lies_in_its_latent(layout: TemporalLayout, frame: int) -> None:
    latent = layout.latent_of(frame)
    assert layout.first_frame(latent) <= frame < layout.first_frame(latent + 1)


@given(layouts, st.integers(1, 200))
def test_latents_cover_the_frames_in_whole_chunks(layout: TemporalLayout, frames: int) -> None:
    latents = layout.num_latents(frames)
    assert latents % layout.latents_per_chunk == 0
    assert frames <= layout.num_frames(latents) < frames + layout.frames_per_chunk


def test_configurations_state_layouts_with_full_latents_too() -> None:
    nine = AutoencoderConfig("pixel", frames_per_chunk=9, latents_per_chunk=3)
    assert latent_space(nine).layout == TemporalLayout(9, 3, 4)
    full = AutoencoderConfig("conv", frames_per_chunk=9, latents_per_chunk=3, frames_per_latent=3)
    assert latent_space(full).layout == TemporalLayout(9, 3, 3)
    assert latent_space(AutoencoderConfig("wan")).layout == TemporalLayout(17, 5, 4)
    assert latent_space(AutoencoderConfig("video_dcae")).layout == TemporalLayout(4, 1, 4)


def test_wan_latents_start_where_the_published_map_says() -> None:
    wan = LAYOUTS["wan"]
    assert [wan.first_frame(i) for i in range(11)] == [0, 1, 5, 9, 13, 17, 18, 22, 26, 30, 34]
    assert wan.frame_slice(5, 10) == slice(17, 34)


@pytest.mark.parametrize("name", LAYOUTS)
def test_packing_puts_each_frame_into_its_latent_and_zeros_elsewhere(name: str) -> None:
    layout = LAYOUTS[name]
    frames = 2 * layout.frames_per_chunk
    maps = torch.arange(1, frames + 1).view(1, frames, 1, 1, 1).float().expand(1, frames, 2, 1, 1)
    packed = layout.pack(maps)
    assert packed.shape[1] == layout.num_latents(frames)
    for latent in range(packed.shape[1]):
        inside = [f + 1.0 for f in range(frames) if layout.latent_of(f) == latent]
        padding = [0.0] * (layout.frames_per_latent - len(inside))
        expected = [value for value in inside[:1] + padding + inside[1:] for _ in range(2)]
        assert packed[0, latent, :, 0, 0].tolist() == expected


def test_a_chunk_of_several_latents_begins_with_a_lone_frame_unless_its_latents_are_full() -> None:
    """A temporal downsampling of 4 in chunks of 3 latents means 1 + 4 + 4 frames, as in the published maps."""
    layout = TemporalLayout(9, 3)
    assert layout == TemporalLayout(9, 3, 4) != TemporalLayout(9, 3, 3) and layout.first_frame_alone
    assert [layout.latent_of(f) for f in range(18)] == [0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 4, 4, 4, 4, 5, 5, 5, 5]
    assert [layout.first_frame(i) for i in range(7)] == [0, 1, 5, 9, 10, 14, 18]
    full = TemporalLayout(9, 3, 3)
    assert not full.first_frame_alone and [full.latent_of(f) for f in range(9)] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("downsampling", [2, 3, 4])
@pytest.mark.parametrize("latents", [2, 3, 4, 5])
def test_layouts_are_the_published_maps(downsampling: int, latents: int) -> None:
    layout = TemporalLayout(downsampling * (latents - 1) + 1, latents)
    chunk = layout.frames_per_chunk
    for frame in range(5 * chunk):
        inside = (frame % chunk + downsampling - 1) // downsampling
        assert layout.latent_of(frame) == latents * (frame // chunk) + inside
    for latent in range(5 * latents):
        back = (downsampling - 1) * (latent // latents + (latent % latents != 0))
        assert layout.first_frame(latent) == latent * downsampling - back


@pytest.mark.parametrize("numbers", [(16, 5), (1, 2), (9, 3, 2), (17, 5, 3), (4, 1, 3), (0, 1), (4, 0), (1, 1, 0)])
def test_impossible_layouts_are_refused_in_one_line(numbers: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^TemporalLayout: [^\n]*$"):
        TemporalLayout(*numbers)


def test_impossible_layouts_and_partial_chunks_are_refused() -> None:
    with pytest.raises(ValueError, match="first frame alone"):
        TemporalLayout(16, 5)
    with pytest.raises(ValueError, match="whole chunks of 5"):
        LAYOUTS["wan"].num_frames(7)
    with pytest.raises(ValueError, match="whole chunks of 17"):
        LAYOUTS["wan"].pack(torch.zeros(1, 16, 6, 2, 2))
