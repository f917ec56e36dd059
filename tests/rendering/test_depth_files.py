"""Files of depth maps: levels in the stated unit, colours, and protection of other folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.utils.colormaps import apply_depth_colormap
from PIL import Image

from scenetok_ns.data.depth_maps import read_depth_map
from scenetok_ns.rendering.depth_files import depth_colours, depth_files, depth_unit


def test_depth_comes_back_in_the_stated_unit(tmp_path: Path) -> None:
    depth = torch.tensor([[[[0.5, 2.0], [0.0, 200.0]]]])
    with depth_files(tmp_path, "attic", 0.001) as files:
        files.add(3, depth)
    folder = tmp_path / "attic-depth"
    description = json.loads((folder / "depth.json").read_text())
    unit = description["unit"]
    # A generated scene has no capture: the path beside the maps is in the same units in all scenes.
    assert "camera positions in attic.camera_path.json" in description["meaning"]
    with Image.open(folder / "00003.png") as image:
        assert np.asarray(image).dtype == np.uint16
    found = read_depth_map(folder / "00003.png", unit)
    torch.testing.assert_close(found, torch.tensor([[0.5, 2.0], [0.0, 65.535]]))
    assert Image.open(folder / "colours" / "00003.png").mode == "RGB"
    # A second render replaces the folder; other folders are refused.
    with depth_files(tmp_path, "attic", 0.01) as files:
        files.add(0, depth)
    assert sorted(path.name for path in folder.iterdir()) == ["00000.png", "colours", "depth.json"]
    (folder / "notes.txt").touch()
    with pytest.raises(FileExistsError, match="not written by `scenetok render`"), depth_files(tmp_path, "attic", 0.01):
        pass


def test_a_render_that_fails_leaves_the_last_one(tmp_path: Path) -> None:
    with depth_files(tmp_path, "attic", 0.001) as files:
        files.add(0, torch.ones(1, 1, 2, 2))
    with pytest.raises(KeyError), depth_files(tmp_path, "attic", 0.5) as files:
        files.add(7, torch.ones(1, 1, 2, 2))
        raise KeyError
    assert (tmp_path / "attic-depth" / "00000.png").is_file() and not (tmp_path / "attic-depth" / "00007.png").exists()


def test_the_unit_is_a_thousandth_of_the_scene_or_so() -> None:
    assert [depth_unit(size) for size in (1.13, 0.9, 113.0, 0.011)] == pytest.approx([1e-3, 1e-3, 0.1, 1e-5])


def test_colours_go_from_blue_to_red_and_are_black_where_nothing_is_known() -> None:
    """The direction is that of Nerfstudio's own depth pictures, and so of the viewer."""
    colours = depth_colours(torch.tensor([[1.0, 2.0, 4.0, 0.0]]), near=1.0, far=4.0)
    assert colours.shape == (3, 1, 4) and (colours[:, 0, 3] == 0).all()
    stock = apply_depth_colormap(torch.tensor([[[1.0], [2.0]]])).permute(2, 0, 1)
    torch.testing.assert_close(colours[:, 0, [0, 2]], stock[:, 0])
    assert colours[:, 0, 1].sum() > 1 / 3  # not one of the dark ends
