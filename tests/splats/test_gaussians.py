"""PLY files of Gaussians have the form that other programs expect, and are read back unchanged."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from nerfstudio.scripts import exporter
from plyfile import PlyData
from support.small_splats import blobs, ring_of_cameras
from support.splatfacto_models import splatfacto_with
from support.torch_rasterizer import rasterize

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


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_the_file_is_what_ns_export_writes_of_the_same_splat(
    tmp_path: Path, degree: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A splat loaded into splatfacto and exported with ns-export gaussian-splat gives our file, apart from comments."""
    made = blobs(6, degree)
    if degree == 0:  # splatfacto then limits colours to the range from 0 to 1
        made.sh0.clamp_(-1.7, 1.7)
    save_splat(made, tmp_path / "ours.ply")
    model = splatfacto_with(tmp_path / "ours.ply", degree, monkeypatch)
    monkeypatch.setattr(exporter, "eval_setup", lambda *args, **options: (None, SimpleNamespace(model=model), None, 0))
    exporter.ExportGaussianSplat(load_config=Path("config.yml"), output_dir=tmp_path).main()
    ours, theirs = ((tmp_path / name).read_bytes().split(b"end_header\n", 1) for name in ("ours.ply", "splat.ply"))
    header = [line for line in theirs[0].split(b"\n") if not line.startswith(b"comment")]
    assert ours[0].split(b"\n") == header
    rows, expected = (np.frombuffer(body, "<f4") for body in (ours[1], theirs[1]))
    np.testing.assert_allclose(rows, expected, atol=1e-4 if degree == 0 else 0, rtol=0)
    found = load_splat(tmp_path / "splat.ply")
    for name, value in load_splat(tmp_path / "ours.ply").tensors().items():
        torch.testing.assert_close(getattr(found, name), value, atol=1e-4, rtol=0)


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
    with pytest.raises(FileNotFoundError, match="scenetok export-splat"):
        load_splat(tmp_path / "none.ply")
    wrong = tmp_path / "wrong.ply"
    wrong.write_bytes(b"plywood")
    with pytest.raises(ValueError, match="not a PLY"):
        load_splat(wrong)
    write_points(wrong, torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="not of 3D Gaussians: it has no property"):
        load_splat(wrong)
    save_splat(blobs(2000), wrong)  # longer than the part that is searched for the header
    whole = wrong.read_bytes()
    wrong.write_bytes(whole[:-5])
    size = (len(whole) - whole.index(b"end_header\n") - len(b"end_header\n")) // 2000
    with pytest.raises(ValueError, match=f"cut short: {2000 * size - 5:,} bytes for 2,000 vertices of {size}"):
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
