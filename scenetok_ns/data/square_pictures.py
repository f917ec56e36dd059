"""Make pictures of any aspect ratio from the square pictures of the networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

Aspect = Literal["border", "fill"]
"""Treatment of requests that are not square: "border" shows the square with a border, "fill" cuts from a larger one."""


BEYOND, FRAME = (0.11, 0.11, 0.13), (0.45, 0.45, 0.5)
"""Colours of the area beside the square and of the line around the square."""


LINES_PER_SIDE = 256


@dataclass(frozen=True)
class PictureRequest:
    """A picture of `height` x `width` pixels, and the square that the model renders for it.

    The networks render square pictures. Square and request have the same centre (up to rounding, as `top` and `left`
    are whole pixels) and the same pixel size, so nothing is stretched at any aspect ratio. `border`: the square has the
    short side of the request, and the whole square is displayed with a border beside it. `fill`: the square has the
    long side, and the request is cut out of it.
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
        """Convert pictures of the square at any resolution to pictures of the request.

        Beyond the square, its edge is repeated. If the square was rendered with the intrinsics `made_for`, which differ
        slightly from those `wanted` (both normalised, of the square), it is scaled and moved to fit, to whole pixels of
        the request.

        Raises:
            ValueError: The pictures are not square.
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
        """Mask of the request's pixels that lie in the square, or at most `margin` pixels beside it."""
        rows = torch.arange(self.top, self.top + self.height, device=device)
        columns = torch.arange(self.left, self.left + self.width, device=device)
        near = [(-margin <= place) & (place < self.side + margin) for place in (rows, columns)]
        return near[0][:, None] & near[1]

    def with_border(self, picture: Float[Tensor, "height width 3"]) -> Float[Tensor, "height width 3"]:
        """Draw a frame around the square, and a plain colour beyond it."""
        if self.height == self.width or self.wide == "fill":
            return picture
        line = max(1, self.side // LINES_PER_SIDE)
        around = picture.new_tensor(BEYOND).expand_as(picture)
        framed = torch.where(self.inside(picture.device, line)[..., None], picture.new_tensor(FRAME), around)
        return torch.where(self.inside(picture.device)[..., None], picture, framed)


def square_offset(side: Any, length: Any) -> Any:
    """Offset, in whole pixels, of a request of `length` pixels in a square of `side` pixels with the same centre.

    Both can be numbers or tensors.
    """
    return (side - length) // 2
