"""Outputs for single rays, as Nerfstudio's exporters request them.

The context views of the active scene are rendered once. Each ray goes through one of their pixels and gets that pixel's
outputs; the outputs of other rays are unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from torch import Tensor

from scenetok_ns.dataparsers.camera_conversion import nerfstudio_to_camera_batch
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.depth_geometry import DepthMaps, normals_of, ray_lengths
from scenetok_ns.rendering.pictures import FAR
from scenetok_ns.tools.errors import UsageError

PIXEL = "scenetok_pixel"
"""Name of the rays' metadata with row and column of the pixel."""
LEAST = 0.5
"""Opacity below which the exporters leave out a point."""
NO_RAYS = (
    "SceneTok renders whole pictures, not single rays: ns-export can make a point cloud, and meshes with "
    "--texture-method point_cloud (poisson) or tsdf (tsdf); `scenetok export-mesh` makes meshes, too"
)


def random_rays(cameras: Cameras, count: int) -> RayBundle:
    """Draw `count` rays through the middles of random pixels of some cameras."""
    device = cameras.device
    view = torch.randint(len(cameras), (count,), device=device)
    size = torch.cat([cameras.height, cameras.width], dim=1)[view]
    pixel = (torch.rand(count, 2, device=device) * size).long()
    rays = cameras.generate_rays(camera_indices=view[:, None], coords=pixel + 0.5)
    rays.metadata[PIXEL] = pixel
    return rays


@dataclass(frozen=True, eq=False)
class RayOutputs:
    """Outputs for rays of `cameras`. `render` returns all their pictures and depths, and is called on first use."""

    cameras: Cameras
    render: Callable[[CameraBatch], tuple[Float[Tensor, "v 3 side side"], DepthMaps]]

    @cached_property
    def _maps(self) -> dict[str, Float[Tensor, "v c side side"]]:
        """Outputs of all pixels. The opacity is the confidence of the depth, so that exporters leave out guesses."""
        batch = nerfstudio_to_camera_batch(self.cameras)
        frames, maps = self.render(batch)
        batch = batch.to(frames.device)
        if not (maps.confidence > LEAST).any():
            raise UsageError("no pixel of the context views has a depth that is certain enough to export")
        distance = maps.depth * ray_lengths(batch.intrinsics[0], (frames.shape[-2], frames.shape[-1]))
        normals = normals_of(maps.depth, batch) / 2 + 0.5
        return {
            "rgb": frames.clamp(0, 1),
            "depth": distance,
            "accumulation": maps.confidence,
            "normals": normals.clamp(0, 1),
        }

    def of_rays(self, rays: RayBundle) -> dict[str, Tensor]:
        """Outputs [n, c] of rays from `random_rays`. Other rays are transparent."""
        if PIXEL not in (rays.metadata or {}):
            one = rays.origins.new_ones(*rays.origins.shape[:-1], 1)
            return {
                "rgb": 0 * rays.origins,
                "depth": FAR * one,
                "accumulation": 0 * one,
                "normals": 0.5 + 0 * rays.origins,
            }
        assert rays.camera_indices is not None
        view, pixel = rays.camera_indices[:, 0].long(), rays.metadata[PIXEL]
        height, width = self._maps["rgb"].shape[-2:]
        row, column = pixel[:, 0].clamp(max=height - 1), pixel[:, 1].clamp(max=width - 1)
        return {name: maps[view, :, row, column] for name, maps in self._maps.items()}

    def of_picture(self, rays: RayBundle) -> dict[str, Tensor]:
        """Outputs [h, w, c] of all rays of one camera, at any resolution. Raises UsageError for other rays."""
        views = None if rays.camera_indices is None else rays.camera_indices.unique().long()
        origins = rays.origins.flatten(0, -2)
        known = views is not None and len(views) == 1 and rays.origins.ndim == 3 and int(views[0]) < len(self.cameras)
        if not known or not torch.allclose(origins, self.cameras.camera_to_worlds[views[0], :, 3].to(origins)):  # type: ignore[index]
            raise UsageError(NO_RAYS)
        assert views is not None
        size = rays.origins.shape[:2]
        found = {name: maps[views] for name, maps in self._maps.items()}
        scaled = {name: F.interpolate(one, size=size, mode="nearest")[0] for name, one in found.items()}
        return {name: one.permute(1, 2, 0) for name, one in scaled.items()}
