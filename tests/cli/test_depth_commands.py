"""`scenetok render --depth` and `scenetok export-mesh` write files in the right units and refuse wrong options."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image
from support.command_line import failure, scenetok

from scenetok_ns.models.depth_weights import new_depth_head
from scenetok_ns.models.scenetok import SceneTok

FRAMES = 6


def test_depth_maps_are_written_beside_the_pictures(workplace: Path, tmp_path: Path) -> None:
    words = ("--run", workplace / "run", "--path", "interpolate", "--frames", FRAMES, "--formats", "png", "--steps", 1)
    scenetok("render", *words, "--depth", "--output", tmp_path, "--size", 48, 32)
    (folder,) = tmp_path.glob("*-depth")
    assert json.loads((folder / "depth.json").read_text())["unit"] == 0.001  # the rooms are in metres
    maps = np.stack([np.asarray(Image.open(file)) for file in sorted(folder.glob("*.png"))])
    assert maps.shape == (FRAMES, 32, 48) and maps.dtype == np.uint16
    assert (maps > 0).all() and maps.std() > 0
    assert len(list((folder / "colours").glob("*.png"))) == FRAMES
    (folder / "mine.txt").touch()
    assert "not written by `scenetok render`" in failure("render", *words, "--depth", "--output", tmp_path)


def test_a_mesh_is_written_and_other_files_stay(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An untrained head, which predicts the same distance everywhere, is quicker here than a plane sweep."""
    monkeypatch.setattr(SceneTok, "depth_head", lambda self: new_depth_head(self.preset, self.denoiser).eval())
    file = tmp_path / "room.glb"
    words = ("--run", workplace / "run", "--frames", 16, "--steps", 1, "--output", file)
    scenetok("export-mesh", *words, "--confidence", 0, "--voxel", 0.2)
    assert len(trimesh.load(file, force="mesh").faces) > 10
    assert "meshes end in .ply or .glb" in failure("export-mesh", "--output", tmp_path / "room.obj")
    assert "--voxel must be above 0" in failure("export-mesh", "--output", file, "--voxel", 0)
    (tmp_path / "notes.ply").write_text("not a mesh")
    assert "is not a mesh" in failure("export-mesh", "--output", tmp_path / "notes.ply")
