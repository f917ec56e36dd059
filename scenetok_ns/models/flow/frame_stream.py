"""Render frames of a moving camera chunk by chunk, without knowing its future poses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from scenetok_ns.models.autoencoders.base import Autoencoder
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.flow.noise import latent_noise
from scenetok_ns.models.flow.sampling import OnStep, SampledLatents, no_report
from scenetok_ns.models.flow.streaming import StreamedChunk
from scenetok_ns.models.flow.windows import RenderedFrames, pad_path
from scenetok_ns.models.temporal import TemporalLayout


class ChunkStream(Protocol):
    """A stream of latents: `LatentStream` or `engine.stream.EngineStream`."""

    def next(self, cameras: CameraBatch, noise: Tensor) -> StreamedChunk: ...


class FrameStream:
    """Denoises and decodes a stream chunk by chunk. All chunks start from the same noise."""

    def __init__(
        self,
        stream: ChunkStream,
        autoencoder: Autoencoder,
        image_size: tuple[int, int],
        seed: int,
        device: torch.device,
    ) -> None:
        """Start before the first chunk.

        Args:
            stream: Stream of latents of one scene.
            autoencoder: Decodes the latents.
            image_size: Height and width of the frames in pixels.
            seed: Random seed of the noise.
            device: Device of the noise.
        """
        self.layout = autoencoder.space.layout
        self._stream, self._autoencoder = stream, autoencoder
        shape = (autoencoder.space.channels, *autoencoder.space.latent_size(image_size))
        self._noise = latent_noise(seed, self.layout.latents_per_chunk, shape).to(device)
        self._before: Float[Tensor, "1 l c h w"] | None = None
        self._chunks = 0

    def next(self, cameras: CameraBatch) -> RenderedFrames:
        """Render the frames of the next chunk.

        Args:
            cameras: Cameras of the frames, relative to the scene's reference view.
        """
        return self.decode(self.denoise(cameras))

    def denoise(self, cameras: CameraBatch) -> StreamedChunk:
        """Denoise the next chunk. Pass the results to `decode` in the same order."""
        return self._stream.next(cameras, self._noise)

    @torch.no_grad()
    def decode(self, chunk: StreamedChunk) -> RenderedFrames:
        """Decode a chunk. All earlier chunks must have been decoded."""
        frames = self._autoencoder.decode_next(chunk.latents, self._before).float()
        self._before = chunk.latents
        first = self._chunks * self.layout.latents_per_chunk
        denoised = SampledLatents(first, chunk.latents, first, chunk.uncertainty)
        number, self._chunks = self._chunks, self._chunks + 1
        return RenderedFrames(number * self.layout.frames_per_chunk, frames, (denoised,))


def stream_path(
    step: Callable[[CameraBatch], RenderedFrames],
    cameras: CameraBatch,
    layout: TemporalLayout,
    on_step: OnStep | None = None,
) -> Iterator[RenderedFrames]:
    """Render all frames of a path with a stream, chunk by chunk; same contract as `render_windows`.

    Args:
        step: Renders the next chunk: `FrameStream.next`, or a function that converts cameras first.
        cameras: A batch of one with a camera for each frame. The last camera is repeated to fill the last chunk.
        layout: Temporal layout of the latents.
        on_step: Progress, called as on_step(done, total) for each chunk; an exception ends the rendering.

    Raises ValueError, at once, for a path without cameras.
    """
    padded, report = pad_path(cameras, layout, layout.latents_per_chunk), on_step or no_report
    size = layout.frames_per_chunk
    chunks = padded.num_views // size

    def windows() -> Iterator[RenderedFrames]:
        for number in range(chunks):
            report(number, chunks)
            made = step(padded.select(slice(number * size, (number + 1) * size)))
            wanted = made.frames[:, : cameras.num_views - made.first_frame]
            yield RenderedFrames(made.first_frame, wanted, made.denoised)
        report(chunks, chunks)

    return windows()
