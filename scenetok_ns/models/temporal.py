"""How frames and latents correspond in time. No other file holds the factors 1, 4, 5 and 17."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class TemporalLayout:
    """Frames come in chunks of `frames_per_chunk` that become `latents_per_chunk` latents.

    A latent stands for `frames_per_latent` frames. Either every latent of a chunk is full, or the first latent stands
    for the first frame alone, as in causal autoencoders. An image autoencoder is (1, 1, 1), Video DC-AE (4, 1, 4),
    Wan 2.2 (17, 5, 4): 1 + 4 + 4 + 4 + 4 frames.

    Args:
        frames_per_chunk: Number of frames in a chunk, at least 1.
        latents_per_chunk: Number of latents in a chunk, at least 1.
        frames_per_latent: Temporal downsampling of the autoencoder, the packing factor of ray maps. If left out, it
            follows from the published convention: a chunk of one latent is full, and a chunk of several latents begins
            with a lone frame, so (9, 3) means 1 + 4 + 4 frames. Give it if several latents are all full: (9, 3, 3).

    Raises:
        ValueError: The three numbers describe neither kind of chunk.
    """

    frames_per_chunk: int
    latents_per_chunk: int
    frames_per_latent: int = None  # type: ignore[assignment]  # always a number once the layout exists

    def __post_init__(self) -> None:
        frames, latents = self.frames_per_chunk, self.latents_per_chunk
        if frames < 1 or latents < 1:
            raise ValueError(f"TemporalLayout: expected at least one frame and one latent, got {frames} and {latents}")
        if self.frames_per_latent is None:
            object.__setattr__(self, "frames_per_latent", _frames_behind_a_lone_one(frames, latents))
        if self.frames_per_latent < 1:
            raise ValueError(f"TemporalLayout: expected at least one frame per latent, got {self.frames_per_latent}")
        if frames not in (latents * self.frames_per_latent, (latents - 1) * self.frames_per_latent + 1):
            raise ValueError(
                f"TemporalLayout: {latents} latents of {self.frames_per_latent} frames hold "
                f"{latents * self.frames_per_latent} frames, or {(latents - 1) * self.frames_per_latent + 1} with the "
                f"first frame alone, not {frames}; change one of the numbers"
            )

    @property
    def first_frame_alone(self) -> bool:
        """Whether the first latent of a chunk stands for the first frame only."""
        return self.frames_per_chunk < self.latents_per_chunk * self.frames_per_latent

    def num_chunks(self, num_frames: int) -> int:
        """Number of chunks that hold at least `num_frames` frames."""
        return -(-num_frames // self.frames_per_chunk)

    def num_latents(self, num_frames: int) -> int:
        """Number of latents, in whole chunks, that hold at least `num_frames` frames."""
        return self.num_chunks(num_frames) * self.latents_per_chunk

    def num_frames(self, num_latents: int) -> int:
        """Number of frames in `num_latents` latents; raise ValueError unless these are whole chunks."""
        chunks, rest = divmod(num_latents, self.latents_per_chunk)
        if rest:
            raise ValueError(
                f"TemporalLayout: {num_latents} latents are not whole chunks of {self.latents_per_chunk}; "
                "pad the latents to a multiple"
            )
        return chunks * self.frames_per_chunk

    def first_frame(self, latent: int) -> int:
        """Index of the first frame of a latent (`latent_to_frame` of the published code, parity c11)."""
        chunk, inside = divmod(latent, self.latents_per_chunk)
        offset = inside * self.frames_per_latent
        if self.first_frame_alone and inside:
            offset -= self.frames_per_latent - 1
        return chunk * self.frames_per_chunk + offset

    def latent_of(self, frame: int) -> int:
        """Index of the latent that holds a frame (`frame_to_latent` of the published code, parity c11)."""
        chunk, inside = divmod(frame, self.frames_per_chunk)
        if self.first_frame_alone:
            inside += self.frames_per_latent - 1
        return chunk * self.latents_per_chunk + inside // self.frames_per_latent

    def frame_slice(self, start: int, stop: int) -> slice:
        """Slice of the frames that belong to the latents from `start` to `stop` (excluded)."""
        return slice(self.first_frame(start), self.first_frame(stop))

    def pack(self, maps: Float[Tensor, "b frames c h w"]) -> Float[Tensor, "b latents packed h w"]:
        """Join per-frame maps to per-latent maps: channel = frame-in-latent * c + channel.

        If the first frame of a chunk is alone, zero maps fill the rest of its latent.

        Raises:
            ValueError: The frames are not whole chunks.
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
        """Undo `pack`; drop the maps that filled the latent of a lone first frame."""
        b, latents, channels, h, w = packed.shape
        k = self.frames_per_latent
        frames = packed.reshape(b, latents * k, channels // k, h, w)
        if self.first_frame_alone:
            chunks = frames.unflatten(1, (-1, self.latents_per_chunk * k))
            frames = torch.cat([chunks[:, :, :1], chunks[:, :, k:]], dim=2).flatten(1, 2)
        return frames


def _frames_behind_a_lone_one(frames: int, latents: int) -> int:
    """Number of frames per latent of a chunk that is one full latent, or several whose first holds one frame."""
    if latents == 1:
        return frames
    each, rest = divmod(frames - 1, latents - 1)
    if rest or not each:
        raise ValueError(
            f"TemporalLayout: a chunk of {frames} frames in {latents} latents cannot begin with a first frame alone; "
            "give frames_per_latent if all its latents are full"
        )
    return each


IMAGE_LAYOUT = TemporalLayout(1, 1, 1)
