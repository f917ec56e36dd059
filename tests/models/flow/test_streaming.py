"""Streams of latents equal one causal pass over a window. Their memory stays bounded and recalls earlier views."""

from __future__ import annotations

import pytest
import torch
from support.small_networks import CHUNKED, NUM_TOKENS, TOKEN_DIM, VIDEO, normal, random_cameras, randomized
from support.small_networks import small_denoiser as small
from torch import Tensor

from scenetok_ns.models.flow.rectified_flow import network_time
from scenetok_ns.models.flow.streaming import KEYFRAMES, LatentStream, StreamConfig, StreamMemory
from scenetok_ns.models.networks.denoiser import causal_mask
from scenetok_ns.models.temporal import IMAGE_LAYOUT, TemporalLayout

FULL = TemporalLayout(4, 2, 2)


def at(x: float, turn: float = 0.0) -> Tensor:
    """A camera at `x` that is turned about the vertical axis."""
    pose, angle = torch.eye(4), torch.tensor(turn)
    pose[0, 0], pose[0, 2], pose[2, 0], pose[2, 2] = angle.cos(), angle.sin(), -angle.sin(), angle.cos()
    pose[0, 3] = x
    return pose


@pytest.mark.parametrize(
    ("layout", "latents", "splits"),
    [(VIDEO, 4, 1), (IMAGE_LAYOUT, 6, 1), (CHUNKED, 10, 2), (CHUNKED, 10, 1), (FULL, 6, 1)],
)
@pytest.mark.parametrize("steps", [1, 3])
def test_a_stream_equals_one_causal_pass_over_its_window(
    layout: TemporalLayout, latents: int, splits: int, steps: int
) -> None:
    denoiser = randomized(small(layout=layout, num_latents=latents, target_splits=splits))
    chunk, frames, chunks = layout.latents_per_chunk, layout.frames_per_chunk, latents // layout.latents_per_chunk
    config = StreamConfig(steps, 4.0, chunks, 0)
    tokens, cameras = normal(2, NUM_TOKENS, TOKEN_DIM), random_cameras(2, layout.num_frames(latents))
    noise = normal(2, latents, *denoiser.latent_shape, seed=5)
    stream = LatentStream(denoiser, tokens, layout, config)
    parts = [
        stream.next(cameras.select(slice(i * frames, (i + 1) * frames)), noise[:, i * chunk : (i + 1) * chunk])
        for i in range(chunks)
    ]
    streamed = torch.cat([part.latents for part in parts], dim=1)
    whole = torch.zeros_like(streamed)
    times = config.times
    with torch.no_grad():
        poses, state = denoiser.embed_poses(cameras), denoiser.project(tokens)

        def velocity(x: Tensor, past: Tensor | None, step: int) -> Tensor:
            t, last = (network_time(times[k].expand(2, latents)) for k in (step, steps - 1))
            return denoiser.velocity_causal(x, poses, t, state, chunk, None if past is None else (past, last))

        # Denoise chunk by chunk, each with causal passes over the whole window: later chunks do not matter yet.
        inputs = noise.clone()
        for i in range(chunks):
            own, x = slice(i * chunk, (i + 1) * chunk), noise.clone()
            for step in range(steps):
                if step == steps - 1:
                    inputs[:, own] = x[:, own]
                last = step == steps - 1
                v = velocity(inputs if last else x, None if last else inputs, step)
                x = x + (times[step + 1] - times[step]) * v
            whole[:, own] = x[:, own]
    torch.testing.assert_close(whole, streamed, atol=2e-5, rtol=1e-4)
    # Each chunk sees those before it: without them, the last chunk differs.
    alone = LatentStream(denoiser, tokens, layout, config)
    last = alone.next(cameras.select(slice(-frames, None)), noise[:, -chunk:]).latents
    assert float((last - streamed[:, -chunk:]).abs().max()) > 1e-3


