"""Streams of the engine agree with plain streams: in float32 on the CPU, and as graphs on a GPU."""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable
from dataclasses import replace

import pytest
import torch
from support.small_networks import CHUNKED, NUM_TOKENS, TOKEN_DIM, VIDEO, normal, random_cameras, randomized
from support.small_networks import small_denoiser as small
from torch import Tensor

from scenetok_ns.models.engine import stream as engine_stream
from scenetok_ns.models.engine.denoising import DenoisingEngine
from scenetok_ns.models.engine.options import EngineOptions
from scenetok_ns.models.engine.stream import StreamingEngine
from scenetok_ns.models.flow.streaming import LatentStream, StreamConfig
from scenetok_ns.models.networks.denoiser import Denoiser
from scenetok_ns.models.temporal import IMAGE_LAYOUT, TemporalLayout

CPU = torch.device("cpu")


def engine_of(denoiser: Denoiser, device: torch.device = CPU, **changes: bool) -> StreamingEngine:
    options = replace(EngineOptions.for_device(device), **changes)
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    return StreamingEngine(DenoisingEngine(denoiser, device, options, stream))


def settle(device: torch.device) -> None:
    """Wait for the device: the engine works on its own CUDA stream, and its callers keep the order."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def run(stream, denoiser: Denoiser, layout: TemporalLayout, chunks: int, device: torch.device = CPU) -> Tensor:  # type: ignore[no-untyped-def]
    """Latents of a stream that turns round at its middle, so that it comes back to earlier views."""
    cameras = random_cameras(1, layout.num_frames(chunks * layout.latents_per_chunk))
    found = []
    for index in range(chunks):
        place = min(index, chunks - 1 - index)
        frames = slice(place * layout.frames_per_chunk, (place + 1) * layout.frames_per_chunk)
        noise = normal(1, layout.latents_per_chunk, *denoiser.latent_shape, seed=index)
        given = noise.to(device)
        settle(device)
        found.append(stream.next(cameras.select(frames), given).latents)
        settle(device)
    return torch.cat(found, dim=1).cpu().float()


@pytest.mark.parametrize(
    ("layout", "latents", "splits"), [(VIDEO, 4, 1), (IMAGE_LAYOUT, 5, 1), (CHUNKED, 10, 2), (CHUNKED, 15, 1)]
)
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_streams_agree(layout: TemporalLayout, latents: int, splits: int, steps: int) -> None:
    denoiser = randomized(small(layout=layout, num_latents=latents, target_splits=splits))
    config = StreamConfig.for_denoiser(denoiser, layout, steps, 4.0)
    tokens = normal(1, NUM_TOKENS, TOKEN_DIM)
    plain = run(LatentStream(denoiser, tokens, layout, config), denoiser, layout, 12)
    found = run(engine_of(denoiser).open(tokens, layout, config), denoiser, layout, 12)
    torch.testing.assert_close(found, plain, atol=5e-5, rtol=1e-4)


class RunAgain:
    """Replaces `StepGraphs`: `replay` calls the captured function again."""

    def __init__(self) -> None:
        self.captured: dict[Hashable, Callable[[], None]] = {}

    def capture(self, name: Hashable, function: Callable[[], None]) -> None:
        function()
        self.captured[name] = function

    def replay(self, name: Hashable) -> None:
        self.captured[name]()


def test_a_stream_may_take_the_buffers_of_an_ended_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_stream, "StepGraphs", RunAgain)
    denoiser = randomized(small(num_latents=4))
    config = StreamConfig.for_denoiser(denoiser, VIDEO, 2, None)
    engine = engine_of(denoiser, graphs=True)
    scenes = [normal(1, NUM_TOKENS, TOKEN_DIM, seed=seed) for seed in (1, 2)]
    plain = [run(LatentStream(denoiser, tokens, VIDEO, config), denoiser, VIDEO, 6) for tokens in scenes]
    first = engine.open(scenes[0], VIDEO, config)
    buffers = first._buffers
    torch.testing.assert_close(run(first, denoiser, VIDEO, 6), plain[0], atol=5e-5, rtol=1e-4)
    beside = engine.open(scenes[1], VIDEO, config)
    assert beside._buffers is not buffers
    del first
    gc.collect()
    second = engine.open(scenes[1], VIDEO, config)
    assert second._buffers is buffers
    torch.testing.assert_close(run(second, denoiser, VIDEO, 6), plain[1], atol=5e-5, rtol=1e-4)


def test_a_stream_is_of_one_scene() -> None:
    denoiser = randomized(small(num_latents=4))
    config = StreamConfig.for_denoiser(denoiser, VIDEO, 1, None)
    with pytest.raises(ValueError, match="tokens of one scene, got 2"):
        engine_of(denoiser).open(normal(2, NUM_TOKENS, TOKEN_DIM), VIDEO, config)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_graphs_are_as_close_to_float32_as_the_plain_stream_in_bfloat16() -> None:
    cuda = torch.device("cuda")
    denoiser = randomized(small(num_latents=4)).to(cuda)
    config = StreamConfig.for_denoiser(denoiser, VIDEO, 2, 4.0)
    tokens = normal(1, NUM_TOKENS, TOKEN_DIM).to(cuda)
    exact = run(LatentStream(denoiser, tokens, VIDEO, config), denoiser, VIDEO, 12, cuda)
    rough = run(LatentStream(denoiser, tokens, VIDEO, config, autocast=True), denoiser, VIDEO, 12, cuda)
    stream = engine_of(denoiser, cuda).open(tokens, VIDEO, config)
    found = run(stream, denoiser, VIDEO, 12, cuda)
    launched = run(engine_of(denoiser, cuda, graphs=False).open(tokens, VIDEO, config), denoiser, VIDEO, 12, cuda)
    assert float((found - exact).norm()) < 1.5 * float((rough - exact).norm()) + 1e-2 * float(exact.norm())
    torch.testing.assert_close(found, launched, atol=1e-2, rtol=1e-2)
