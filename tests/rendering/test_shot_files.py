"""Renders replace only files of earlier renders, and leave them unchanged unless they are complete."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from scenetok_ns.data.camera_path_files import CameraPath, square_lens
from scenetok_ns.models.tokens import SceneTokens
from scenetok_ns.rendering.shot_files import ShotFiles, check_folder, check_names, file_names
from scenetok_ns.rendering.shots import Shot
from scenetok_ns.tools.atomic_files import remove_leftovers


def shot(count: int, name: str = "attic", x: float = 0) -> Shot:
    c2w = torch.eye(4).repeat(count, 1, 1)
    c2w[:, 0, 3] = x
    path = CameraPath(c2w, square_lens(1.0).expand(count, 3, 3), (4, 6))
    return Shot(name, SceneTokens(torch.zeros(2, 3), torch.eye(4), "tiny"), path)


def render(
    folder: Path, count: int, grey: float, formats: tuple[str, ...] = ("png",), fail: bool = False, x: float = 0
) -> None:
    with ShotFiles(shot(count, x=x), folder, formats) as files:
        files.add(0, torch.full((count, 3, 4, 6), grey))
        if fail:
            raise RuntimeError("out of memory")


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_comparison_has_captions_in_the_video_and_none_in_the_pictures(tmp_path: Path) -> None:
    def grey(indices: Sequence[int]) -> list[torch.Tensor]:
        return [torch.full((3, 64, 64), 128, dtype=torch.uint8) for _ in indices]

    photographs = SimpleNamespace(c2w=torch.eye(4)[None], load_images=grey)
    path = CameraPath(torch.eye(4)[None], square_lens(1.0).expand(1, 3, 3), (64, 64))
    compared = Shot("attic", SceneTokens(torch.zeros(2, 3), torch.eye(4), "tiny"), path, photographs)  # type: ignore[arg-type]
    with ShotFiles(compared, tmp_path, ["mp4", "png"]) as files:
        shown, write = [], files._writer.add_image
        files._writer.add_image = lambda picture: (shown.append(picture), write(picture))
        files.add(0, torch.full((1, 3, 64, 64), 0.5))
    assert (np.asarray(Image.open(tmp_path / "attic" / "00000.png")) == 128).all()
    (picture,) = shown
    assert (picture[20:] == 128).all() and (picture[:16, :64] == 255).any() and (picture[:16, 64:] == 255).any()


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


def test_a_new_path_takes_away_what_was_rendered_of_the_old_one(tmp_path: Path) -> None:
    """Files of an earlier render are removed if it showed another path, and stay if it showed the same one.

    Files of other scenes always stay.
    """
    render(tmp_path, 2, 0.2)
    (tmp_path / "cellar.mp4").touch()
    video = tmp_path / "attic.mp4"
    video.touch()  # as an earlier render with mp4
    before = names(tmp_path)
    render(tmp_path, 2, 0.4)
    assert names(tmp_path) == before
    with pytest.raises(RuntimeError):
        render(tmp_path, 2, 0.6, x=1, fail=True)
    assert names(tmp_path) == before
    render(tmp_path, 2, 0.6, x=1)
    assert names(tmp_path) == sorted(set(before) - {"attic.mp4"})
    render(tmp_path, 2, 0.6, x=2, formats=())  # as with mp4 alone
    assert names(tmp_path) == ["attic.camera_path.json", "cellar.mp4"]


@pytest.mark.parametrize("failing", range(5))
def test_an_earlier_render_is_there_again_if_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    render(tmp_path, 2, 0.2)
    (tmp_path / "attic.mp4").touch()
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path) if (tmp_path / name).is_file()}
    with failing_moves(monkeypatch, failing), pytest.raises(OSError, match="disk"):
        render(tmp_path, 3, 0.8, x=1)
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path) if (tmp_path / name).is_file()} == before
    assert not list(tmp_path.glob(".*.part"))


@contextmanager
def failing_moves(monkeypatch: pytest.MonkeyPatch, failing: int) -> Iterator[None]:
    """Make the move number `failing` of a render's files to their places fail."""
    replace, moves = os.replace, count()

    def move(source: Path, target: Path) -> None:
        if not str(source).endswith(".part") and next(moves) == failing:
            raise OSError("disk")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", move)
        yield


@pytest.mark.parametrize("moved", range(1, 5))
def test_a_render_killed_while_its_files_are_moved_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: int
) -> None:
    render(tmp_path, 2, 0.2)
    (tmp_path / "attic.mp4").touch()

    def die() -> None:
        monkeypatch.setattr("scenetok_ns.tools.atomic_files._undo", lambda moves: os._exit(0))
        with failing_moves(monkeypatch, moved):
            render(tmp_path, 3, 0.8, x=1)

    killed(die)
    assert list(tmp_path.glob(".*.part"))
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["attic", "attic.camera_path.json", *(f"attic/0000{n}.png" for n in range(3))]
    assert len(json.loads((tmp_path / "attic.camera_path.json").read_text())["camera_path"]) == 3


def killed(work: Callable[[], None]) -> int:
    """Run `work` in a child process that then ends without clean-up. Returns its PID."""
    number = os.fork()
    if number == 0:
        try:
            work()
        finally:
            os._exit(0)
    os.waitpid(number, 0)
    return number


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
    with pytest.raises(FileExistsError, match=r"holds files other than renders \(a, b, c, \.\.\.\); choose another"):
        check_folder(tmp_path)
    with pytest.raises(FileExistsError, match="a is a file; expected a folder"):
        check_folder(tmp_path / "a")


def test_only_renders_are_replaced(tmp_path: Path) -> None:
    check_names(tmp_path, ["attic"], ["mp4", "png"])
    render(tmp_path, 1, 0.5)
    check_names(tmp_path, ["attic"], ["mp4", "png"])
    (tmp_path / "cellar.mp4").touch()  # no path is beside it
    with pytest.raises(FileExistsError, match=r"cellar\.mp4 was not written by `scenetok render`"):
        check_names(tmp_path, ["attic", "cellar"], ["mp4"])
    # Otherwise the next render would mistake it for an earlier render.
    with pytest.raises(FileExistsError, match=r"cellar\.mp4 was not written by"):
        check_names(tmp_path, ["attic", "cellar"], ["png"])
    (tmp_path / "hall").mkdir()
    (tmp_path / "hall" / "00000.png").touch()
    with pytest.raises(FileExistsError, match="hall was not written by"):  # likewise
        check_names(tmp_path, ["hall"], ["mp4"])
    (tmp_path / "hall" / "notes.txt").touch()
    check_names(tmp_path, ["hall"], ["mp4"])
    (tmp_path / "attic" / ".DS_Store").touch()
    check_names(tmp_path, ["attic"], ["mp4", "png"])
    (tmp_path / "attic" / "mine.png").touch()
    with pytest.raises(FileExistsError, match="attic was not written by"):
        check_names(tmp_path, ["attic"], ["png"])
    path = tmp_path / "attic.camera_path.json"
    content = json.loads(path.read_text())
    for other in (json.dumps({**content, "keyframes": [{"fov": 50}]}), "[]", "no JSON"):
        path.write_text(other)
        with pytest.raises(FileExistsError, match=r"attic\.camera_path\.json was not written by"):
            check_names(tmp_path, ["attic"], ["mp4"])


def test_names_of_files() -> None:
    assert file_names(["a/b", "room", "room", "..", "room"]) == ["a_b", "room", "room-2", "scene", "room-3"]
