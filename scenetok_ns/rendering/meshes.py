"""Fuse rendered views with depth into a mesh, with Open3D's truncated signed distance field."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from scenetok_ns.models.depth_geometry import DepthMaps
from scenetok_ns.rendering.views import RenderedViews
from scenetok_ns.tools.atomic_files import write_atomically

TRUNCATION = 4.0
"""Distance from a surface, in voxels, within which views are averaged."""
SMALLEST_PART = 0.002
"""Share of the triangles below which a part of the mesh is removed, because it floats in the air."""


class Mesh(NamedTuple):
    """Triangles with colours at their corners, in the world of the capture (its axes and units)."""

    vertices: Float[Tensor, "v 3"]
    colours: Float[Tensor, "v 3"]
    triangles: Int[Tensor, "t 3"]


def fuse_views(
    views: RenderedViews, maps: DepthMaps, voxel: float, *, least_confidence: float = 0.3, farthest: float
) -> Mesh:
    """Fuse the depth of views into one surface.

    Args:
        views: Pictures and cameras.
        maps: Depth of the views and its confidence, in the units of the cameras.
        voxel: Side of a voxel in these units. Smaller details are lost.
        least_confidence: Minimum confidence. Pixels below it are left out.
        farthest: Maximum depth. Pixels beyond it are left out.

    Raises:
        ValueError: No surface is left.
    """
    import open3d as o3d

    volume = o3d.pipelines.integration.ScalableTSDFVolume(
        voxel_length=voxel,
        sdf_trunc=TRUNCATION * voxel,
        color_type=o3d.pipelines.integration.TSDFVolumeColorType.RGB8,
    )
    height, width = views.frames.shape[-2:]
    depth = torch.where(maps.confidence >= least_confidence, maps.depth, 0.0)[:, 0].float().cpu().numpy()
    colours = (views.frames.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()
    w2c = torch.linalg.inv(views.cameras.c2w[0].double().cpu()).numpy()
    for number, lens in enumerate(views.cameras.intrinsics[0].double().cpu().numpy()):
        picture = o3d.geometry.RGBDImage.create_from_color_and_depth(
            o3d.geometry.Image(np.ascontiguousarray(colours[number])),
            o3d.geometry.Image(np.ascontiguousarray(depth[number])),
            depth_scale=1.0,
            depth_trunc=farthest,
            convert_rgb_to_intensity=False,
        )
        # Open3D puts the origin at the middle of the first pixel.
        focal_and_centre = lens[0, 0] * width, lens[1, 1] * height, lens[0, 2] * width - 0.5, lens[1, 2] * height - 0.5
        camera = o3d.camera.PinholeCameraIntrinsic(width, height, *focal_and_centre)
        volume.integrate(picture, camera, w2c[number])
    return _cleaned(volume.extract_triangle_mesh())


def _cleaned(mesh: Any) -> Mesh:
    """Remove the smallest parts of a mesh. Raises ValueError if nothing is left."""
    part, sizes, _ = mesh.cluster_connected_triangles()
    part, sizes = np.asarray(part), np.asarray(sizes)
    if len(part):
        mesh.remove_triangles_by_mask(sizes[part] < SMALLEST_PART * len(part))
        mesh.remove_unreferenced_vertices()
    arrays = (np.asarray(values).copy() for values in (mesh.vertices, mesh.vertex_colors, mesh.triangles))
    found = Mesh(*map(torch.from_numpy, arrays))
    if not len(found.triangles):
        raise ValueError(
            "no surface was found in the rendered views: their depth is too uncertain; give a lower --confidence, a "
            "larger --voxel, or more --frames"
        )
    return found


def save_mesh(mesh: Mesh, path: Path) -> None:
    """Write a binary PLY or GLB, depending on the suffix. The file is complete or absent."""
    import trimesh

    colours = (mesh.colours.clamp(0, 1) * 255).round().byte().numpy()
    made = trimesh.Trimesh(mesh.vertices.numpy(), mesh.triangles.numpy(), vertex_colors=colours, process=False)
    data = made.export(file_type=path.suffix.removeprefix("."))
    assert isinstance(data, bytes)  # both kinds of file are binary
    write_atomically(path, data)
