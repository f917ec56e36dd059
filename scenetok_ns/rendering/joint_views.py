"""Views that are rendered jointly from tokens, with depth and its confidence, and the pixels that photographs show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.depth_geometry import DepthMaps, seen_from, unproject
from scenetok_ns.models.flow.sampling import OnStep
from scenetok_ns.models.presets import SamplerConfig
from scenetok_ns.models.rendered_depth import depth_windows
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.models.tokens import SceneTokens


@dataclass(frozen=True)
class JointViews:
    """Rendered views of a scene; everything is on the model's device."""

    frames: Float[Tensor, "n 3 side side"]
    """Pixels in [0, 1]."""
    cameras: CameraBatch
    """A batch of one, in units of the capture."""
    depth: DepthMaps

    @property
    def certainty(self) -> Float[Tensor, "n 1 side side"]:
        """Confidence of the depth, 0 to 1: low where the model does not know what is there.

        The last denoising step's uncertainty would not do: in a single step it is noise (docs/splats.md).
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
    """Render a path with depth, from the head or by a plane sweep.

    Args:
        cameras: A batch of one, in units of the capture.
        depth: Depth of these views, where it is known already; None: it is predicted.
        seed: Random seed of the noise.
        sampler: None: the preset's.
        on_step: Progress; an exception ends the rendering.
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
    """Views of several paths as one set."""
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
    """Which pixels of some views show a surface that none of the photographs saw.

    Args:
        depth, cameras: The views, with their depth.
        seen, seen_depth: The photographs' cameras, with their depth. Cameras are batches of one.
    """
    points = unproject(depth, cameras)
    return torch.stack([~seen_from(one, seen, seen_depth) for one in points])
