"""The one folder that the page reads and writes: hostile names, links, devices, other people's files."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from scenetok_ns.data.scenes import DataError
from scenetok_ns.models.tokens import SceneTokens
from scenetok_ns.viewer import viewer_files
from scenetok_ns.viewer.viewer_files import KEPT, ViewerFiles, bare_name

TOKENS = ".safetensors"
HOSTILE = (
    *("../scene.safetensors", "/etc/scene.safetensors", "~/scene.safetensors", "~root.safetensors", ".safetensors"),
    *(
        "a/b.safetensors",
        "a\\b.safetensors",
        "C:scene.safetensors",
        "sc\0ene.safetensors",
        "..",
        "",
        " ",
        "-x.safetensors",
    ),
    *("scene.safetensors/", "scene.pt", "scene.safetensors.json", "x" * 300 + ".safetensors", "a\nb.safetensors"),
    *("/dev/zero", "/dev/stdin.safetensors", "%2e%2e/x.safetensors", ".hidden.safetensors"),
)


def tokens(count: int = 4) -> SceneTokens:
    return SceneTokens(torch.zeros(count, 8), torch.eye(4), preset="small")


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("name", HOSTILE)
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    run = tmp_path / "run"
    run.mkdir()
    files, before = ViewerFiles(run), everything(tmp_path)
    for act in (
        lambda: files.existing(name, TOKENS),
        lambda: files.save_tokens(tokens(), name),
        lambda: files.take(name, b"1", TOKENS),
        lambda: files.take_photographs(name.replace(TOKENS, ".png"), b"1"),
        lambda: files.photograph(name.replace(TOKENS, ".png")),
    ):
        with pytest.raises(DataError, match=r"expected|there is no|uploaded"):
            act()
    assert everything(tmp_path) == before


def test_nothing_foreign_is_read_or_replaced(tmp_path: Path) -> None:
    secret = tmp_path / "secret.safetensors"
    tokens().save(secret)
    files = ViewerFiles(tmp_path / "run")
    files.folder.mkdir(parents=True)
    (files.folder / "link.safetensors").symlink_to(secret)
    (files.folder / "folder.safetensors").mkdir()
    (files.folder / "foreign.safetensors").write_text("mine")
    os.mkfifo(files.folder / "pipe.safetensors")
    before = secret.read_bytes()
    for name in ("link", "folder", "foreign", "pipe"):
        with pytest.raises(DataError, match=r"is not a token file|is a link"):
            files.save_tokens(tokens(2), f"{name}.safetensors")
        if name != "foreign":
            with pytest.raises(DataError, match="there is no"):
                files.existing(f"{name}.safetensors", TOKENS)
    assert secret.read_bytes() == before and (files.folder / "foreign.safetensors").read_text() == "mine"
    assert files.names(TOKENS) == ["foreign.safetensors"]
    assert files.save_tokens(tokens(), "own.safetensors") == files.save_tokens(tokens(3), "own.safetensors")
    assert len(SceneTokens.load(files.folder / "own.safetensors").mean) == 3
    # An upload never replaces anything, its own kind included.
    assert files.take("own.safetensors", b"new", TOKENS).name == "own-2.safetensors"
    assert len(SceneTokens.load(files.folder / "own.safetensors").mean) == 3


def test_a_folder_that_is_a_link_is_not_written_through(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    tokens().save(elsewhere / "there.safetensors")
    run = tmp_path / "run"
    run.mkdir()
    (run / "viewer").symlink_to(elsewhere)
    files = ViewerFiles(run)
    with pytest.raises(DataError, match="is a link"):
        files.save_tokens(tokens(), "scene.safetensors")
    with pytest.raises(DataError, match="there is no"):
        files.existing("there.safetensors", TOKENS)
    with pytest.raises(DataError, match="is a link"):
        files.new_folder("videos")
    assert files.names(TOKENS) == [] and everything(elsewhere) == {"there.safetensors"}


def picture() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, "PNG")
    return data.getvalue()


def archive(names: list[str], content: bytes) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as made:
        for name in names:
            made.writestr(name, content)
    return data.getvalue()


def test_photographs_come_one_by_one_and_in_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = ViewerFiles(tmp_path / "run")
    assert files.take_photographs("a.png", picture())[0].read_bytes() == picture()
    packed = archive(["../../b.png", "/c.jpg", "x/.hidden.png", "notes.txt", "d/a.png"], picture())
    assert [path.name for path in files.take_photographs("many.zip", packed)] == ["b.png", "c.jpg", "a-2.png"]
    assert sorted(files.photograph_names()) == ["a-2.png", "a.png", "b.png", "c.jpg"]
    assert {path.parent for path in files.photographs.iterdir()} == {files.photographs}
    monkeypatch.setattr(viewer_files, "LARGEST_ARCHIVE", 10_000_000)
    bomb = archive(["bomb.png"], bytes(30_000_000))
    assert len(bomb) < 100_000
    for name, data, said in (
        ("bomb.zip", bomb, "more than 10,000,000"),
        ("broken.zip", b"PK", "cannot be read"),
        ("none.zip", archive(["notes.txt"], b"1"), "holds 0 photographs"),
        ("many.zip", archive([f"{n}.png" for n in range(121)], b"1"), "holds 121 photographs"),
        ("empty.png", b"", "has 0 bytes"),
    ):
        with pytest.raises(DataError, match=said):
            files.take_photographs(name, data)
    assert files.forget_photographs() == 4 and files.photograph_names() == []


def test_uploads_are_limited_and_old_results_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = ViewerFiles(tmp_path)
    monkeypatch.setitem(viewer_files.LARGEST, TOKENS, 3)
    with pytest.raises(DataError, match="has 4 bytes; expected 1 to 3"):
        files.take("big.safetensors", b"1234", TOKENS)
    made = []
    for _ in range(KEPT + 3):
        made.append(files.new_folder("videos"))
        made[-1].mkdir()
    assert len(set(made)) == KEPT + 3 and [path.is_dir() for path in made] == [False] * 3 + [True] * KEPT
    assert bare_name(" Küche 2.safetensors ", (TOKENS,)) == "Küche 2.safetensors"
