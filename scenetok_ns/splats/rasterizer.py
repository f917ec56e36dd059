"""Render Gaussians with gsplat on a CUDA device."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.splats.gaussians import Gaussians

NEAR = 0.003
"""Distance of the near plane in units of the Gaussians' extent, because captures have worlds of any scale. In a room it
is about the 0.01 of splatfacto, whose worlds always have the same size."""


class Rasterized(NamedTuple):
    """Pictures of Gaussians before a background is added."""

    rgb: Float[Tensor, "n 3 height width"]
    """Colours in front of a black background; not clamped."""
    depth: Float[Tensor, "n 1 height width"]
    """Expected depth along the optical axis, in world units; 0 where there are no Gaussians."""
    alpha: Float[Tensor, "n 1 height width"]


Rasterize = Callable[[Gaussians, CameraBatch, tuple[int, int], float], Rasterized]
"""(Gaussians, a batch of one with n cameras, (height, width), near plane) -> differentiable pictures."""


def require_gsplat() -> None:
    """Raise ImportError, in one line, unless gsplat works on this machine."""
    if not torch.cuda.is_available():
        raise ImportError("splats are fitted and drawn by gsplat, which needs an NVIDIA GPU; none was found here")
    try:
        from gsplat.cuda._backend import _C  # compiles at the first use after installation
    except Exception as error:
        raise ImportError(f"gsplat could not compile its CUDA code: {str(error).splitlines()[-1]}") from error
    if _C is None:
        raise ImportError("gsplat needs the CUDA toolkit (nvcc on PATH) to compile itself at first use; none was found")


def gsplat_rasterize(gaussians: Gaussians, cameras: CameraBatch, size: tuple[int, int], near: float) -> Rasterized:
    """Implement `Rasterize` with gsplat's CUDA kernels."""
    from gsplat import rasterization

    height, width = size
    coloured = torch.cat([gaussians.sh0, gaussians.sh_rest], dim=1)
    picture, alpha, _ = rasterization(
        means=gaussians.means,
        quats=gaussians.quats,
        scales=gaussians.scales.exp(),
        opacities=gaussians.opacities.sigmoid(),
        colors=coloured,
        sh_degree=gaussians.sh_degree,
        viewmats=world_to_camera(cameras.c2w[0]),
        Ks=pixel_intrinsics(cameras.intrinsics[0], size),
        width=width,
        height=height,
        near_plane=near,
        packed=False,
        render_mode="RGB+ED",
    )
    picture = picture.permute(0, 3, 1, 2)
    return Rasterized(picture[:, :3], picture[:, 3:], alpha.permute(0, 3, 1, 2))


def world_to_camera(c2w: Float[Tensor, "n 4 4"]) -> Float[Tensor, "n 4 4"]:
    return torch.linalg.inv_ex(c2w.float()).inverse.contiguous()


def pixel_intrinsics(intrinsics: Float[Tensor, "n 3 3"], size: tuple[int, int]) -> Float[Tensor, "n 3 3"]:
    """Convert normalised intrinsics to pixels, for pictures of (height, width) pixels."""
    height, width = size
    return intrinsics.float() * intrinsics.new_tensor([[width], [height], [1.0]]).float()


@torch.no_grad()
def render_splat(
    gaussians: Gaussians, cameras: CameraBatch, size: tuple[int, int], rasterize: Rasterize = gsplat_rasterize
) -> Rasterized:
    """Render finished pictures of a splat, with colours in [0, 1] on black and without gradients.

    Args:
        gaussians: The splat, such as `load_splat(path).to(device)`.
        cameras: A batch of one, in the world of the splat, on the same device.
        size: Height and width in pixels; the pictures need not be square.
        rasterize: Renders the Gaussians.
    """
    drawn = rasterize(gaussians, cameras, size, NEAR * gaussians.extent)
    return drawn._replace(rgb=drawn.rgb.clamp(0, 1))
