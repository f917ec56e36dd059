"""Estimate the depth of pictures with known cameras by a plane sweep, without a network and without training.

For each pixel, many depths are tried; at the right one, the pixel's point has the same colour in neighbouring pictures.
Uniform areas say nothing about depth: there, semi-global matching (Hirschmüller 2008) uses the depth of the pixels
around them. All depths are along the optical axis, in the units of the poses.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from scenetok_ns.models.cameras import CameraBatch, camera_spread, pose_distances, scaled_poses
from scenetok_ns.models.depth_geometry import CLOSE, DepthMaps, axis_rays, inside_picture, project, sample_maps


@dataclass(frozen=True)
class PlaneSweepOptions:
    """Settings of the plane sweep. Depths are in units of the cameras' spread, so captures of any scale are alike."""

    nearest: float = 0.2
    farthest: float = 60.0
    num_depths: int = 128
    """Number of depths to try, evenly spaced in their logarithm."""
    num_neighbours: int = 12
    """Number of other pictures that each picture is compared with."""
    side: int = 64
    """Longer side in pixels of the pictures that are compared."""
    smallest_jump: float = 0.012
    """Cost of a change by one depth step between neighbouring pixels, as a difference of colours in [0, 1]."""
    largest_jump: float = 0.2
    """Cost of any larger change."""
    temperature: float = 0.03
    """Difference of costs that makes a depth e times less likely; sets the confidence."""


DEFAULTS = PlaneSweepOptions()
AT_ONCE = 8
"""Number of frames whose costs are in memory together."""
SAME_PLACE = 1e-5
"""Pose distance (`pose_distances`, in units of the cameras' spread) below which two pictures count as taken from one
place."""
UNSEEN = 0.08
"""Cost of a depth whose point no other picture shows. It lies between the costs of equal and of different colours."""


@torch.no_grad()
def sweep_depths(
    frames: Float[Tensor, "n 3 height width"],
    cameras: CameraBatch,
    references: list[int] | None = None,
    options: PlaneSweepOptions = DEFAULTS,
    *,
    unit: float | None = None,
) -> DepthMaps:
    """Estimate the depth of some of the frames by comparison with the others.

    Args:
        frames: At least 2 frames in [0, 1].
        cameras: A batch of one with their cameras, on the same device.
        references: Indices of the frames whose depth is wanted. None: all.
        options: Settings of the sweep.
        unit: Unit of the depths in `options`, in units of the poses. None: the cameras' spread.

    Returns:
        Depth and confidence of the references, at the size of the frames.

    Raises:
        ValueError: Fewer than 2 frames.
    """
    count = len(frames)
    if count < 2:
        raise ValueError(f"sweep_depths: expected at least 2 frames, got {count}")
    unit = unit or camera_spread(cameras.c2w[0]) or 1.0
    scale = min(1.0, options.side / max(frames.shape[-2:]))
    size = (max(8, round(frames.shape[-2] * scale)), max(8, round(frames.shape[-1] * scale)))
    small = F.interpolate(frames.float(), size=size, mode="area")
    depths = depth_steps(unit, options).to(frames.device)
    near = neighbours(scaled_poses(cameras.c2w[0], 1 / unit), min(options.num_neighbours, count - 1))
    found = []
    for some in torch.tensor(list(range(count)) if references is None else references).split(AT_ONCE):
        costs = torch.stack([_cost(small, cameras, one, near[one], depths) for one in some.tolist()], dim=1)
        found.append(_best(_semi_global(costs, options), depths, options))
    maps = (torch.cat(parts)[:, None] for parts in zip(*found, strict=True))
    return DepthMaps(*(_resized(each, (frames.shape[-2], frames.shape[-1])) for each in maps))


def depth_steps(unit: float, options: PlaneSweepOptions) -> Float[Tensor, " depths"]:
    """Return the depths to try, in units of the poses."""
    steps = torch.linspace(0, 1, options.num_depths)
    return unit * options.nearest * (options.farthest / options.nearest) ** steps


