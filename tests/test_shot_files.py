"""Which files renders may replace, and that they are complete or as before."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scenetok_ns.camera_path_file import CameraPath, square_lens
from scenetok_ns.models.tokens import SceneTokens
from scenetok_ns.path_videos import Shot
from scenetok_ns.shot_files import ShotFiles, check_folder, check_names, file_names


def shot(count: int, name: str = "attic") -> Shot:
    c2w = torch.eye(4).repeat(count, 1, 1)
    path = CameraPath(c2w, square_lens(1.0).expand(count, 3, 3), (4, 6))
    return Shot(name, SceneTokens(torch.zeros(2, 3), torch.eye(4), "tiny"), path)


def render(folder: Path, count: int, grey: float, formats: tuple[str, ...] = ("png",), fail: bool = False) -> None:
    with ShotFiles(shot(count), folder, formats) as files:
        files.add(0, torch.full((count, 3, 4, 6), grey))
        if fail:
            raise RuntimeError("out of memory")


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_pictures_take_their_place_together(tmp_path: Path) -> None:
    render(tmp_path, 3, 0.2)
    before = names(tmp_path)
    assert before == ["attic", "attic.camera_path.json", *(f"attic/0000{n}.png" for n in range(3))]
    with pytest.raises(RuntimeError):
        render(tmp_path, 2, 0.8, fail=True)
    assert names(tmp_path) == before
    assert len(json.loads((tmp_path / "attic.camera_path.json").read_text())["camera_path"]) == 3
    render(tmp_path, 2, 0.8)
    assert names(tmp_path) == ["attic", "attic.camera_path.json", "attic/00000.png", "attic/00001.png"]
    assert (np.asarray(Image.open(tmp_path / "attic" / "00001.png")) == 204).all()
    assert len(json.loads((tmp_path / "attic.camera_path.json").read_text())["camera_path"]) == 2


def test_folders_of_renders_and_empty_ones_are_taken(tmp_path: Path) -> None:
    for folder in (tmp_path / "new", tmp_path):
        check_folder(folder)
    (tmp_path / ".hidden").touch()
    check_folder(tmp_path)
    render(tmp_path, 1, 0.5)
    (tmp_path / "notes.txt").touch()
    check_folder(tmp_path)


def test_other_folders_are_named_with_what_they_hold(tmp_path: Path) -> None:
    for name in "abcd":
        (tmp_path / name).touch()
    with pytest.raises(FileExistsError, match=r"holds other things than renders \(a, b, c, \.\.\.\); choose another"):
        check_folder(tmp_path)
    with pytest.raises(FileExistsError, match="a is a file; expected a folder"):
        check_folder(tmp_path / "a")


def test_only_renders_are_replaced(tmp_path: Path) -> None:
    check_names(tmp_path, ["attic"], ["mp4", "png"])
    render(tmp_path, 1, 0.5)
    check_names(tmp_path, ["attic"], ["mp4", "png"])
    (tmp_path / "cellar.mp4").touch()  # no path is beside it
    with pytest.raises(FileExistsError, match=r"cellar\.mp4 is there, and not of `scenetok render`"):
        check_names(tmp_path, ["attic", "cellar"], ["mp4"])
    check_names(tmp_path, ["attic", "cellar"], ["png"])
    (tmp_path / "attic" / "mine.png").touch()
    with pytest.raises(FileExistsError, match="attic is there"):
        check_names(tmp_path, ["attic"], ["png"])
    path = tmp_path / "attic.camera_path.json"
    content = json.loads(path.read_text())
    for other in (json.dumps({**content, "keyframes": [{"fov": 50}]}), "[]", "no JSON"):
        path.write_text(other)
        with pytest.raises(FileExistsError, match=r"attic\.camera_path\.json is there"):
            check_names(tmp_path, ["attic"], ["mp4"])


def test_names_of_files() -> None:
    assert file_names(["a/b", "room", "room", "..", "room"]) == ["a_b", "room", "room-2", "scene", "room-3"]
