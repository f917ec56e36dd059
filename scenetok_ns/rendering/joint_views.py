"""Render views jointly from tokens, with depth and its confidence, and find the pixels that no photograph shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.depth_geometry import DepthMaps, unproject, views_that_see
from scenetok_ns.models.flow.sampling import OnStep
from scenetok_ns.models.presets import SamplerConfig
from scenetok_ns.models.rendered_depth import depth_windows
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.models.tokens import SceneTokens


@dataclass(frozen=True)
class JointViews:
    """Rendered views of a scene, on the model's device."""

    frames: Float[Tensor, "n 3 side side"]
    """Pixels in [0, 1]."""
    cameras: CameraBatch
    """A batch of one, in units of the capture."""
    depth: DepthMaps

    @property
    def certainty(self) -> Float[Tensor, "n 1 side side"]:
        """Confidence of the depth, 0 to 1: low where the model does not know the scene.

        The uncertainty of the last denoising step cannot serve instead: in a single step it is noise (docs/splats.md).
        """
        return self.depth.confidence

    def select(self, index: Tensor) -> JointViews:
        depth = DepthMaps(*(values[index] for values in self.depth))
        return JointViews(self.frames[index], self.cameras.select(index), depth)


@torch.no_grad()
def render_jointly(
    model: SceneTok,
    tokens: SceneTokens,
    cameras: CameraBatch,
    *,
    seed: int = 0,
    sampler: SamplerConfig | None = None,
    depth: DepthMaps | None = None,
    on_step: OnStep | None = None,
) -> JointViews:
    """Render a path with depth, which comes from the depth head or a plane sweep.

    Args:
        model: Model that renders.
        tokens: Tokens of the scene.
        cameras: A batch of one, in units of the capture.
        seed: Random seed of the noise.
        sampler: Sampler. None: that of the preset.
        depth: Depth of these views, if it is already known. None: it is predicted.
        on_step: Called after each step. An exception that it raises ends the rendering.
    """
    cameras = cameras.to(model.device, torch.float32)
    frames: list[Tensor] = []
    maps: list[DepthMaps] = []
    if depth is None:
        windows = depth_windows(model, tokens, cameras, seed=seed, sampler=sampler, on_step=on_step)
    else:
        windows = model.render_windows(tokens, cameras, seed=seed, sampler=sampler, on_step=on_step)
    for window in windows:
        frames.append(window.frames[0].clamp(0, 1))
        if window.maps is not None:
            maps.append(DepthMaps(window.maps.depth[0], window.maps.confidence[0]))
    if depth is None:
        depth = DepthMaps(*(torch.cat(parts) for parts in zip(*maps, strict=True)))
    return JointViews(torch.cat(frames), cameras, depth)


def join_views(parts: Sequence[JointViews]) -> JointViews:
    """Join the views of several paths."""
    c2w = torch.cat([part.cameras.c2w for part in parts], dim=1)
    intrinsics = torch.cat([part.cameras.intrinsics for part in parts], dim=1)
    depth, confidence = (torch.cat([part.depth[i] for part in parts]) for i in range(2))
    return JointViews(
        torch.cat([part.frames for part in parts]),
        CameraBatch(c2w, intrinsics),
        DepthMaps(depth, confidence),
    )


def pixels_unseen(
    depth: Float[Tensor, "n 1 h w"], cameras: CameraBatch, seen: CameraBatch, seen_depth: Float[Tensor, "m 1 a b"]
) -> Bool[Tensor, "n h w"]:
    """Mark the pixels of some views that show a surface that no photograph shows; arguments as for
    `photographs_that_show`."""
    return photographs_that_show(depth, cameras, seen, seen_depth) == 0


def photographs_that_show(
    depth: Float[Tensor, "n 1 h w"], cameras: CameraBatch, seen: CameraBatch, seen_depth: Float[Tensor, "m 1 a b"]
) -> Int[Tensor, "n h w"]:
    """Count the photographs that show the surface of each pixel of some views.

    Args:
        depth: Depth of the views.
        cameras: Cameras of the views, a batch of one.
        seen: Cameras of the photographs, a batch of one.
        seen_depth: Depth of the photographs.
    """
    points = unproject(depth, cameras)
    return torch.stack([views_that_see(one, seen, seen_depth) for one in points])
