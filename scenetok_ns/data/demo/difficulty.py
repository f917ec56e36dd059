"""Measure how hard a posed image set is, by scoring trivial predictions of the views that are not context views."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from scenetok_ns.models.metrics import psnr


@dataclass(frozen=True)
class Difficulty:
    """PSNR of trivial predictions in dB, averaged over the target views. The blocks are averages of the targets."""

    mean_colour: float
    nearest_context: float
    blocks_of_4: float
    blocks_of_8: float
    turn_degrees: float
    """Range of the viewing direction's heading over the whole walk."""


def demo_difficulty(images: Float[Tensor, "v 3 h w"], c2w: Float[Tensor, "v 4 4"], num_context: int = 12) -> Difficulty:
    """Measure one scene whose views follow a walk.

    Args:
        images: Views in the order of the walk, in [0, 1].
        c2w: Their poses, camera-to-world, OpenCV axes, in a world whose z axis points up.
        num_context: Number of context views, spread evenly over the walk. All other views are targets.
    """
    context, target = even_split(len(images), num_context)
    truth = images[target]
    nearest = context[nearest_views(c2w[target], c2w[context])]
    mean = images[context].mean(dim=(0, 2, 3))[:, None, None]
    return Difficulty(
        mean_colour=mean_psnr(mean, truth),
        nearest_context=mean_psnr(images[nearest], truth),
        blocks_of_4=mean_psnr(in_blocks(truth, 4), truth),
        blocks_of_8=mean_psnr(in_blocks(truth, 8), truth),
        turn_degrees=turn_degrees(c2w),
    )


def even_split(num_views: int, num_context: int) -> tuple[Int[Tensor, " context"], Int[Tensor, " target"]]:
    context = torch.linspace(0, num_views - 1, num_context).round().long()
    is_target = torch.ones(num_views, dtype=torch.bool)
    is_target[context] = False
    return context, is_target.nonzero()[:, 0]


def nearest_views(target: Float[Tensor, "t 4 4"], context: Float[Tensor, "c 4 4"]) -> Int[Tensor, " t"]:
    """Find the context view nearest to each target, by the angle between the cameras in radians plus their distance in
    metres."""
    relative = torch.einsum("tji,cjk->tcik", target[:, :3, :3], context[:, :3, :3])
    cosine = (relative.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    distance = (target[:, None, :3, 3] - context[None, :, :3, 3]).norm(dim=-1)
    return (cosine.clamp(-1, 1).acos() + distance).argmin(dim=1)


def mean_psnr(predicted: Float[Tensor, "*v 3 #h #w"], truth: Float[Tensor, "v 3 h w"]) -> float:
    return float(psnr(pred=predicted, target=truth).mean())


def in_blocks(images: Float[Tensor, "v 3 h w"], side: int) -> Float[Tensor, "v 3 h w"]:
    return F.interpolate(F.avg_pool2d(images, side), scale_factor=side)


def turn_degrees(c2w: Float[Tensor, "v 4 4"]) -> float:
    """Return the range of a walk's heading in a z-up world, from leftmost to rightmost direction, in degrees."""
    heading = torch.atan2(c2w[:, 1, 2], c2w[:, 0, 2]).double()
    steps = torch.remainder(heading.diff() + math.pi, 2 * math.pi) - math.pi
    path = torch.cat([torch.zeros_like(heading[:1]), steps.cumsum(0)])
    return math.degrees(float(path.max() - path.min()))
