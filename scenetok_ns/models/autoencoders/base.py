"""The one protocol behind which every autoencoder stands."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from scenetok_ns.models.temporal import TemporalLayout


@dataclass(frozen=True)
class LatentSpace:
    """What the rest of the system must know of an autoencoder; needs no weights.

    `mean` and `std` have one entry for each channel, or one for all: the networks see (raw - mean) / std.
    """

    layout: TemporalLayout
    spatial_factor: int
    channels: int
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def latent_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        height, width = image_size
        if height % self.spatial_factor or width % self.spatial_factor:
            raise ValueError(
                f"LatentSpace: image size {height} x {width} is not divisible by {self.spatial_factor}; crop it first"
            )
        return height // self.spatial_factor, width // self.spatial_factor

    def normalize(self, raw: Float[Tensor, "*batch c h w"]) -> Float[Tensor, "*batch c h w"]:
        """Raw latents, as the autoencoder gives them or a latent file holds them -> what the networks see."""
        return (raw - self._constant(self.mean, raw)) / self._constant(self.std, raw)

    def denormalize(self, latents: Float[Tensor, "*batch c h w"]) -> Float[Tensor, "*batch c h w"]:
        return latents * self._constant(self.std, latents) + self._constant(self.mean, latents)

    @staticmethod
    def _constant(values: tuple[float, ...], like: Tensor) -> Tensor:
        return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, 1, 1)


class Autoencoder(nn.Module, ABC):
    """A frozen autoencoder between frames in [0, 1] and latents as the networks see them.

    Range conversion, latent statistics, chunking and precision are the wrapper's own affair. `encode` takes whole
    chunks of its temporal layout; `decode` gives exactly `space.layout.num_frames(latents)` frames.
    """

    space: LatentSpace

    @abstractmethod
    def encode_raw(
        self, frames: Float[Tensor, "b f 3 height width"], *, noise: torch.Generator | None = None
    ) -> Float[Tensor, "b l c h w"]:
        """Frames in [0, 1] -> raw latents. `noise`: for autoencoders that sample; None takes the mean.

        A generator on the CPU gives the same latents on every device.
        """

    @abstractmethod
    def decode_raw(self, latents: Float[Tensor, "b l c h w"]) -> Float[Tensor, "b f 3 height width"]:
        """Raw latents -> frames, clamped to [0, 1]."""

    def encode(
        self, frames: Float[Tensor, "b f 3 height width"], *, noise: torch.Generator | None = None
    ) -> Float[Tensor, "b l c h w"]:
        return self.space.normalize(self.encode_raw(frames, noise=noise))

    def decode(self, latents: Float[Tensor, "b l c h w"]) -> Float[Tensor, "b f 3 height width"]:
        return self.decode_raw(self.space.denormalize(latents))
