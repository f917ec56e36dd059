"""Geometry of depth maps: turn pixels into points and back, find what a view sees, and compare the depth of two views.

Depth is measured along the camera's optical axis (z), in the units of the poses. Maps are [n, 1, h, w]. Cameras are a
batch of one with n views: OpenCV camera-to-world, intrinsics divided by image width and height.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from scenetok_ns.models.cameras import CameraBatch, pixel_centres

SAME_SURFACE = 0.05
"""Maximum relative distance at which a point behind the visible surface still counts as seen."""


class DepthMaps(NamedTuple):
    """Depth maps of `n` views, with their confidence."""

    depth: Float[Tensor, "n 1 h w"]
    """Depth along the optical axis, above 0."""
    confidence: Float[Tensor, "n 1 h w"]
    """Estimated probability, from 0 to 1, that the depth is within `CLOSE` of the truth."""


CLOSE = 0.1
"""Relative error within which a depth counts as right, in the definition of confidence."""


def axis_rays(cameras: CameraBatch, size: tuple[int, int]) -> Float[Tensor, "n 3 h w"]:
    """Return directions through the pixel centres in world axes, scaled to depth 1 along the optical axis."""
    lenses = torch.linalg.inv_ex(cameras.intrinsics[0].float()).inverse
    rays = cameras.c2w[0, :, :3, :3].float() @ lenses @ pixel_centres(size, cameras.c2w.device)
    return rays.unflatten(2, size)


def ray_lengths(intrinsics: Float[Tensor, "n 3 3"], size: tuple[int, int]) -> Float[Tensor, "n 1 h w"]:
    """Return the factor from depth along the axis to distance along each pixel's ray; it is at least 1."""
    rays = torch.linalg.inv_ex(intrinsics.float()).inverse @ pixel_centres(size, intrinsics.device)
    return torch.linalg.vector_norm(rays, dim=1, keepdim=True).unflatten(2, size)


def unproject(depth: Float[Tensor, "n 1 h w"], cameras: CameraBatch) -> Float[Tensor, "n 3 h w"]:
    """Return the world points of all pixels."""
    height, width = depth.shape[-2:]
    return cameras.c2w[0, :, :3, 3, None, None].float() + axis_rays(cameras, (height, width)) * depth


def project(
    points: Float[Tensor, " 3 *shape"], cameras: CameraBatch
) -> tuple[Float[Tensor, "n 2 *shape"], Float[Tensor, " n *shape"]]:
    """Project world points into each view.

    Returns:
        Positions (x, y) in the picture, from 0 to 1 inside it, and depths along the optical axis, which are negative
        behind the camera.
    """
    w2c = torch.linalg.inv_ex(cameras.c2w[0].float()).inverse
    lenses = cameras.intrinsics[0].float()
    flat = points.flatten(1)
    image = (lenses @ w2c[:, :3, :3]) @ flat + lenses @ w2c[:, :3, 3:]
    image = image.unflatten(2, points.shape[1:]) if points.ndim > 1 else image[..., 0]
    depth = image[:, 2]
    return image[:, :2] / depth[:, None].clamp(min=1e-6), depth


def inside_picture(where: Float[Tensor, "n 2 *shape"], depth: Float[Tensor, " n *shape"]) -> Bool[Tensor, " n *shape"]:
    """Mark the projected points that lie in front of the camera and inside the picture."""
    return (depth > 0) & (where > 0).all(dim=1) & (where < 1).all(dim=1)


def sample_maps(
    maps: Float[Tensor, "n c h w"], where: Float[Tensor, "n 2 a b"], mode: str = "bilinear"
) -> Float[Tensor, "n c a b"]:
    """Sample maps at positions (x, y), from 0 to 1 over the picture. Positions outside get the values of the edge."""
    grid = 2 * where.permute(0, 2, 3, 1) - 1
    return F.grid_sample(maps, grid, mode=mode, align_corners=False, padding_mode="border")


def seen_from(
    points: Float[Tensor, "3 h w"], cameras: CameraBatch, depths: Float[Tensor, "n 1 a b"] | None = None
) -> Bool[Tensor, "h w"]:
    """Mark the world points that at least one view sees; arguments as for `views_that_see`."""
    return views_that_see(points, cameras, depths) > 0


def views_that_see(
    points: Float[Tensor, "3 h w"], cameras: CameraBatch, depths: Float[Tensor, "n 1 a b"] | None = None
) -> Int[Tensor, "h w"]:
    """Count the views that see each world point.

    Args:
        points: World points.
        cameras: The views.
        depths: Depth maps of the views: points behind another surface are not seen. None: nothing hides a point, so
            every point in the field of a view counts as seen.
    """
    where, depth = project(points, cameras)
    seen = inside_picture(where, depth)
    if depths is not None:
        surface = sample_maps(depths, where, "nearest")[:, 0]
        seen &= depth <= surface * (1 + SAME_SURFACE)
    return seen.sum(dim=0)


def disagreement(
    depth: Float[Tensor, "n 1 h w"], cameras: CameraBatch, first: int, second: int
) -> tuple[Float[Tensor, "h w"], Bool[Tensor, "h w"]]:
    """Compute the relative difference between one view's depth, moved into another view, and that view's own depth.

    Returns:
        |moved - own| / own for each pixel of view `first`, and a mask of the pixels that count: those inside view
        `second` that are not hidden there. A point counts as hidden if its depth is at least 1.25 times the depth of
        the surface that view `second` shows.
    """
    points = unproject(depth[first : first + 1], cameras.select([first]))[0]
    where, moved = project(points, cameras.select([second]))
    own = sample_maps(depth[second : second + 1], where, "nearest")[0, 0]
    difference = (moved[0] - own).abs() / own
    return difference, inside_picture(where, moved)[0] & (moved[0] < 1.25 * own)


def normals_of(depth: Float[Tensor, "n 1 h w"], cameras: CameraBatch) -> Float[Tensor, "n 3 h w"]:
    """Compute the unit normals of the surface in each depth map, in world axes, pointing towards the camera."""
    points = unproject(depth, cameras)
    padded = F.pad(points, (1, 1, 1, 1), mode="replicate")
    across = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
    down = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    normal = F.normalize(torch.linalg.cross(down, across, dim=1), dim=1)
    towards = cameras.c2w[0, :, :3, 3, None, None].float() - points
    return torch.where((normal * towards).sum(dim=1, keepdim=True) < 0, -normal, normal)
