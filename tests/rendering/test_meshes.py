"""The mesh of views with depth has its corners and colours on the surfaces, in both file formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from support.depth_scenes import STEP, WALL, wall_views

from scenetok_ns.cli.export_mesh import is_mesh
from scenetok_ns.models.depth_geometry import DepthMaps
from scenetok_ns.rendering.meshes import Mesh, fuse_views, save_mesh
from scenetok_ns.rendering.views import RenderedViews


def fused(confidence: float = 1.0, farthest: float = 10.0) -> Mesh:
    frames, cameras, depth = wall_views(count=5, size=48, step=True)
    maps = DepthMaps(depth, torch.full_like(depth, confidence))
    return fuse_views(RenderedViews(frames, cameras), maps, 0.05, farthest=farthest)


def test_corners_lie_on_the_planes() -> None:
    mesh = fused()
    z = mesh.vertices[:, 2]
    near, far = (z - STEP).abs() < 0.05, (z - WALL).abs() < 0.05
    assert near.float().mean() > 0.15 and far.float().mean() > 0.15 and (near | far).float().mean() > 0.9
    assert mesh.vertices[near, 0].min() > -0.1  # the step's part of positive x
    x, y = mesh.vertices[far, 0], mesh.vertices[far, 1]
    assert (mesh.colours[far, 0] - 0.5 - 0.4 * torch.sin(2.1 * x + 1.3 * y)).abs().median() < 0.05


def test_uncertain_and_far_pixels_are_left_out() -> None:
    assert fused(farthest=3.0).vertices[:, 2].max() < 3.0
    with pytest.raises(ValueError, match="no surface was found"):
        fused(confidence=0.1)


@pytest.mark.parametrize("suffix", ["ply", "glb"])
def test_files_hold_the_mesh_with_colours(suffix: str, tmp_path: Path) -> None:
    mesh, file = fused(), tmp_path / f"wall.{suffix}"
    save_mesh(mesh, file)
    assert is_mesh(file)
    found = trimesh.load(file, force="mesh", process=False)
    assert found.faces.shape == tuple(mesh.triangles.shape)
    np.testing.assert_allclose(found.vertices, mesh.vertices.numpy(), atol=1e-4)
    colours = found.visual.vertex_colors[:, :3] / 255
    np.testing.assert_allclose(colours, mesh.colours.numpy(), atol=0.01)
