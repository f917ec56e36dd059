"""Pictures of any shape from the square pictures of the networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

Aspect = Literal["border", "fill"]
"""Treatment of requests that are not square: the square view and its border, or a part of a larger square."""


BEYOND, FRAME = (0.11, 0.11, 0.13), (0.45, 0.45, 0.5)
"""Colours beside the square and of the line around it."""


LINES_PER_SIDE = 256


@dataclass(frozen=True)
class PictureRequest:
    """A picture of `height` x `width` pixels, and the square that the model makes for it.

    The networks see square pictures. Square and request have one centre (to the pixel: `top` and `left` are whole) and
    the same pixels, so nothing is stretched at any aspect ratio. `border`: the square has the short side of the
    request; the whole square is shown, with a border beside it. `fill`: the square has the long side,
    and the request is cut out of it.
    """

    height: int
    width: int
    wide: Aspect = "border"

    @property
    def side(self) -> int:
        return (min if self.wide == "border" else max)(self.height, self.width)

    @property
    def top(self) -> int:
        """Row of the square at which the request begins; negative where the request is taller."""
        return square_offset(self.side, self.height)

    @property
    def left(self) -> int:
        """Column of the square at which the request begins; negative where the request is wider."""
        return square_offset(self.side, self.width)

    def fit(
        self,
        square: Float[Tensor, "n c side side"],
        made_for: Float[Tensor, "3 3"] | None = None,
        wanted: Float[Tensor, "3 3"] | None = None,
    ) -> Float[Tensor, "n c height width"]:
        """Pictures of the square at any resolution -> pictures of the request; its edge is repeated where it ends.

        Where the square was `made_for` intrinsics that are nearly, not quite, those `wanted` (both normalised, of the
        square), it is scaled and moved to fit, to whole pixels of the request.
        """
        if square.shape[-2] != square.shape[-1]:
            raise ValueError(f"PictureRequest.fit: expected square pictures, got {tuple(square.shape[-2:])}")
        scaled, top, left = self.side, self.top, self.left
        if made_for is not None and wanted is not None and not torch.equal(made_for, wanted):
            zoom = float(wanted[1, 1] / made_for[1, 1])
            scaled = max(1, round(self.side * zoom))
            left += round(float(made_for[0, 2]) * scaled - float(wanted[0, 2]) * self.side)
            top += round(float(made_for[1, 2]) * scaled - float(wanted[1, 2]) * self.side)
        if square.shape[-1] != scaled:
            size = (scaled, scaled)
            square = F.interpolate(square.float(), size=size, mode="bilinear", align_corners=False, antialias=True)
        rows = torch.arange(top, top + self.height, device=square.device).clamp(0, scaled - 1)
        columns = torch.arange(left, left + self.width, device=square.device).clamp(0, scaled - 1)
        return square[..., rows[:, None], columns]

    def inside(self, device: torch.device | str = "cpu", margin: int = 0) -> Bool[Tensor, "height width"]:
        """Pixels of the request that the square covers, or are at most `margin` pixels beside it."""
        rows = torch.arange(self.top, self.top + self.height, device=device)
        columns = torch.arange(self.left, self.left + self.width, device=device)
        near = [(-margin <= place) & (place < self.side + margin) for place in (rows, columns)]
        return near[0][:, None] & near[1]

    def with_border(self, picture: Float[Tensor, "height width 3"]) -> Float[Tensor, "height width 3"]:
        """The picture with a frame around the square, and plain beyond."""
        if self.height == self.width or self.wide == "fill":
            return picture
        line = max(1, self.side // LINES_PER_SIDE)
        around = picture.new_tensor(BEYOND).expand_as(picture)
        framed = torch.where(self.inside(picture.device, line)[..., None], picture.new_tensor(FRAME), around)
        return torch.where(self.inside(picture.device)[..., None], picture, framed)


def square_offset(side: Any, length: Any) -> Any:
    """Where a request of `length` pixels begins on a square of `side` pixels with the same centre: whole pixels, of
    numbers or tensors."""
    return (side - length) // 2
