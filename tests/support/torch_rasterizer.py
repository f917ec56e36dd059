"""Splatting in plain torch: every Gaussian at every pixel. It replaces gsplat on a CPU and is its test reference."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.splats.gaussians import SH_C0, Gaussians
from scenetok_ns.splats.rasterizer import Rasterized, pixel_intrinsics, world_to_camera

BLUR = 0.3
"""Value added to projected variances, in squared pixels (the low-pass filter of 3D Gaussian splatting)."""
SH_C1 = 0.4886025119029199


def rasterize(gaussians: Gaussians, cameras: CameraBatch, size: tuple[int, int], near: float) -> Rasterized:
    views = zip(world_to_camera(cameras.c2w[0]), pixel_intrinsics(cameras.intrinsics[0], size), strict=True)
    parts = [_one(gaussians, w2c, k, size, near) for w2c, k in views]
    return Rasterized(*(torch.stack(part) for part in zip(*parts, strict=True)))


def _one(
    gaussians: Gaussians, w2c: Tensor, k: Tensor, size: tuple[int, int], near: float
) -> tuple[Tensor, Tensor, Tensor]:
    height, width = size
    centre = gaussians.means @ w2c[:3, :3].T + w2c[:3, 3]
    front = centre[:, 2] > near
    centre = centre[front]
    order = centre[:, 2].argsort()
    centre = centre[order]
    kept = front.nonzero()[:, 0][order]
    x, y, z = centre.unbind(1)
    mean = torch.stack([k[0, 0] * x / z + k[0, 2], k[1, 1] * y / z + k[1, 2]], dim=1)
    covariance = _covariance(gaussians.select(kept), w2c[:3, :3], centre, k, size)
    radius = 3 * torch.linalg.eigvalsh(covariance.detach())[:, -1].sqrt()
    beside = ((mean + radius[:, None] > 0) & (mean - radius[:, None] < mean.new_tensor([width, height]))).all(1)
    mean, covariance, z, kept = mean[beside], covariance[beside], z[beside], kept[beside]
    pixels = torch.stack(
        torch.meshgrid(torch.arange(width) + 0.5, torch.arange(height) + 0.5, indexing="xy"), dim=-1
    ).flatten(0, 1)
    offset = pixels[:, None].to(mean) - mean  # [p, n, 2]
    power = (offset * torch.linalg.solve(covariance, offset[..., None])[..., 0]).sum(-1) / 2
    alpha = (gaussians.opacities[kept].sigmoid() * torch.exp(-power)).clamp(max=0.999)
    through = torch.cumprod(torch.cat([torch.ones_like(alpha[:, :1]), 1 - alpha], dim=1), dim=1)[:, :-1]
    weight = alpha * through
    colours = _colours(gaussians, w2c)[kept]
    covered = weight.sum(1)
    depth = (weight * z).sum(1) / covered.clamp(min=1e-10)
    shape = (-1, height, width)
    return (weight @ colours).T.reshape(shape), depth.reshape(shape), covered.reshape(shape)


def _covariance(gaussians: Gaussians, rotation: Tensor, centre: Tensor, k: Tensor, size: tuple[int, int]) -> Tensor:
    """Covariances of the projections in squared pixels, to first order.

    As in 3D Gaussian splatting, the expansion is around a point that is at most slightly outside the picture.
    """
    axes = rotation @ rotation_of(gaussians.quats) * gaussians.scales.exp()[:, None]
    z = centre[:, 2]
    slopes = []
    for axis, (length, along) in enumerate(((size[1], centre[:, 0]), (size[0], centre[:, 1]))):
        focal, middle = k[axis, axis], k[axis, 2]
        margin = 0.3 * length / 2 / focal
        slopes.append((along / z).clamp(-middle / focal - margin, (length - middle) / focal + margin))
    x, y = slopes[0] * z, slopes[1] * z
    zero = torch.zeros_like(z)
    jacobian = torch.stack(
        [
            torch.stack([k[0, 0] / z, zero, -k[0, 0] * x / z**2], 1),
            torch.stack([zero, k[1, 1] / z, -k[1, 1] * y / z**2], 1),
        ],
        1,
    )
    flat = jacobian @ axes
    return flat @ flat.mT + BLUR * torch.eye(2).to(flat)


def _colours(gaussians: Gaussians, w2c: Tensor) -> Tensor:
    """Colours from harmonics up to degree 1."""
    position = -w2c[:3, :3].T @ w2c[:3, 3]
    x, y, z = F.normalize(gaussians.means - position, dim=1).T[:, :, None]
    colour = SH_C0 * gaussians.sh0[:, 0]
    if gaussians.sh_degree:
        first, second, third = gaussians.sh_rest[:, :3].unbind(1)
        colour = colour + SH_C1 * (-y * first + z * second - x * third)
    return (colour + 0.5).clamp(min=0)


def rotation_of(quats: Tensor) -> Tensor:
    w, x, y, z = F.normalize(quats, dim=1).unbind(1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
