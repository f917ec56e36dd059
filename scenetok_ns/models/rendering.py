"""Scene tokens and a camera path to frames: padding to windows, denoising, decoding, cutting back.

The network only ever sees whole windows. A path that is too short, a lone camera included, or that is not a whole
number of the autoencoder's chunks, is continued with copies of its last camera, and the extra frames are dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from scenetok_ns.models.autoencoders.base import Autoencoder
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.denoiser import Denoiser
from scenetok_ns.models.noise import latent_noise
from scenetok_ns.models.presets import SamplerConfig
from scenetok_ns.models.sampling import OnStep, SampledLatents, sample_windows
from scenetok_ns.models.temporal import TemporalLayout


@dataclass(frozen=True)
class RenderedFrames:
    """Finished frames of a path, for every batch element."""

    first_frame: int
    frames: Float[Tensor, "b f 3 height width"]
    """In [0, 1], float32."""


def render_windows(
    denoiser: Denoiser,
    autoencoder: Autoencoder,
    tokens: Float[Tensor, "b n dim"],
    cameras: CameraBatch,
    image_size: tuple[int, int],
    sampler: SamplerConfig,
    *,
    seed: int | Sequence[int] = 0,
    on_step: OnStep | None = None,
    autocast: bool = False,
) -> Iterator[RenderedFrames]:
    """Frames of a path in order, each exactly once, as soon as they are final.

    Args:
        tokens: of one or more scenes; their device is where everything runs.
        cameras: one for each frame (at least one), relative to each scene's reference view.
        image_size: height and width of the frames in pixels.
        seed: of the starting noise; one for all scenes, or one for each.
        on_step: progress, called as on_step(done, total); what it raises ends the rendering.
        autocast: run the denoiser in bfloat16. The autoencoder chooses its own precision.

    Raises (at once, not at the first frame):
        ValueError: no cameras, or too few seeds; see also `sample_windows`.
    """
    space = autoencoder.space
    seeds = [seed] * len(tokens) if isinstance(seed, int) else list(seed)
    if len(seeds) != len(tokens) or cameras.batch_size != len(tokens):
        raise ValueError(
            f"render: {len(tokens)} scenes need as many camera paths, and one seed or one for each; "
            f"got {cameras.batch_size} paths and {len(seeds)} seeds"
        )
    padded = pad_path(cameras.to(tokens.device), space.layout, sampler.window)
    shape = (space.channels, *space.latent_size(image_size))
    noise = latent_noise(seeds, space.layout.num_latents(padded.num_views), shape).to(tokens.device)
    sampled = sample_windows(denoiser, tokens, padded, noise, space.layout, sampler, on_step=on_step, autocast=autocast)
    return _decode(autoencoder, sampled, cameras.num_views)


@torch.no_grad()
def _decode(autoencoder: Autoencoder, sampled: Iterator[SampledLatents], num_frames: int) -> Iterator[RenderedFrames]:
    first = 0
    for decoded in autoencoder.decode_stream(part.latents for part in sampled):
        frames = decoded[:, : num_frames - first].float()
        if frames.shape[1]:
            yield RenderedFrames(first, frames)
        first += frames.shape[1]


def pad_path(cameras: CameraBatch, layout: TemporalLayout, window: int) -> CameraBatch:
    """Continue a path with its last camera, to whole chunks of frames and at least one window of latents."""
    if cameras.num_views < 1:
        raise ValueError("render: the camera path is empty; give it at least one camera")
    latents = max(layout.num_latents(cameras.num_views), window)
    frames = layout.num_frames(latents)
    last = cameras.num_views - 1
    # A tensor on the cameras' device: a list of indices would be copied there, and waited for.
    return cameras.select(torch.arange(frames, device=cameras.c2w.device).clamp(max=last))
