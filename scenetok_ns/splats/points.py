"""Where surfaces are, from pictures with known cameras: a plane sweep. Gaussians start there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from scenetok_ns.data.poses import camera_spread, pose_distances, scaled_poses
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.splats.gaussians import SH_C0, Gaussians
from scenetok_ns.tools.seeds import seeded_generator

START_OPACITY = 0.5


@dataclass(frozen=True)
class PlaneSweepOptions:
    """Settings of the plane sweep. Depths are in units of the cameras' spread, so captures of any scale are alike."""

    nearest: float = 0.2
    farthest: float = 100.0
    num_depths: int = 96
    """Tried depths, evenly spaced in their logarithm."""
    num_references: int = 24
    """Pictures whose pixels become points."""
    num_neighbours: int = 8
    """Pictures that each is compared with."""
    side: int = 64
    """Pixels of the pictures' longer side while they are compared."""
    kept: float = 0.7
    """Part of the pixels that becomes points: those whose colours agree best."""


class Points(NamedTuple):
    """Points on surfaces."""

    means: Float[Tensor, "n 3"]
    colours: Float[Tensor, "n 3"]
    sizes: Float[Tensor, " n"]
    """Width of a pixel at the point, in world units."""


@torch.no_grad()
def surface_points(
    frames: Float[Tensor, "n 3 height width"], cameras: CameraBatch, options: PlaneSweepOptions = PlaneSweepOptions()
) -> Points:
    """For each pixel of some frames, the point on its ray whose colour is the same in neighbouring frames.

    The colour difference is averaged over the better half of the neighbours that see the point (the others may be
    hidden) and over 3 x 3 pixels. Where colours are flat, depths are guesses: a start, no reconstruction.

    Args:
        frames: at least 2, in [0, 1].
        cameras: a batch of one with their cameras, on the same device.

    Raises:
        ValueError: fewer than 2 frames.
    """
    count = len(frames)
    if count < 2:
        raise ValueError(f"surface_points: expected at least 2 frames, got {count}")
    scale = min(1.0, options.side / max(frames.shape[-2:]))
    size = [max(8, round(side * scale)) for side in frames.shape[-2:]]
    small = F.interpolate(frames.float(), size=size, mode="area")
    depths = depth_steps(cameras.c2w[0], options)
    unit = camera_spread(cameras.c2w[0]) or 1.0
    near = neighbours(scaled_poses(cameras.c2w[0], 1 / unit), min(options.num_neighbours, count - 1))
    references = torch.linspace(0, count - 1, min(options.num_references, count)).round().long().tolist()
    found = [_sweep(small, cameras, reference, near[reference], depths) for reference in references]
    means, colours, sizes, cost = (torch.cat(parts) for parts in zip(*found, strict=True))
    finite = cost.isfinite()
    limit = cost[finite].quantile(options.kept) if finite.any() else cost.new_zeros(())
    chosen = finite & (cost <= limit)
    return Points(means[chosen], colours[chosen], sizes[chosen])


def depth_steps(c2w: Float[Tensor, "n 4 4"], options: PlaneSweepOptions) -> Float[Tensor, " depths"]:
    """Depths to try, in units of the cameras' spread (of the world where they are all in one place)."""
    steps = torch.linspace(0, 1, options.num_depths, device=c2w.device)
    return (camera_spread(c2w) or 1.0) * options.nearest * (options.farthest / options.nearest) ** steps


