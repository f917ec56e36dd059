"""Demo scenes as files: both layouts, the same bytes every time, and no incomplete folders."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scenetok_ns.data.demo import writer as demo_writer
from scenetok_ns.data.demo.scenes import render_depths, render_rooms, sample_rooms, sample_walks, scene_seed
from scenetok_ns.data.demo.writer import write_demo_data
from scenetok_ns.data.sources.dl3dv import DL3DVSource
from scenetok_ns.data.sources.re10k import RE10KSource

FRAMES, SIZE = 3, 16


def write(folder: Path, layout: str, train: int = 2, test: int = 1, seed: int = 0) -> Path:
    write_demo_data(folder, layout, {"train": train, "test": test}, FRAMES, SIZE, seed)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def expected(split: str, index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rooms = sample_rooms([scene_seed(0, split, index)])
    c2w = sample_walks(rooms, FRAMES)
    return render_rooms(rooms, c2w, rooms.intrinsics, SIZE)[0], c2w[0], rooms.intrinsics[0]


@pytest.mark.parametrize("layout", ["re10k", "dl3dv"])
def test_same_seed_same_bytes_whatever_else_is_made(tmp_path: Path, layout: str) -> None:
    first = write(tmp_path / "a", layout)
    assert files(first) == files(write(tmp_path / "b", layout))
    assert files(first) != files(write(tmp_path / "c", layout, seed=1))
    if layout == "dl3dv":  # each scene has its own folder, so more scenes change no bytes of the others
        more = files(write(tmp_path / "d", layout, train=3))
        assert all(more[name] == content for name, content in files(first).items())
    else:
        chunks = [torch.load(write(tmp_path / n, layout, train=k) / "train/000000.torch", weights_only=True)
                  for n, k in (("e", 3), ("f", 2))]  # fmt: skip
        for more_scene, scene in zip(*chunks, strict=False):
            assert all(torch.equal(a, b) for a, b in zip(more_scene["images"], scene["images"], strict=True))


def test_re10k_layout(tmp_path: Path) -> None:
    root = write(tmp_path / "data", "re10k")
    index = json.loads((root / "train/index.json").read_text())
    scenes = torch.load(root / "train/000000.torch", weights_only=True)
    assert [s["key"] for s in scenes] == list(index) and set(index.values()) == {"000000.torch"}
    test_index = json.loads((root / "test/index.json").read_text())
    assert not set(test_index) & set(index)
    images, c2w, k = expected("train", 1)
    scene = scenes[1]
    assert set(scene) == {"url", "timestamps", "cameras", "images", "key"}
    assert scene["cameras"].dtype == torch.float32 and scene["cameras"].shape == (FRAMES, 18)
    assert scene["timestamps"].dtype == torch.int64
    w2c = torch.cat([scene["cameras"][:, 6:].reshape(-1, 3, 4), torch.tensor([0.0, 0, 0, 1]).expand(FRAMES, 1, 4)], 1)
    assert torch.allclose(w2c @ c2w, torch.eye(4).expand_as(c2w), atol=1e-5)
    assert torch.equal(
        scene["cameras"][0, :6], torch.stack([k[0, 0], k[1, 1], k[0, 2], k[1, 2], k.new_zeros(()), k.new_zeros(())])
    )
    for jpeg, image in zip(scene["images"], images, strict=True):
        assert jpeg.dtype == torch.uint8
        picture = Image.open(io.BytesIO(jpeg.numpy().tobytes()))
        assert picture.format == "JPEG" and picture.layers == 3 and picture.layer[0][1:3] == (1, 1)  # 4:4:4
        decoded = torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255
        assert (decoded - image).abs().mean() < 0.02


def test_dl3dv_layout(tmp_path: Path) -> None:
    root = write(tmp_path / "data", "dl3dv")
    (scene,) = (root / "test").iterdir()
    meta = json.loads((scene / "nerfstudio/transforms.json").read_text())
    images, c2w, k = expected("test", 0)
    assert (meta["w"], meta["h"]) == (4 * SIZE, 4 * SIZE)
    assert meta["fl_x"] / meta["w"] == pytest.approx(k[0, 0].item()) and meta["cx"] / meta["w"] == pytest.approx(0.5)
    assert len(meta["frames"]) == FRAMES
    for frame, pose, image in zip(meta["frames"], c2w, images, strict=True):
        opengl = torch.tensor(frame["transform_matrix"])
        assert torch.allclose(opengl * torch.tensor([1.0, -1, -1, 1]), pose, atol=1e-6)
        picture = Image.open(scene / "nerfstudio/images_4" / Path(frame["file_path"]).name)
        assert torch.equal(torch.from_numpy(np.array(picture)).permute(2, 0, 1), (image * 255).round().byte())


def test_chunks_are_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_writer, "SCENES_PER_CHUNK", 2)
    root = write(tmp_path / "data", "re10k", train=5, test=0)
    index = json.loads((root / "train/index.json").read_text())
    for name, size in (("000000.torch", 2), ("000001.torch", 2), ("000002.torch", 1)):
        scenes = torch.load(root / "train" / name, weights_only=True)
        assert len(scenes) == size and all(index[s["key"]] == name for s in scenes)
    assert not (root / "test").exists()


def test_nothing_is_left_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_demo_data(tmp_path / "data", "re10k", {"train": 2}, FRAMES, SIZE, on_scene=fail)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(FileExistsError, match="exists; choose another"):
        write(tmp_path, "re10k")
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_wrong_requests_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="re10k or dl3dv"):
        write(tmp_path / "data", "colmap")
    with pytest.raises(ValueError, match="numbers of scenes"):
        write(tmp_path / "data", "re10k", train=0, test=0)
    with pytest.raises(ValueError, match="at least 2 frames"):
        write_demo_data(tmp_path / "data", "re10k", {"train": 1}, 1, SIZE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("layout", "source"), [("re10k", RE10KSource), ("dl3dv", DL3DVSource)])
def test_our_readers_read_what_was_made(tmp_path: Path, layout: str, source: type) -> None:
    root = write(tmp_path / "data", layout)
    for split, number in (("train", 2), ("test", 1)):
        scenes = source(root / split)
        assert len(scenes.keys) == number
        for index, key in enumerate(scenes.keys):
            images, c2w, k = expected(split, index)
            scene = scenes.scene(key)
            assert torch.allclose(scene.c2w.float(), c2w, atol=1e-5)
            assert torch.allclose(scene.intrinsics.float(), k.expand(FRAMES, 3, 3), atol=1e-6)
            for picture, image in zip(scene.load_images(range(FRAMES)), images, strict=True):
                assert (picture / 255 - image).abs().mean() < 0.02


@pytest.mark.parametrize("layout", ["re10k", "dl3dv"])
def test_depth_comes_in_millimetres_beside_every_frame(tmp_path: Path, layout: str) -> None:
    write_demo_data(tmp_path / "data", layout, {"train": 1}, FRAMES, SIZE, 0, depth=True)
    rooms = sample_rooms([scene_seed(0, "train", 0)])
    true = render_depths(rooms, sample_walks(rooms, FRAMES), rooms.intrinsics, SIZE)[0]
    if layout == "re10k":
        found = torch.load(tmp_path / "data/train/000000.torch", weights_only=True)[0]["depths"]
    else:
        (scene,) = (tmp_path / "data/train").iterdir()
        frames = json.loads((scene / "nerfstudio/transforms.json").read_text())["frames"]
        found = torch.stack(
            [
                torch.from_numpy(np.array(Image.open(scene / "nerfstudio" / f["depth_file_path"])).astype(np.int32))
                for f in frames
            ]
        )
    assert torch.allclose(found / 1000, true, atol=6e-4)
