"""Frames of a path in one denoising step, with gradients: for losses on scene tokens."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from scenetok_ns.models.autoencoders.base import Autoencoder
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.flow.rectified_flow import euler_step, network_time
from scenetok_ns.models.flow.windows import start_path
from scenetok_ns.models.networks.denoiser import Denoiser
from scenetok_ns.models.presets import SamplerConfig


def single_step_frames(
    denoiser: Denoiser,
    autoencoder: Autoencoder,
    tokens: Float[Tensor, "b n dim"],
    cameras: CameraBatch,
    image_size: tuple[int, int],
    sampler: SamplerConfig,
    *,
    seed: int = 0,
    autocast: bool = False,
) -> Float[Tensor, "b f 3 height width"]:
    """Predict the frames of a path from noise alone, a window at a time.

    Args:
        denoiser: Network that predicts the latents; gradients pass through it.
        autoencoder: Network that decodes the latents; gradients also pass through it.
        tokens: Tokens of one or more scenes.
        cameras: A camera for each frame, relative to each scene's reference view.
        image_size: Height and width of the frames in pixels.
        sampler: Sampler config; only its window is used.
        seed: Random seed of the noise.
        autocast: Run the denoiser in bfloat16.

    Returns:
        Frames in [0, 1], float32. Windows are independent of one another.
    """
    layout = autoencoder.space.layout
    path = start_path(autoencoder.space, tokens, cameras, image_size, sampler, seed, None)
    with torch.autocast(path.noise.device.type, torch.bfloat16, enabled=autocast):
        context = denoiser.cross_attention_kv(denoiser.project(tokens))
    windows = []
    for first in range(0, path.noise.shape[1], sampler.window):
        noise = path.noise[:, first : first + sampler.window]
        seen = path.cameras.select(layout.frame_slice(first, first + noise.shape[1]))
        time = noise.new_ones(noise.shape[:2])
        with torch.autocast(noise.device.type, torch.bfloat16, enabled=autocast):
            velocity = denoiser.velocity(noise, denoiser.embed_poses(seen), network_time(time), context)
        windows.append(euler_step(noise, velocity, time, torch.zeros_like(time)))
    return autoencoder.decode(torch.cat(windows, dim=1))[:, : path.num_frames].float()
