"""The views that a viewer has shown: each is sampled once, and nearby views continue from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.depth_geometry import DepthMaps
from scenetok_ns.models.presets import SamplerConfig

KEPT = 48
"""Maximum number of views; the least recently used view is dropped first."""
ROUNDING = 1e-6
"""Between a pose that the viewer sets and the same as the browser sends it back."""
WIDEST_TURN = 1.0
"""Radians between the directions of views that can have something in common."""


@dataclass(frozen=True, eq=False)
class View:
    """A rendered picture, with its camera and settings."""

    settings: str
    """All that it depends on beside camera and sampler: tokens, weights, seed."""
    sampler: SamplerConfig
    camera: CameraBatch
    """A single camera, on the CPU, in units of the capture."""
    picture: Float[Tensor, "3 side side"]
    latents: Float[Tensor, "1 l c h w"]
    """Latents of the chunk that holds the picture."""
    uncertainty: Float[Tensor, "h w"]
    maps: DepthMaps | None = None
    """Depth by the head; None: there is no head."""
    swept: list[DepthMaps] = field(default_factory=list)
    """Depth by a plane sweep, once it has been computed."""
    spreads: dict[int, Float[Tensor, "side side"]] = field(default_factory=dict)
    """Number of seeds -> spread of their pictures, once it has been rendered."""


class ViewCache:
    """The most recently displayed views."""

    def __init__(self) -> None:
        self._views: list[View] = []

    def __len__(self) -> int:
        return len(self._views)

    def add(self, view: View) -> None:
        self._views = [*self._views, view][-KEPT:]

    def clear(self) -> None:
        self._views = []

    def find(
        self, settings: str, samplers: Sequence[SamplerConfig], camera: CameraBatch, short_side: int
    ) -> View | None:
        """Find the view of exactly this camera, by the first of the samplers that has rendered it.

        Fields of view count as equal if they differ only by the rounding of a picture's sides, `short_side` the
        shorter, to whole pixels.
        """
        for sampler in samplers:
            for view in _of_camera(self._made_with(settings, sampler), camera, short_side):
                self._views = [*(other for other in self._views if other is not view), view]
                return view
        return None

    def near(self, settings: str, sampler: SamplerConfig, camera: CameraBatch, count: int, reach: float) -> list[View]:
        """Find up to `count` views of a sampler that look at the same things, the nearest last.

        `reach`: Distance that counts as much as turning by one radian.
        """
        views = self._made_with(settings, sampler)
        if not views or not count:
            return []
        turn, distance = _apart(views, camera)
        order = (turn + distance / reach).argsort(descending=True, stable=True)
        usable = (turn + distance > 0) & (turn < WIDEST_TURN)
        return [views[index] for index in order[usable[order]].tolist()][-count:]

    def _made_with(self, settings: str, sampler: SamplerConfig) -> list[View]:
        return [view for view in self._views if view.settings == settings and view.sampler == sampler]


def _of_camera(views: list[View], camera: CameraBatch, short_side: int) -> list[View]:
    """Return the views of exactly this camera, up to rounding. Compares all at once: one by one, 48 views would take as
    long as some pictures."""
    if not views:
        return []
    c2w = torch.cat([view.camera.c2w[:, 0] for view in views])
    mine = torch.cat([view.camera.intrinsics[:, 0, :2] for view in views])
    wanted = camera.intrinsics[:, 0, :2]
    pose = torch.isclose(c2w, camera.c2w[:, 0], rtol=ROUNDING, atol=ROUNDING).all(dim=(1, 2))
    field = ((wanted - mine).abs() <= 2 / short_side * mine.abs().clamp(min=0.5)).all(dim=(1, 2))
    return [view for view, same in zip(views, (pose & field).tolist(), strict=True) if same]


def _apart(views: list[View], camera: CameraBatch) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Angles between the viewing directions of each view and a camera, and distances between the positions."""
    c2w, to = torch.cat([view.camera.c2w[:, 0] for view in views]).double(), camera.c2w[:, 0].double()
    cosine = (c2w[:, :3, 2] * to[:, :3, 2]).sum(dim=-1).clamp(-1, 1)
    return cosine.arccos(), (c2w[:, :3, 3] - to[:, :3, 3]).norm(dim=-1)
