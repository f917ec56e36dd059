"""Find points on surfaces, from pictures with known cameras and depth, and create the first Gaussians there."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.depth_geometry import DepthMaps, unproject
from scenetok_ns.models.plane_sweep import DEFAULTS, PlaneSweepOptions, sweep_depths
from scenetok_ns.splats.gaussians import SH_C0, Gaussians
from scenetok_ns.tools.seeds import seeded_generator

START_OPACITY = 0.5
REFERENCES = 24
"""Maximum number of pictures whose pixels become points, if a plane sweep finds the depth."""
KEPT = 0.7
"""Share of the pixels that become points: those with the highest confidence."""

QUANTILE_OF = 1_000_000
"""Approximate number of pixels from which the confidence limit is computed."""


class Points(NamedTuple):
    """Points on surfaces."""

    means: Float[Tensor, "n 3"]
    colours: Float[Tensor, "n 3"]
    sizes: Float[Tensor, " n"]
    """Width of a pixel at the point, in world units."""


@torch.no_grad()
def surface_points(
    frames: Float[Tensor, "n 3 height width"],
    cameras: CameraBatch,
    maps: DepthMaps | None = None,
    options: PlaneSweepOptions = DEFAULTS,
) -> Points:
    """Find the surface points that pixels show, leaving out the least certain pixels.

    Without known depth, the points come from up to `REFERENCES` frames, whose depth a plane sweep finds. In areas of
    one colour such depth is a guess: good enough to start from, but not a reconstruction.

    Args:
        frames: At least 2 frames, in [0, 1].
        cameras: Their cameras, a batch of one, on the same device.
        maps: Depth of all frames, at their size. None: `sweep_depths` finds it.
        options: Settings of the sweep.

    Raises:
        ValueError: There are fewer than 2 frames.
    """
    count = len(frames)
    if count < 2:
        raise ValueError(f"surface_points: expected at least 2 frames, got {count}")
    if maps is None:
        chosen = torch.linspace(0, count - 1, min(REFERENCES, count)).round().long().tolist()
        scale = options.side / max(options.side, *frames.shape[-2:])
        size = [max(8, round(side * scale)) for side in frames.shape[-2:]]
        frames = torch.nn.functional.interpolate(frames.float(), size=size, mode="area")
        maps = sweep_depths(frames, cameras, chosen, options)
        frames, cameras = frames[chosen], cameras.select(chosen)
    confidence = maps.confidence[:, 0]
    sample = confidence.flatten()[:: -(-confidence.numel() // QUANTILE_OF)]
    return depth_points(frames, cameras, maps.depth, (confidence > 0) & (confidence >= sample.quantile(1 - KEPT)))


def depth_points(
    frames: Float[Tensor, "n 3 height width"],
    cameras: CameraBatch,
    depth: Float[Tensor, "n 1 height width"],
    where: Bool[Tensor, "n height width"] | None = None,
) -> Points:
    """Compute the surface points of all pixels, or of those that `where` marks, from depth along the optical axis."""
    means = unproject(depth, cameras).permute(0, 2, 3, 1).flatten(0, 2)
    colours = frames.float().permute(0, 2, 3, 1).flatten(0, 2)
    focal = cameras.intrinsics[0, :, 0, 0].float() * frames.shape[-1]
    sizes = (depth[:, 0] / focal[:, None, None]).flatten()
    if where is None:
        return Points(means, colours, sizes)
    kept = where.flatten()
    return Points(means[kept], colours[kept], sizes[kept])


def gaussians_at(points: Points, limit: int, sh_degree: int, seed: int = 0) -> Gaussians:
    """Create round Gaussians at the points, as wide as a pixel. At most `limit` points are used, chosen by `seed`.

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
