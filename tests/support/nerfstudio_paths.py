"""Paths of Nerfstudio cameras, as its tools create them."""

from __future__ import annotations

import torch
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor


def random_poses(n: int, seed: int = 0) -> Tensor:
    """Draw n rigid OpenGL poses [n, 3, 4]."""
    generator = torch.Generator().manual_seed(seed)
    rotations, _ = torch.linalg.qr(torch.randn(n, 3, 3, generator=generator))
    rotations = rotations * torch.linalg.det(rotations)[:, None, None]
    return torch.cat([rotations, torch.randn(n, 3, 1, generator=generator)], dim=-1)


def path(n: int, height: int = 48, width: int = 80, seed: int = 0) -> Cameras:
    return Cameras(
        camera_to_worlds=random_poses(n, seed),
        fx=torch.linspace(50.0, 60.0, n),
        fy=torch.linspace(51.0, 61.0, n),
        cx=torch.full((n,), width / 2 + 3.0),
        cy=torch.full((n,), height / 2 - 2.0),
        width=width,
        height=height,
        metadata={"scene_idx": torch.arange(n)[:, None]},
    )
