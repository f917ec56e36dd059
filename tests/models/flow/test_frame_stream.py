"""Frames of a stream: chunks share one noise, are decoded after the previous chunk, and the last may be incomplete."""

from __future__ import annotations

import pytest
import torch
from support.small_networks import random_cameras
from torch import Tensor

from scenetok_ns.models.autoencoders.base import LatentSpace
from scenetok_ns.models.autoencoders.pixel import PixelAutoencoder
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.flow.frame_stream import FrameStream, stream_path
from scenetok_ns.models.flow.noise import latent_noise
from scenetok_ns.models.flow.streaming import StreamedChunk
from scenetok_ns.models.temporal import TemporalLayout

LAYOUT = TemporalLayout(4, 1)
CPU = torch.device("cpu")


class Noted:
    """A stream that records its inputs, also those of `NotedAutoencoder`. The latents of chunk n are all n / 10."""

    def __init__(self) -> None:
        self.cameras: list[CameraBatch] = []
        self.noise: list[Tensor] = []
        self.before: list[float | None] = []

    def next(self, cameras: CameraBatch, noise: Tensor) -> StreamedChunk:
        self.cameras.append(cameras)
        self.noise.append(noise)
        latents = torch.full_like(noise, (len(self.noise) - 1) / 10)
        return StreamedChunk(latents, latents[:, :, 0])


class NotedAutoencoder(PixelAutoencoder):
    def __init__(self, noted: Noted) -> None:
        super().__init__(LatentSpace(LAYOUT, 8, 4 * 3 * 64))
        self.noted = noted

    def decode_next(self, latents: Tensor, before: Tensor | None) -> Tensor:
        self.noted.before.append(None if before is None else float(before.flatten()[0]))
        return super().decode_next(latents, before)


def frames_of(noted: Noted, seed: int = 3) -> FrameStream:
    return FrameStream(noted, NotedAutoencoder(noted), (16, 16), seed, CPU)


def test_chunks_have_one_noise_and_are_decoded_beside_the_one_before() -> None:
    noted, cameras = Noted(), random_cameras(1, 12)
    stream = frames_of(noted)
    parts = [stream.next(cameras.select(slice(4 * i, 4 * i + 4))) for i in range(3)]
    assert all(torch.equal(noise, latent_noise(3, 1, (768, 2, 2))) for noise in noted.noise)
    assert noted.before == [None, 0.0, pytest.approx(0.1)]
    assert [part.first_frame for part in parts] == [0, 4, 8]
    assert [part.denoised[0].first for part in parts] == [part.denoised[0].window_first for part in parts] == [0, 1, 2]
    for number, part in enumerate(parts):
        assert part.frames.shape == (1, 4, 3, 16, 16)
        assert torch.equal(part.frames, NotedAutoencoder(noted).decode(part.denoised[0].latents))
        assert float(part.denoised[0].latents.mean()) == pytest.approx(number / 10)


def test_a_path_is_continued_to_whole_chunks_and_cut_back() -> None:
    noted, cameras, reports = Noted(), random_cameras(1, 10), []
    parts = list(stream_path(frames_of(noted).next, cameras, LAYOUT, lambda *done: reports.append(done)))
    assert [(part.first_frame, part.frames.shape[1]) for part in parts] == [(0, 4), (4, 4), (8, 2)]
    given = torch.cat([each.c2w for each in noted.cameras], dim=1)
    assert torch.equal(given[:, :10], cameras.c2w) and torch.equal(given[:, 10:], cameras.c2w[:, [9, 9]])
    assert reports == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_a_report_may_end_a_path_and_an_empty_one_is_refused_at_once() -> None:
    def stop(done: int, total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    noted = Noted()
    path = stream_path(frames_of(noted).next, random_cameras(1, 12), LAYOUT, stop)
    with pytest.raises(KeyboardInterrupt):
        list(path)
    assert len(noted.noise) == 1
    with pytest.raises(ValueError, match="the camera path is empty"):
        stream_path(frames_of(noted).next, random_cameras(1, 4).select([]), LAYOUT)
