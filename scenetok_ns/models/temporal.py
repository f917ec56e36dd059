"""How frames and latents correspond in time: the one home of the factors 1, 4, 5 and 17."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class TemporalLayout:
    """Frames come in chunks of `frames_per_chunk` that become `latents_per_chunk` latents.

    An image autoencoder is (1, 1), Video DC-AE (4, 1), Wan 2.2 (17, 5). A latent stands for up to
    `frames_per_latent` frames; where a chunk has more room than frames (17 < 5 * 4), its first latent stands for
    the first frame alone.
    """

    frames_per_chunk: int
    latents_per_chunk: int

    def __post_init__(self) -> None:
        if self.frames_per_chunk < 1 or self.latents_per_chunk < 1:
            raise ValueError(f"TemporalLayout: counts must be positive, got {self}")
        spare = self.latents_per_chunk * self.frames_per_latent - self.frames_per_chunk
        if spare not in (0, self.frames_per_latent - 1):
            raise ValueError(f"TemporalLayout: {self} neither fills its latents nor leaves the first frame alone")

    @property
    def frames_per_latent(self) -> int:
        """Frames that share one latent (the packing factor of ray maps): 1, 4 and 4."""
        return -(-self.frames_per_chunk // self.latents_per_chunk)

    @property
    def first_frame_alone(self) -> bool:
        return self.frames_per_chunk < self.latents_per_chunk * self.frames_per_latent

    def num_chunks(self, num_frames: int) -> int:
        """Chunks that hold at least `num_frames` frames."""
        return -(-num_frames // self.frames_per_chunk)

    def num_latents(self, num_frames: int) -> int:
        """Latents that hold at least `num_frames` frames (whole chunks)."""
        return self.num_chunks(num_frames) * self.latents_per_chunk

    def num_frames(self, num_latents: int) -> int:
        """Frames of `num_latents` latents; these must be whole chunks."""
        chunks, rest = divmod(num_latents, self.latents_per_chunk)
        if rest:
            raise ValueError(
                f"TemporalLayout: {num_latents} latents are not whole chunks of {self.latents_per_chunk}; "
                "pad the latents to a multiple"
            )
        return chunks * self.frames_per_chunk

    def first_frame(self, latent: int) -> int:
        """Index of the first frame of a latent (parity c11)."""
        chunk, inside = divmod(latent, self.latents_per_chunk)
        offset = inside * self.frames_per_latent
        if self.first_frame_alone and inside:
            offset -= self.frames_per_latent - 1
        return chunk * self.frames_per_chunk + offset

    def latent_of(self, frame: int) -> int:
        """Index of the latent that holds a frame (parity c11)."""
        chunk, inside = divmod(frame, self.frames_per_chunk)
        if self.first_frame_alone:
            inside += self.frames_per_latent - 1
        return chunk * self.latents_per_chunk + inside // self.frames_per_latent

    def frame_slice(self, start: int, stop: int) -> slice:
        """Frames of the latents [start, stop)."""
        return slice(self.first_frame(start), self.first_frame(stop))

    def pack(self, maps: Float[Tensor, "b frames c h w"]) -> Float[Tensor, "b latents packed h w"]:
        """Join per-frame maps to per-latent maps: channel = frame-in-latent * c + channel.

        Whole chunks only. Where the first frame is alone, its latent is filled up with zero maps.
        """
        b, frames, c, h, w = maps.shape
        if frames % self.frames_per_chunk:
            raise ValueError(f"TemporalLayout.pack: {frames} frames are not whole chunks of {self.frames_per_chunk}")
        k = self.frames_per_latent
        if self.first_frame_alone:
            chunks = maps.unflatten(1, (-1, self.frames_per_chunk))
            zeros = chunks.new_zeros(b, chunks.shape[1], k - 1, c, h, w)
            chunks = torch.cat([chunks[:, :, :1], zeros, chunks[:, :, 1:]], dim=2)
            maps = chunks.flatten(1, 2)
        return maps.reshape(b, maps.shape[1] // k, k * c, h, w)

    def unpack(self, packed: Float[Tensor, "b latents packed h w"]) -> Float[Tensor, "b frames c h w"]:
        """The inverse of `pack`: what filled up the latent of a lone first frame is dropped."""
        b, latents, channels, h, w = packed.shape
        k = self.frames_per_latent
        frames = packed.reshape(b, latents * k, channels // k, h, w)
        if self.first_frame_alone:
            chunks = frames.unflatten(1, (-1, self.latents_per_chunk * k))
            frames = torch.cat([chunks[:, :, :1], chunks[:, :, k:]], dim=2).flatten(1, 2)
        return frames


IMAGE_LAYOUT = TemporalLayout(1, 1)
