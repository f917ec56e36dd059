"""What Nerfstudio's tools expect of a picture, and pictures as files."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from scenetok_ns.data.square_pictures import PictureRequest

FAR = 1000.0
"""Depth of every pixel, in scene units. The model knows none; a far plane keeps the viewer's frustums in sight."""


def relative_uncertainty(norm: Float[Tensor, "h w"], channels: int) -> Float[Tensor, "h w"]:
    """Norm of a velocity over the channels -> about 0 to 1: half the root of its mean square."""
    return norm.float() / (2 * channels**0.5)


def picture_outputs(
    rgb: Float[Tensor, "height width 3"], uncertainty: Float[Tensor, "height width 1"], request: PictureRequest | None
) -> dict[str, Tensor]:
    """What Nerfstudio's tools expect of a model; with a `request`, the border of its square is drawn."""
    plane = rgb.new_ones(*rgb.shape[:2], 1)
    accumulation = plane
    if request is not None and request.wide == "border":
        accumulation = request.inside(rgb.device)[..., None].to(rgb.dtype)
        rgb, uncertainty = request.with_border(rgb), uncertainty * accumulation
    return {"rgb": rgb, "depth": FAR * plane, "accumulation": accumulation, "uncertainty": uncertainty}
