"""A denoiser that knows the result, so that errors in the indices of frames, latents and windows show in the frames.

Frame i of a path is an image of one grey value, computed from the x position of its camera. The velocity points to the
latents of exactly those frames whose cameras the window contains.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scenetok_ns.models.autoencoders.pixel import PixelAutoencoder, pixel_latent_space
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.flow.rectified_flow import TRAINING_TIMES
from scenetok_ns.models.presets import AutoencoderConfig, SamplerConfig
from scenetok_ns.models.temporal import TemporalLayout

SIZE = 4

LAYOUTS = {"1:1": TemporalLayout(1, 1), "4:1": TemporalLayout(4, 1), "17:5": TemporalLayout(17, 5)}
SAMPLERS = {
    "1:1": SamplerConfig(steps=3, timestep_shift=None, window=8, clean_targets=4),
    "4:1": SamplerConfig(steps=3, timestep_shift=4.0, window=8, clean_targets=4),
    "17:5": SamplerConfig(steps=3, timestep_shift=4.0, window=10, clean_targets=5),
}


def autoencoder(layout: TemporalLayout) -> PixelAutoencoder:
    config = AutoencoderConfig(
        name="pixel",
        spatial_factor=SIZE,
        frames_per_chunk=layout.frames_per_chunk,
        latents_per_chunk=layout.latents_per_chunk,
    )
    return PixelAutoencoder(pixel_latent_space(config))


def path(num_frames: int, scenes: int = 1) -> CameraBatch:
    """Create paths whose camera i of scene s is at x = i / 100 + s / 1000."""
    c2w = torch.eye(4).repeat(scenes, num_frames, 1, 1)
    c2w[..., 0, 3] = torch.arange(num_frames) / 100 + torch.arange(scenes)[:, None] / 1000
    return CameraBatch(c2w, torch.eye(3).repeat(scenes, num_frames, 1, 1))


def grey(cameras: CameraBatch) -> Tensor:
    """Frames [b, f, 3, SIZE, SIZE] that the oracle renders for some cameras."""
    return cameras.c2w[:, :, 0, 3, None, None, None].expand(-1, -1, 3, SIZE, SIZE)


class OracleDenoiser:
    """Implements the part of `Denoiser` that samplers use. Tokens brighten the frames; the null state darkens them."""

    def __init__(self, layout: TemporalLayout) -> None:
        self.autoencoder = autoencoder(layout)
        self.projections = self.embeddings = self.forwards = 0
        self.network_times: list[Tensor] = []

    def project(self, tokens: Tensor) -> Tensor:
        self.projections += 1
        return tokens.mean(dim=(1, 2))

    def null_state(self, batch_size: int) -> Tensor:
        return torch.full((batch_size,), -0.1)

    def cross_attention_kv(self, state: Tensor) -> Tensor:
        return state

    def embed_poses(self, cameras: CameraBatch) -> Tensor:
        self.embeddings += 1
        return grey(cameras)

    def velocity(self, latents: Tensor, poses: Tensor, t_net: Tensor, context: Tensor) -> Tensor:
        self.forwards += 1
        self.network_times.append(t_net)
        wanted = self.autoencoder.encode(poses + context[:, None, None, None, None])
        t = (t_net + 1) / TRAINING_TIMES
        return (latents - wanted) / t[:, :, None, None, None]
