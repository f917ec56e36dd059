from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.scene_files import intrinsics, picture, transforms, walk, write_dl3dv

from scenetok_ns.bridge.capture_kinds import find_dataparser
from scenetok_ns.data.scenes import BadScene, DataError
from scenetok_ns.data.sources.dl3dv import DL3DVSource
from scenetok_ns.dataparsers.dl3dv_dataparser import Dl3dvDataParserConfig


@pytest.mark.parametrize("inner", ["nerfstudio", "."])
def test_cameras_and_images_of_a_scene(tmp_path: Path, inner: str) -> None:
    write_dl3dv(tmp_path / "hash" / inner, frames=12)
    source = DL3DVSource(tmp_path)
    assert list(source.keys) == ["hash"]
    scene = source.scene("hash")
    assert torch.allclose(scene.c2w, walk(12), atol=1e-6)
    assert torch.allclose(scene.intrinsics, intrinsics(12))
    assert scene.frame_names[9] == "frame_00010"
    assert scene.timestamps is not None and scene.timestamps.tolist() == list(range(1, 13))
    image = scene.load_images([7])[0]
    assert image.shape == (3, 36, 64) and int(image[0, 0, 0]) == 28


def test_lens_distortion_is_mentioned_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_dl3dv(tmp_path / "a")
    source = DL3DVSource(tmp_path)
    with caplog.at_level(logging.INFO):
        source.scene("a"), source.scene("a")
    assert caplog.text.count("is left in the images") == 1


def test_the_folder_may_be_the_scene_itself(tmp_path: Path) -> None:
    write_dl3dv(tmp_path / "capture")
    assert list(DL3DVSource(tmp_path / "capture").keys) == ["capture"]


def test_image_folders(tmp_path: Path) -> None:
    home = write_dl3dv(tmp_path / "a", image_folder="images_8", divide=8)
    assert DL3DVSource(tmp_path).scene("a").load_images([0])[0].shape == (3, 18, 32)
    (home / "images_4").mkdir()
    for index in range(8):
        picture(index, (36, 64)).save(home / "images_4" / f"frame_{index + 1:05d}.jpg")
    assert DL3DVSource(tmp_path).scene("a").load_images([0])[0].shape == (3, 36, 64)
    assert DL3DVSource(tmp_path, "images_8").scene("a").load_images([0])[0].shape == (3, 18, 32)
    with pytest.raises(BadScene, match="no image folder images_16"):
        DL3DVSource(tmp_path, "images_16").scene("a")


def test_frames_are_put_in_the_order_of_the_video_with_their_images(tmp_path: Path) -> None:
    home = write_dl3dv(tmp_path / "a", frames=11)
    meta = transforms(11)
    for index, frame in enumerate(meta["frames"]):
        frame["file_path"] = f"images/frame_{index + 1}.png"
        (home / "images_4" / f"frame_{index + 1:05d}.png").rename(home / "images_4" / f"frame_{index + 1}.png")
    meta["frames"] = meta["frames"][::-1]
    (home / "transforms.json").write_text(json.dumps(meta))
    scene = DL3DVSource(tmp_path).scene("a")
    assert torch.allclose(scene.c2w, walk(11), atol=1e-6)
    assert [int(image[0, 0, 0]) for image in scene.load_images(range(11))] == [4 * index for index in range(11)]


def test_intrinsics_of_single_frames_win(tmp_path: Path) -> None:
    home = write_dl3dv(tmp_path / "a", frames=3)
    meta = transforms(3)
    meta["frames"][1]["fl_x"] = 256.0
    (home / "transforms.json").write_text(json.dumps(meta))
    assert DL3DVSource(tmp_path).scene("a").intrinsics[:, 0, 0].tolist() == [0.5, 1.0, 0.5]


