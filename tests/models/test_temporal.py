from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scenetok_ns.models.temporal import TemporalLayout

LAYOUTS = {"image": TemporalLayout(1, 1), "video": TemporalLayout(4, 1), "wan": TemporalLayout(17, 5)}
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


def test_impossible_layouts_and_partial_chunks_are_refused() -> None:
    with pytest.raises(ValueError, match="first frame alone"):
        TemporalLayout(16, 5)
    with pytest.raises(ValueError, match="whole chunks of 5"):
        LAYOUTS["wan"].num_frames(7)
    with pytest.raises(ValueError, match="whole chunks of 17"):
        LAYOUTS["wan"].pack(torch.zeros(1, 16, 6, 2, 2))
