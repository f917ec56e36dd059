"""Create the outputs that Nerfstudio's tools expect for a picture."""

from __future__ import annotations

from collections.abc import Callable, ItemsView, ValuesView
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from scenetok_ns.data.square_pictures import PictureRequest
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.depth_geometry import DepthMaps, ray_lengths, seen_from, unproject
from scenetok_ns.models.tokens import SceneTokens

FAR = 1000.0
"""Depth of pixels without a scene (the border of a square, a message), in scene units."""
DISPLAYED_SHARES = 0.02, 0.98
"""Quantiles of a picture's depth that map to the ends of the colour range."""


def relative_uncertainty(norm: Float[Tensor, "h w"], channels: int) -> Float[Tensor, "h w"]:
    """Convert the norm of a velocity over the channels to a value of about 0 to 1: half its root mean square."""
    return norm.float() / (2 * channels**0.5)


@dataclass(frozen=True)
class ViewDepth:
    """Depth of a square view, which is computed on first use."""

    find: Callable[[], DepthMaps]
    """Computes depth and confidence of the view, each [1, 1, side, side]."""
    camera: CameraBatch
    """Camera of the square view: a batch of one with one camera."""
    tokens: SceneTokens | None
    """Tokens of the scene, with the cameras of its photographs; None: unknown."""

    @cached_property
    def maps(self) -> DepthMaps:
        return self.find()

    @property
    def distance(self) -> Float[Tensor, "1 1 side side"]:
        """Distance along each pixel's ray in scene units, as Nerfstudio's tools expect depth."""
        depth = self.maps.depth
        return depth * ray_lengths(self.camera.intrinsics[0].to(depth.device), (depth.shape[-2], depth.shape[-1]))

    @property
    def accumulation(self) -> Float[Tensor, "1 1 side side"]:
        """1 where the point is in the field of view of one of the scene's photographs, else the confidence."""
        depth, confidence = self.maps
        tokens = self.tokens
        if tokens is None or tokens.cameras_c2w is None or tokens.cameras_intrinsics is None:
            return confidence
        known = CameraBatch(tokens.cameras_c2w[None], tokens.cameras_intrinsics[None]).to(depth.device)
        seen = seen_from(unproject(depth, self.camera.to(depth.device))[0], known)
        return confidence.masked_fill(seen, 1.0)


class PictureOutputs(dict[str, Any]):
    """Outputs some of which are computed when they are read, because depth can cost more than the picture."""

    def __getitem__(self, name: str) -> Tensor:
        value = super().__getitem__(name)
        if not isinstance(value, Tensor):
            self[name] = value = value()
        return value

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default  # noqa: SIM401  would call itself

    def items(self) -> ItemsView[str, Tensor]:  # type: ignore[override]
        return {name: self[name] for name in self}.items()

    def values(self) -> ValuesView[Tensor]:  # type: ignore[override]
        return {name: self[name] for name in self}.values()


def picture_outputs(
    rgb: Float[Tensor, "height width 3"],
    uncertainty: Float[Tensor, "height width 1"] | Callable[[], Float[Tensor, "height width 1"]],
    request: PictureRequest | None,
    depth: ViewDepth | None = None,
    *fitting: Tensor,
) -> dict[str, Tensor]:
    """Create the outputs that Nerfstudio's tools expect of a model, with the border of the square if there is one.

    Args:
        rgb: Picture in [0, 1].
        uncertainty: Uncertainty of its pixels, or a function that computes it when the output is read.
        request: Size and aspect ratio of the picture; None: it shows no scene.
        depth: Depth of the square view; None: unknown, and the output is a plane at the distance `FAR`.
        fitting: Further arguments of `PictureRequest.fit`, if the view was rendered with other intrinsics.
    """
    plane = rgb.new_ones(*rgb.shape[:2], 1)
    covered = plane
    if request is not None and request.wide == "border":
        covered = request.inside(rgb.device)[..., None].to(rgb.dtype)
        rgb = request.with_border(rgb)
    found = uncertainty if callable(uncertainty) else lambda: uncertainty
    outputs = PictureOutputs(rgb=rgb, depth=FAR * plane, accumulation=covered, uncertainty=lambda: found() * covered)
    if depth is not None and request is not None:
        outputs["depth"] = lambda: _fitted(depth.distance, request, fitting).lerp(FAR * plane, 1 - covered)
        outputs["accumulation"] = lambda: _fitted(depth.accumulation, request, fitting) * covered
    return outputs


def for_display(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the outputs for a page that draws values from 0 to 1 as colours, with depth scaled to this range.

    0 is the nearest and 1 the farthest depth in the picture, without 2 % at each end. The border is also 0.
    """
    shown = PictureOutputs(outputs)
    shown["depth"] = lambda: depth_shades(outputs["depth"])  # type: ignore[assignment]
    return shown


def depth_shades(depth: Float[Tensor, "height width 1"]) -> Float[Tensor, "height width 1"]:
    """Scale depth in any units, `FAR` where it is unknown, to values from 0 (near or unknown) to 1 (far)."""
    known = depth < FAR / 2
    if not known.any():
        return torch.zeros_like(depth)
    near, far = depth[known].float().quantile(depth.new_tensor(DISPLAYED_SHARES, dtype=torch.float32))
    shades = (depth - near) / (far - near).clamp(min=1e-6 * FAR)
    return shades.clamp(0, 1) * known


def _fitted(square: Tensor, request: PictureRequest, fitting: tuple[Tensor, ...]) -> Float[Tensor, "height width 1"]:
    return request.fit(square, *fitting)[0].permute(1, 2, 0)