def test_nothing_depends_on_later_chunks() -> None:
    denoiser = randomized(small(num_latents=4))
    poses, state = denoiser.embed_poses(random_cameras(1, 16)), denoiser.project(normal(1, NUM_TOKENS, TOKEN_DIM))
    noise, t = normal(1, 4, *denoiser.latent_shape, seed=3), torch.full((1, 4), 500.0)
    changed = noise.clone()
    changed[:, 2] += 1
    with torch.no_grad():
        before, after = (denoiser.velocity_causal(x, poses, t, state, 1) for x in (noise, changed))
        seen, unseen = (denoiser.velocity_causal(noise, poses, t, state, 1, (x, t)) for x in (noise, changed))
    for first, second in ((before, after), (seen, unseen)):
        assert torch.equal(first[:, :2], second[:, :2])
        assert float((first[:, 3] - second[:, 3]).abs().max()) > 1e-4
    assert float((before[:, 2] - after[:, 2]).abs().max()) > 1e-4
    assert torch.equal(seen[:, 2], unseen[:, 2])  # a chunk sees itself as it is now


def test_masks_of_two_chunks_of_one_token() -> None:
    cpu = torch.device("cpu")
    assert causal_mask(2, 1, False, cpu).int().tolist() == [[1, 0], [1, 1]]
    expected = [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 1]]
    assert causal_mask(2, 1, True, cpu).int().tolist() == expected


def test_a_long_stream_stays_within_the_table_and_its_slots() -> None:
    denoiser = randomized(small(layout=IMAGE_LAYOUT, num_latents=4))
    config = StreamConfig.for_denoiser(denoiser, IMAGE_LAYOUT, 2, 4.0)
    assert (config.window, config.recalled, config.latest) == (4, 1, 2)
    stream = LatentStream(denoiser, normal(1, NUM_TOKENS, TOKEN_DIM), IMAGE_LAYOUT, config)
    cameras, noise = random_cameras(1, KEYFRAMES + 20), normal(1, 1, *denoiser.latent_shape)
    for index in range(cameras.num_views):
        assert stream.next(cameras.select([index]), noise).latents.isfinite().all()
    assert len(stream._kept) == config.slots


def test_the_view_that_the_camera_comes_back_to_is_recalled() -> None:
    memory = StreamMemory(StreamConfig(1, None, 4, 1))
    home = memory.keep(at(0.0))
    for step in range(1, 10):
        memory.keep(at(step * 0.5))
    away = memory.seen_from(at(5.0))
    assert len(away) == 3 and home not in away
    assert memory.seen_from(at(0.1))[0] == home
    assert home not in memory.seen_from(at(0.0, turn=3.0))  # the camera looks the other way


def test_views_that_are_nearly_the_same_take_no_room() -> None:
    config = StreamConfig(1, None, 4, 1)
    memory = StreamMemory(config)
    for step in range(500):
        memory.keep(at(0.001 * step))
    assert len(memory._keyframes) == 3  # half a unit of path
    for step in range(500):
        memory.keep(at(float(step)))
    slots = [kept.slot for kept in memory._keyframes + memory._latest]
    assert len(memory._keyframes) == KEYFRAMES and len(set(slots)) == len(slots) <= config.slots


def test_what_cannot_be_streamed_is_refused() -> None:
    with pytest.raises(ValueError, match="not whole chunks of 5"):
        StreamConfig.for_denoiser(small(layout=CHUNKED, num_latents=8), CHUNKED, 1, None)
    with pytest.raises(ValueError, match="1 to 8 steps, got 0"):
        StreamConfig(0, None, 4, 1)
    denoiser = randomized(small())
    stream = LatentStream(
        denoiser, normal(1, NUM_TOKENS, TOKEN_DIM), VIDEO, StreamConfig.for_denoiser(denoiser, VIDEO, 1, None)
    )
    with pytest.raises(ValueError, match="expected a chunk of 4 cameras and 1 latents, got 3 and 1"):
        stream.next(random_cameras(1, 3), normal(1, 1, *denoiser.latent_shape))
