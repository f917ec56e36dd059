"""A lossless autoencoder without weights: space-to-depth, in any temporal layout."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from scenetok_ns.models.autoencoders.base import Autoencoder, LatentSpace, temporal_layout
from scenetok_ns.models.presets import AutoencoderConfig

PIXEL_STD = 0.5
"""Approximate standard deviation of photographs' pixels in [-1, 1]; that of normalised latents is then about 1."""


def pixel_latent_space(config: AutoencoderConfig) -> LatentSpace:
    layout = temporal_layout(config)
    return LatentSpace(
        layout=layout,
        spatial_factor=config.spatial_factor,
        channels=layout.frames_per_latent * 3 * config.spatial_factor**2,
        std=(PIXEL_STD / config.scale,),
    )


class PixelAutoencoder(Autoencoder):
    """Turns square patches of a latent's frames into its channels, in the order (frame, colour, row, column).

    Raw latents are pixels in [-1, 1]. If the first frame of a chunk has its own latent, the channels of the missing
    frames hold zeros, which decoding ignores.
    """

    def _encode(self, frames: Tensor, noise: torch.Generator | Tensor | None) -> Tensor:
        packed = self.space.layout.pack(frames * 2 - 1)
        p = self.space.spatial_factor
        return rearrange(packed, "b l k (h p) (w q) -> b l (k p q) h w", p=p, q=p)

    def _decode(self, latents: Tensor) -> Tensor:
        p = self.space.spatial_factor
        packed = rearrange(latents, "b l (k c p q) h w -> b l (k c) (h p) (w q)", c=3, p=p, q=p)
        return self.space.layout.unpack(packed) / 2 + 0.5
