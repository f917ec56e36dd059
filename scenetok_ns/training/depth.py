"""Train depth heads on a frozen denoiser: inputs of the head, and its losses.

A head sees features of the last denoising step. In training, latents of true frames are noised to the level of such a
step. For some elements they are the denoiser's own estimate from pure noise, as blurred as its renders in unseen
places.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from scenetok_ns.models.cameras import CameraBatch, camera_spread
from scenetok_ns.models.depth_geometry import inside_picture, project, sample_maps, unproject
from scenetok_ns.models.flow.rectified_flow import interpolate, network_time, shift_time
from scenetok_ns.models.flow.sampling import LastFeatures
from scenetok_ns.models.networks.denoiser import Denoiser
from scenetok_ns.models.networks.depth_head import as_depth
from scenetok_ns.models.plane_sweep import SAME_PLACE, sweep_depths
from scenetok_ns.models.presets import SamplerConfig

OWN = 0.5
"""Share of batch elements whose latents are the denoiser's own estimate."""
CONTINUED = 0.5
"""Share of batch elements whose first latents are clean, as in windows after the first."""
SSIM_PART = 0.85
"""Weight of structural similarity in the photometric loss; the rest is for absolute difference (Godard et al. 2019)."""
SMOOTHNESS = 0.01
SURE = 0.5
"""Minimum confidence for a swept depth to be a target."""


@dataclass(frozen=True)
class DepthDraws:
    """Random numbers of one step."""

    times: Float[Tensor, "b l"]
    noise: Float[Tensor, "b l c h w"]
    start: Float[Tensor, "b l c h w"]
    """Noise that the denoiser's own estimate starts from."""
    own: Bool[Tensor, " b"]


def draw_depth(
    generator: torch.Generator, shape: tuple[int, int, int, int, int], sampler: SamplerConfig, chunk: int
) -> DepthDraws:
    """Draw times of last steps, as samplers of different numbers of steps have them, and noise.

    Args:
        generator: Generator of the numbers, on their device.
        shape: Shape of the latents.
        sampler: The preset's; half of the times are of its own number of steps.
        chunk: Latents of a chunk; a window's clean part is whole chunks.
    """
    device, (b, l) = generator.device, shape[:2]
    levels = last_levels(sampler, device)
    drawn = torch.randint(len(levels), (b, 1), generator=generator, device=device)
    times = levels[drawn].expand(b, l)
    clean = min(sampler.clean_targets, l - chunk) // chunk * chunk
    continued = torch.rand(b, 1, generator=generator, device=device) < CONTINUED
    times = times.masked_fill(continued & (torch.arange(l, device=device) < clean), 0.0)
    noise, start = (torch.randn(shape, generator=generator, device=device) for _ in range(2))
    return DepthDraws(times, noise, start, torch.rand(b, generator=generator, device=device) < OWN)


