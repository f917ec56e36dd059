"""Views that a viewer has shown: each is sampled once, and is the ground on which the views near it are sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.presets import SamplerConfig

KEPT = 48
"""Views; the one used longest ago goes first."""
ROUNDING = 1e-6
"""Between a pose that the viewer sets and the same as the browser sends it back."""
WIDEST_TURN = 1.0
"""Radians between the directions of views that can have something in common."""


@dataclass(frozen=True, eq=False)
class View:
    """A picture as the model made it, and what it was made for."""

    settings: str
    """All that it depends on beside camera and sampler: tokens, weights, seed."""
    sampler: SamplerConfig
    camera: CameraBatch
    """One, on the CPU, in units of the capture."""
    picture: Float[Tensor, "3 side side"]
    latents: Float[Tensor, "1 l c h w"]
    """Those that hold the picture."""
    uncertainty: Float[Tensor, "h w"]


class Views:
    """The views shown last."""

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
        """The view of this very camera, of the first sampler that has it.

        Fields of view are equal if they are but for the rounding of a picture's sides, `short_side` the shorter, to
        whole pixels.
        """
        same = [view for view in self._views if view.settings == settings and _same(view.camera, camera, short_side)]
        for sampler in samplers:
            for view in same:
                if view.sampler == sampler:
                    self._views = [*(other for other in self._views if other is not view), view]
                    return view
        return None

    def near(self, settings: str, sampler: SamplerConfig, camera: CameraBatch, count: int, reach: float) -> list[View]:
        """Up to `count` views of that sampler that look at the same things, the nearest last.

        `reach`: distance that counts as much as a radian of turning.
        """
        found = []
        for view in self._views:
            turn, distance = _apart(view.camera, camera)
            if view.settings == settings and view.sampler == sampler and turn + distance > 0 and turn < WIDEST_TURN:
                found.append((turn + distance / reach, view))
        found.sort(key=lambda pair: -pair[0])
        return [view for _, view in found[max(len(found) - count, 0) :]]


def _same(one: CameraBatch, other: CameraBatch, short_side: int) -> bool:
    if not torch.allclose(one.c2w, other.c2w, rtol=ROUNDING, atol=ROUNDING):
        return False
    mine, wanted = one.intrinsics[..., :2, :], other.intrinsics[..., :2, :]
    return bool(((wanted - mine).abs() <= 2 / short_side * mine.abs().clamp(min=0.5)).all())


def _apart(one: CameraBatch, other: CameraBatch) -> tuple[float, float]:
    """Angle between the viewing directions, and distance between the positions."""
    first, second = one.c2w[0, 0].double(), other.c2w[0, 0].double()
    cosine = (first[:3, 2] * second[:3, 2]).sum().clamp(-1, 1)
    return float(torch.arccos(cosine)), float((first[:3, 3] - second[:3, 3]).norm())