def neighbours(c2w: Float[Tensor, "n 4 4"], count: int) -> Int64[Tensor, "n count"]:
    """Return the indices of `count` other cameras for each camera: the nearest ones in position and angle.

    Every second one is skipped if there are enough, and cameras at the same place come last, because near cameras say
    little about depth. Positions are in units of the cameras' spread, which counts as much as an angle of one radian.
    """
    distances = pose_distances(c2w)
    distances = distances.masked_fill(distances < SAME_PLACE, torch.finfo(distances.dtype).max)
    distances.fill_diagonal_(torch.inf)
    order = distances.argsort(dim=1)[:, :-1]
    spaced = torch.arange(count, device=c2w.device) * min(2, order.shape[1] // count)
    return order[:, spaced]


def colour_difference(
    frames: Float[Tensor, "m 3 h w"],
    cameras: CameraBatch,
    world: Float[Tensor, "3 d pixels"],
    colour: Float[Tensor, "3 pixels"],
) -> Float[Tensor, "d pixels"]:
    """Compute the mean absolute colour difference between points and the frames that see them; infinite if none does.

    Only the better half of these frames counts, because the point may be hidden in the others.
    """
    where, depth = project(world, cameras)
    seen = inside_picture(where, depth)
    difference = (sample_maps(frames, where) - colour[None, :, None]).abs().mean(dim=1)  # [m, d, pixels]
    ordered = difference.masked_fill(~seen, torch.inf).sort(dim=0).values
    number = (seen.sum(dim=0) + 1) // 2  # the better half
    rank = torch.arange(len(frames), device=frames.device)[:, None, None]
    total = ordered.masked_fill(rank >= number, 0.0).sum(dim=0)
    return torch.where(number > 0, total / number.clamp(min=1), torch.inf)


def _cost(
    frames: Float[Tensor, "n 3 h w"],
    cameras: CameraBatch,
    reference: int,
    others: Int64[Tensor, " m"],
    depths: Float[Tensor, " d"],
) -> Float[Tensor, "d h w"]:
    """Compute the colour difference of each pixel of one frame at each depth, averaged over 3 x 3 pixels."""
    size = (frames.shape[-2], frames.shape[-1])
    own = cameras.select([reference])
    rays = axis_rays(own, size)[0].flatten(1)
    world = own.c2w[0, 0, :3, 3, None, None].float() + rays[:, None] * depths[:, None]  # [3, d, pixels]
    cost = colour_difference(frames[others], cameras.select(others.tolist()), world, frames[reference].flatten(1))
    cost = torch.where(cost.isinf(), UNSEEN, cost).unflatten(1, size)
    return F.avg_pool2d(cost[:, None], 3, stride=1, padding=1, count_include_pad=False)[:, 0]


def _semi_global(cost: Float[Tensor, "d n h w"], options: PlaneSweepOptions) -> Float[Tensor, "d n h w"]:
    """Compute the cost of the best path that ends at each pixel with each depth, averaged over four directions."""
    total = torch.zeros_like(cost)
    for dim in (2, 3):
        for backwards in (False, True):
            along = cost.flip(dim) if backwards else cost
            summed = _along(along, dim, options)
            total += summed.flip(dim) if backwards else summed
    return total / 4


def _along(cost: Float[Tensor, "d n h w"], dim: int, options: PlaneSweepOptions) -> Float[Tensor, "d n h w"]:
    """Compute the costs of the best paths along a dimension, minus the lowest cost at the previous pixel."""
    first, *others = cost.unbind(dim)
    found = [first]
    for own in others:
        last = found[-1]
        lowest = last.amin(dim=0, keepdim=True)
        near = torch.full_like(last, torch.inf)
        near[1:] = last[:-1]
        near[:-1] = torch.minimum(near[:-1], last[1:])
        best = torch.minimum(torch.minimum(last, near + options.smallest_jump), lowest + options.largest_jump)
        found.append(own + best - lowest)
    return torch.stack(found, dim=dim)


def _best(
    cost: Float[Tensor, "d n h w"], depths: Float[Tensor, " d"], options: PlaneSweepOptions
) -> tuple[Float[Tensor, "n h w"], Float[Tensor, "n h w"]]:
    """Return the depth of the lowest cost, interpolated, and the probability that the depth is within CLOSE of it."""
    likely = (-cost / options.temperature).softmax(dim=0)
    logs = depths.log().view(-1, 1, 1, 1)
    distance = (torch.arange(len(depths), device=cost.device).view(-1, 1, 1, 1) - cost.argmin(dim=0)).abs()
    step = float(logs[1] - logs[0])
    mass = (likely * (distance <= max(1, round(CLOSE / step)))).sum(dim=0)
    around = likely * (distance <= 1)
    refined = (around * logs).sum(dim=0) / around.sum(dim=0).clamp(min=1e-12)
    return refined.exp(), mass


def _resized(maps: Float[Tensor, "n 1 h w"], size: tuple[int, int]) -> Float[Tensor, "n 1 height width"]:
    return maps if maps.shape[-2:] == size else F.interpolate(maps, size=size, mode="nearest")