@functools.cache
def last_levels(sampler: SamplerConfig, device: torch.device) -> Float[Tensor, " levels"]:
    """Times of the last step of samplers of different numbers of steps.

    They are cached for each device, because a recorded step (CUDA graph) cannot copy from CPU memory.
    """
    steps = torch.tensor([sampler.steps] * 6 + [2 * sampler.steps, 50, max(sampler.steps // 2, 1), 4, 2, 1])
    levels = 1 / steps.float()
    if sampler.timestep_shift is not None:
        levels = shift_time(levels, sampler.timestep_shift)
    return levels.to(device)


def at_resolution_of(
    wanted: Float[Tensor, "b f 1 h w"], maps: Float[Tensor, "b f 1 height width"]
) -> Float[Tensor, "b f 1 h w"]:
    """Resize `maps` to the resolution of `wanted`, without mixing values."""
    flat = F.interpolate(maps.flatten(0, 1).float(), size=wanted.shape[-2:], mode="nearest-exact")
    return flat.unflatten(0, maps.shape[:2])


@torch.no_grad()
def last_features(
    denoiser: Denoiser,
    state: Float[Tensor, "b n hidden"],
    latents: Float[Tensor, "b l c h w"],
    cameras: CameraBatch,
    draws: DepthDraws,
) -> LastFeatures:
    """Compute the head's inputs from latents of true frames. `cameras` are relative to the scene's reference."""
    poses = denoiser.embed_poses(cameras)
    context = denoiser.cross_attention_kv(state)
    velocity = denoiser.velocity(draws.start, poses, network_time(torch.ones_like(draws.times)), context)
    data = torch.where(draws.own[:, None, None, None, None], draws.start - velocity, latents)
    noisy = interpolate(data, draws.noise, draws.times)
    _, features = denoiser.velocity_and_features(noisy, poses, network_time(draws.times), context)
    return LastFeatures(features, poses)


def photometric_loss(
    log_inverse: Float[Tensor, "b f 1 h w"],
    images: Float[Tensor, "b f 3 height width"],
    cameras: CameraBatch,
) -> Float[Tensor, ""]:
    """Compare each frame with its neighbours, warped into it by its depth, and penalise uneven depth in even areas.

    At each pixel, only the better of the frames before and after counts, because the other may not see the pixel. A
    pixel counts only if it matches better with warping than without. This leaves out what moves with the camera, and
    what has no parallax.
    """
    size = (images.shape[-2], images.shape[-1])
    depth, _ = as_depth(log_inverse, torch.zeros_like(log_inverse), size)
    losses = []
    for element in range(len(images)):
        own = CameraBatch(cameras.c2w[element : element + 1], cameras.intrinsics[element : element + 1])
        points = unproject(depth[element], own)
        for frame in range(images.shape[1]):
            others = [other for other in (frame - 1, frame + 1) if 0 <= other < images.shape[1]]
            target = images[element, frame : frame + 1]
            where, z = project(points[frame], own.select(others))
            moved = sample_maps(images[element, others], where)
            unmoved = photometric_difference(images[element, others], target).amin(dim=0)
            difference = photometric_difference(moved, target).masked_fill(~inside_picture(where, z), torch.inf)
            best = difference.amin(dim=0)
            counts = best < unmoved
            losses.append((best.masked_fill(~counts, 0.0)).sum() / counts.sum().clamp(min=1))
    shown = F.interpolate(images.flatten(0, 1), size=log_inverse.shape[-2:], mode="area")
    flat = log_inverse.flatten(0, 1)
    uneven = sum(
        (flat.diff(dim=dim).abs() * (-10 * shown.diff(dim=dim).abs().mean(dim=1, keepdim=True)).exp()).mean()
        for dim in (-1, -2)
    )
    return torch.stack(losses).mean() + SMOOTHNESS * uneven


def photometric_difference(pred: Float[Tensor, "n 3 h w"], target: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "n h w"]:
    """Compute the absolute difference and local dissimilarity (SSIM over 3 x 3 pixels) of pictures, for each pixel."""
    target = target.expand_as(pred)

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)

    a, b = mean(pred), mean(target)
    spread = mean(pred * pred) - a * a + mean(target * target) - b * b + 0.03**2
    alike = (2 * a * b + 0.01**2) * (2 * (mean(pred * target) - a * b) + 0.03**2) / ((a * a + b * b + 0.01**2) * spread)
    structure = ((1 - alike) / 2).clamp(0, 1).mean(dim=1)
    return SSIM_PART * structure + (1 - SSIM_PART) * (pred - target).abs().mean(dim=1)


@torch.no_grad()
def swept_targets(
    images: Float[Tensor, "b n 3 h w"], cameras: CameraBatch, references: list[int]
) -> tuple[Float[Tensor, "b f 1 h w"], Float[Tensor, "b f 1 h w"]]:
    """Estimate the depth of some frames of each element by a plane sweep over all of them, and weight each pixel.

    All weights are 0 in elements whose cameras are all in one place, because they have no parallax.
    """
    depths, weights = [], []
    for element in range(len(images)):
        own = CameraBatch(cameras.c2w[element : element + 1], cameras.intrinsics[element : element + 1])
        maps = sweep_depths(images[element], own, references)
        depths.append(maps.depth)
        moves = camera_spread(own.c2w[0]) > SAME_PLACE
        weights.append(maps.confidence * (maps.confidence > SURE) * moves)
    return torch.stack(depths), torch.stack(weights)