def neighbours(c2w: Float[Tensor, "n 4 4"], count: int) -> Int64[Tensor, "n count"]:
    """For each camera the `count` others nearest in position and angle, the very nearest half left out if it can be:
    cameras at nearly the same place say nothing about depth. Positions are in units of the cameras' spread, so that
    an angle of one radian is as far."""
    distances = pose_distances(c2w).fill_diagonal_(torch.inf)
    order = distances.argsort(dim=1)[:, :-1]
    spaced = torch.arange(count, device=c2w.device) * min(2, order.shape[1] // count)
    return order[:, spaced]


def _sweep(
    frames: Float[Tensor, "n 3 h w"],
    cameras: CameraBatch,
    reference: int,
    others: Int64[Tensor, " m"],
    depths: Float[Tensor, " d"],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Point, colour, size and cost of each pixel of one frame."""
    height, width = frames.shape[-2:]
    c2w, intrinsics = cameras.c2w[0, reference].float(), cameras.intrinsics[0, reference].float()
    rays = torch.linalg.inv_ex(intrinsics).inverse @ _pixel_centres(height, width, frames.device)
    rays = c2w[:3, :3] @ rays  # of depth 1
    world = c2w[:3, 3, None, None] + rays[:, None] * depths[:, None]  # [3, d, pixels]
    colour = frames[reference].flatten(1)
    cost = colour_difference(frames[others], cameras.select(others.tolist()), world, colour)  # [d, pixels]
    smooth = F.avg_pool2d(cost.unflatten(1, (height, width))[:, None], 3, stride=1, padding=1, count_include_pad=False)
    best, index = smooth.flatten(1).min(dim=0)
    chosen = depths[index]
    return (c2w[:3, 3, None] + rays * chosen).T, colour.T, chosen / (intrinsics[0, 0] * width), best


def colour_difference(
    frames: Float[Tensor, "m 3 h w"],
    cameras: CameraBatch,
    world: Float[Tensor, "3 d pixels"],
    colour: Float[Tensor, "3 pixels"],
) -> Float[Tensor, "d pixels"]:
    """Mean absolute difference over the better half of the frames that see a point; infinite where none does."""
    w2c = torch.linalg.inv_ex(cameras.c2w[0].float()).inverse
    projection = cameras.intrinsics[0].float() @ w2c[:, :3, :3]
    offset = (cameras.intrinsics[0].float() @ w2c[:, :3, 3:])[..., None]
    image = (projection @ world.flatten(1)).unflatten(2, world.shape[1:]) + offset  # [m, 3, d, pixels]
    depth = image[:, 2]
    where = image[:, :2] / depth[:, None].clamp(min=1e-6)
    seen = (depth > 0) & (where > 0).all(dim=1) & (where < 1).all(dim=1)
    found = F.grid_sample(frames, 2 * where.permute(0, 2, 3, 1) - 1, align_corners=False, padding_mode="border")
    difference = (found - colour[None, :, None]).abs().mean(dim=1)  # [m, d, pixels]
    ordered = difference.masked_fill(~seen, torch.inf).sort(dim=0).values
    number = (seen.sum(dim=0) + 1) // 2  # the better half
    rank = torch.arange(len(frames), device=frames.device)[:, None, None]
    total = ordered.masked_fill(rank >= number, 0.0).sum(dim=0)
    return torch.where(number > 0, total / number.clamp(min=1), torch.inf)


def _pixel_centres(height: int, width: int, device: torch.device) -> Float[Tensor, "3 pixels"]:
    y = (torch.arange(height, device=device) + 0.5) / height
    x = (torch.arange(width, device=device) + 0.5) / width
    y, x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([x, y, torch.ones_like(x)]).flatten(1)


def gaussians_at(points: Points, limit: int, sh_degree: int, seed: int = 0) -> Gaussians:
    """Round Gaussians of a pixel's width at the points, at most `limit` of them, chosen by `seed`.

    Raises ValueError if there are no points.
    """
    if not len(points.means):
        raise ValueError("no point is seen by two of the views; render more of them, or a path with smaller steps")
    order = torch.randperm(len(points.means), generator=seeded_generator(seed))[:limit]
    means, colours, sizes = (values[order.to(values.device)] for values in points)
    n = len(means)
    quats = means.new_zeros(n, 4)
    quats[:, 0] = 1.0
    return Gaussians(
        means=means,
        scales=sizes.log()[:, None].expand(n, 3).clone(),
        quats=quats,
        opacities=torch.full_like(sizes, START_OPACITY).logit(),
        sh0=((colours - 0.5) / SH_C0)[:, None],
        sh_rest=means.new_zeros(n, (sh_degree + 1) ** 2 - 1, 3),
    )
