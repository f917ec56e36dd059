"""The PLY of Gaussians: what is written is what other programs expect, and comes back."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from plyfile import PlyData
from small_splats import blobs, ring_of_cameras
from torch_rasterizer import rasterize

from scenetok_ns.splats.gaussians import SH_C0, Gaussians, load_splat, save_splat, write_points
from scenetok_ns.splats.rasterizer import render_splat


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_a_splat_comes_back_as_it_was(tmp_path: Path, degree: int) -> None:
    made = blobs(7, degree)
    save_splat(made, tmp_path / "scene.ply")
    found = load_splat(tmp_path / "scene.ply")
    assert found.sh_degree == degree
    for name, value in made.tensors().items():
        expected = torch.nn.functional.normalize(value, dim=1) if name == "quats" else value
        torch.testing.assert_close(getattr(found, name), expected)


def test_the_file_has_the_properties_of_gaussian_splatting_in_their_order(tmp_path: Path) -> None:
    made = blobs(3, sh_degree=1)
    save_splat(made, tmp_path / "scene.ply")
    vertex = PlyData.read(tmp_path / "scene.ply")["vertex"]
    names = [p.name for p in vertex.properties]
    assert names[:9] == ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
    assert names[9:18] == [f"f_rest_{i}" for i in range(9)]
    assert names[18:] == ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    # Harmonics are stored colour by colour: the second of f_rest is red's second harmonic.
    np.testing.assert_array_equal(vertex["f_rest_1"], made.sh_rest[:, 1, 0])
    np.testing.assert_array_equal(vertex["f_rest_3"], made.sh_rest[:, 0, 1])
    np.testing.assert_array_equal(vertex["y"], made.means[:, 1])


def test_nerfstudios_own_export_can_be_read(tmp_path: Path) -> None:
    from nerfstudio.scripts.exporter import ExportGaussianSplat

    made = blobs(5, sh_degree=3)
    rest = made.sh_rest.transpose(1, 2).flatten(1)
    columns = OrderedDict((axis, made.means[:, i].numpy()) for i, axis in enumerate("xyz"))
    columns |= {f"n{axis}": np.zeros(5, np.float32) for axis in "xyz"}
    columns |= {f"f_dc_{i}": made.sh0[:, 0, i].numpy() for i in range(3)}
    columns |= {f"f_rest_{i}": rest[:, i].numpy() for i in range(45)}
    columns["opacity"] = made.opacities.numpy()
    columns |= {f"scale_{i}": made.scales[:, i].numpy() for i in range(3)}
    columns |= {f"rot_{i}": made.quats[:, i].numpy() for i in range(4)}
    ExportGaussianSplat.write_ply(str(tmp_path / "export.ply"), 5, columns)
    found = load_splat(tmp_path / "export.ply")
    for name, value in made.tensors().items():
        torch.testing.assert_close(getattr(found, name), value)


def test_what_is_not_finite_is_left_out(tmp_path: Path) -> None:
    made = blobs(4)
    made.means[2, 0] = torch.nan
    made.scales[0, 1] = -torch.inf
    save_splat(made, tmp_path / "scene.ply")
    torch.testing.assert_close(load_splat(tmp_path / "scene.ply").means, made.means[[1, 3]])


def test_points_are_what_open3d_and_others_read(tmp_path: Path) -> None:
    points, colours = (
        torch.tensor([[1.0, 2.0, 3.0], [-1.0, 0.5, 0.0]]),
        torch.tensor([[0.0, 0.5, 1.0], [1.0, 0.2, 0.0]]),
    )
    write_points(tmp_path / "points.ply", points, colours)
    vertex = PlyData.read(tmp_path / "points.ply")["vertex"]
    np.testing.assert_array_equal(np.stack([vertex[a] for a in "xyz"], 1), points)
    levels = np.stack([vertex[c] for c in ("red", "green", "blue")], 1)
    np.testing.assert_array_equal(levels, [[0, 128, 255], [255, 51, 0]])


def test_files_that_are_no_splats_are_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="scenetok splat"):
        load_splat(tmp_path / "none.ply")
    wrong = tmp_path / "wrong.ply"
    wrong.write_bytes(b"plywood")
    with pytest.raises(ValueError, match="not a PLY"):
        load_splat(wrong)
    write_points(wrong, torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="not of 3D Gaussians: it has no property"):
        load_splat(wrong)
    save_splat(blobs(9), wrong)
    whole = wrong.read_bytes()
    wrong.write_bytes(whole[:-5])
    with pytest.raises(ValueError, match="cut short"):
        load_splat(wrong)
    wrong.write_bytes(whole.replace(b"binary_little_endian", b"ascii"))
    with pytest.raises(ValueError, match="binary little-endian"):
        load_splat(wrong)


def test_shapes_must_belong_together() -> None:
    good = blobs(4).tensors()
    with pytest.raises(ValueError, match="do not belong together"):
        Gaussians(**{**good, "scales": good["scales"][:3]})
    with pytest.raises(ValueError, match="do not belong together"):
        Gaussians(**{**good, "sh_rest": torch.zeros(4, 2, 3)})


def test_the_constant_harmonic_is_that_of_the_renderers() -> None:
    assert pytest.approx((1 / (4 * np.pi)) ** 0.5) == SH_C0


def test_what_nobody_sees_is_left_out_where_asked() -> None:
    made = blobs(4)
    made.opacities[1] = -6.0
    torch.testing.assert_close(made.visible().means, made.means[[0, 2, 3]])
    picture, smaller = (render_splat(g, ring_of_cameras(2), (16, 16), rasterize).rgb for g in (made, made.visible()))
    assert (picture - smaller).abs().max() <= 1 / 255
