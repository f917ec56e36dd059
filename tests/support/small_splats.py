"""A few Gaussians, and cameras around them, for the tests of splats."""

from __future__ import annotations

import math

import torch

from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.splats.gaussians import Gaussians


def blobs(count: int, sh_degree: int = 0, seed: int = 0) -> Gaussians:
    """Coloured blobs in the cube from -1 to 1 around the origin."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    return Gaussians(
        means=2 * uniform(count, 3) - 1,
        scales=(0.1 + 0.2 * uniform(count, 3)).log(),
        quats=uniform(count, 4) - 0.5,
        opacities=4 * uniform(count) - 1,
        sh0=3 * uniform(count, 1, 3) - 1.5,
        sh_rest=0.3 * (uniform(count, (sh_degree + 1) ** 2 - 1, 3) - 0.5),
    )


def wall(side: int, seed: int = 0) -> Gaussians:
    """A wall of side * side opaque coloured blobs without gaps, about 4 ahead of `row_of_cameras`."""
    made = blobs(side * side, seed=seed)
    grid = torch.linspace(-4, 4, side)
    y, x = torch.meshgrid(grid, grid, indexing="ij")
    means = torch.stack([x.flatten(), y.flatten(), 4 + 0.5 * made.means[:, 2]], dim=1)
    scales = torch.full((side * side, 3), 8 / side).mul(0.7).log()
    return Gaussians(**{**made.tensors(), "means": means, "scales": scales, "opacities": made.opacities + 4})


def row_of_cameras(count: int) -> CameraBatch:
    """Cameras in a row along x at slightly varying heights that look along z; OpenCV axes."""
    c2w = torch.eye(4).repeat(count, 1, 1)
    c2w[:, 0, 3] = torch.linspace(-1.2, 1.2, count)
    c2w[:, 1, 3] = 0.3 * torch.arange(count).remainder(3)
    return CameraBatch(c2w[None], _LENS.expand(1, count, 3, 3))


def ring_of_cameras(count: int, radius: float = 3.0) -> CameraBatch:
    """Cameras on a circle at varying heights that look at the origin; OpenCV axes, z up."""
    angle = torch.arange(count) / count * 2 * math.pi
    position = torch.stack([radius * angle.cos(), radius * angle.sin(), 0.6 * (3 * angle).sin()], dim=1)
    forward = -position / position.norm(dim=1, keepdim=True)
    right = torch.linalg.cross(forward, torch.tensor([0.0, 0.0, 1.0]).expand_as(forward))
    right = right / right.norm(dim=1, keepdim=True)
    c2w = torch.eye(4).repeat(count, 1, 1)
    c2w[:, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward, position], dim=-1)
    return CameraBatch(c2w[None], _LENS.expand(1, count, 3, 3))


_LENS = torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])