def test_missing_or_empty_root(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder"):
        DL3DVSource(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no scene"):
        DL3DVSource(tmp_path)


def test_the_layouts_of_dl3dv_s_downloads(tmp_path: Path) -> None:
    """Layouts of DL3DV-ALL (scenes in 1K to 11K, some still packed, some with a second folder) and the benchmark."""
    write_dl3dv(tmp_path / "1K" / "aa")
    write_dl3dv(tmp_path / "2K" / "bb" / "bb")
    write_dl3dv(tmp_path / "cc" / "nerfstudio")
    write_dl3dv(tmp_path / "2K" / "aa")  # twice
    (tmp_path / "2K" / "dd.zip").write_bytes(b"PK")
    (tmp_path / "2K" / "bb.zip").write_bytes(b"PK")  # unpacked, and still there
    (tmp_path / "2K" / "cache").mkdir()
    source = DL3DVSource(tmp_path)
    assert list(source.keys) == ["aa", "bb", "cc"]
    assert all(source.scene(key).num_frames == 8 for key in source.keys)
    assert source.skipped.reasons == {"cache": "no transforms.json", "dd": "a .zip archive that is not unpacked"}
    found = find_dataparser(tmp_path)
    assert isinstance(found, Dl3dvDataParserConfig)
    assert list(found.setup().scene_source("test").keys) == ["aa", "bb", "cc"]


def test_archives_alone_are_to_be_unpacked(tmp_path: Path) -> None:
    (tmp_path / "1K").mkdir()
    (tmp_path / "1K" / "aa.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"holds no scene: .*; 1 scenes are \.zip archives: unpack them"):
        DL3DVSource(tmp_path)


def test_folders_without_transforms_are_skipped(tmp_path: Path) -> None:
    write_dl3dv(tmp_path / "a")
    (tmp_path / "cache").mkdir()
    source = DL3DVSource(tmp_path)
    assert list(source.keys) == ["a"] and source.skipped.reasons == {"cache": "no transforms.json"}
    with pytest.raises(BadScene, match=r"scene cache: no transforms\.json"):
        source.scene("cache")
    with pytest.raises(DataError, match="has no scene 'z'"):
        source.scene("z")


def change(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda meta: meta.update(values)


def first_frame(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda meta: meta["frames"][0].update({name: value})


def without(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda meta: meta.pop(name)


NAN_POSE = [[float("nan")] * 4] * 3 + [[0.0, 0.0, 0.0, 1.0]]
SCALED_POSE = [[2.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0], [0.0, 0.0, 2.0, 0.0], [0.0, 0.0, 0.0, 1.0]]


@pytest.mark.parametrize(
    "damage, message",
    [
        (change(frames=[]), "has no frames"),
        (without("frames"), "has no frames"),
        (without("w"), "lacks w and h"),
        (change(fl_x=None, fl_y=None), r"frame images/frame_00001\.png has no focal length"),
        (change(fl_y=-3.0), "fl_y must be above 0 and at most 1,000,000, got -3"),
        (change(camera_model="OPENCV_FISHEYE"), "perspective cameras only, got OPENCV_FISHEYE"),
        (first_frame("transform_matrix", NAN_POSE), "frame .*: transform_matrix is not finite"),
        (first_frame("transform_matrix", SCALED_POSE), "frame 0 has a pose that is not rigid"),
        (first_frame("transform_matrix", [[1.0, 2.0]]), r"transform_matrix has shape \[1, 2\], expected 4 x 4"),
        (first_frame("file_path", None), "without file_path"),
        (first_frame("file_path", "images/other_7.png"), "1 of 8 images are missing, the first is other_7"),
    ],
)
def test_damaged_transforms(tmp_path: Path, damage: Callable[[dict[str, Any]], None], message: str) -> None:
    home = write_dl3dv(tmp_path / "a")
    meta = transforms(8)
    damage(meta)
    (home / "transforms.json").write_text(json.dumps(meta))
    with pytest.raises(BadScene, match=message) as caught:
        DL3DVSource(tmp_path).scene("a")
    assert caught.value.key == "a" and "\n" not in str(caught.value)


def test_broken_json(tmp_path: Path) -> None:
    home = write_dl3dv(tmp_path / "a")
    (home / "transforms.json").write_text('{"w": 3')
    with pytest.raises(BadScene, match="cannot be read as JSON"):
        DL3DVSource(tmp_path).scene("a")


def test_image_of_other_proportions(tmp_path: Path) -> None:
    home = write_dl3dv(tmp_path / "a")
    picture(0, (64, 36)).save(home / "images_4" / "frame_00001.png")
    with pytest.raises(BadScene, match="frame frame_00001 cannot be decoded: 36 x 64 pixels, but"):
        DL3DVSource(tmp_path).scene("a").load_images([0])


def test_truncated_image(tmp_path: Path) -> None:
    home = write_dl3dv(tmp_path / "a")
    file = home / "images_4" / "frame_00002.png"
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(BadScene, match="frame frame_00002 cannot be decoded"):
        DL3DVSource(tmp_path).scene("a").load_images([1])
