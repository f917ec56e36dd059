"""Camera path files have the same poses for Nerfstudio and for us, in both directions; invalid files are refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from nerfstudio.cameras.camera_paths import get_path_from_json
from support.scene_files import transforms, walk

from scenetok_ns.bridge.cameras import request_of, square_cameras
from scenetok_ns.data.anchors import trajectory
from scenetok_ns.data.camera_path_files import read_camera_path, read_path, write_camera_path, write_path
from scenetok_ns.data.scenes import DataError
from scenetok_ns.dataparsers.camera_conversion import nerfstudio_to_camera_batch


def test_a_path_is_read_back_and_by_nerfstudio(tmp_path: Path) -> None:
    poses = trajectory("turn", 5)
    write_camera_path(tmp_path / "path.json", poses, fov=70.0, side=64)
    torch.testing.assert_close(read_camera_path(tmp_path / "path.json"), poses)
    cameras = get_path_from_json(json.loads((tmp_path / "path.json").read_text()))
    batch = nerfstudio_to_camera_batch(cameras)
    torch.testing.assert_close(batch.c2w[0], poses)
    assert cameras.height.flatten().tolist() == cameras.width.flatten().tolist() == [64] * 5
    expected = 0.5 / torch.tan(torch.deg2rad(torch.tensor(35.0)))
    torch.testing.assert_close(batch.intrinsics[0, :, [0, 1], [0, 1]], expected.expand(5, 2))


@pytest.mark.parametrize("size", [(64, 64), (48, 96), (96, 48)])
def test_lenses_of_wide_and_tall_pictures_are_those_of_nerfstudio(tmp_path: Path, size: tuple[int, int]) -> None:
    """Our square has the picture's long side, while Nerfstudio's field of view spans its height."""
    write_camera_path(tmp_path / "square.json", trajectory("turn", 4), fov=50.0, side=32)
    path = read_path(tmp_path / "square.json", size, side=64)
    write_path(tmp_path / "path.json", path)
    again = read_path(tmp_path / "path.json", None, side=64)
    assert again.size == path.size == size
    torch.testing.assert_close(again.intrinsics, path.intrinsics)
    torch.testing.assert_close(again.c2w, path.c2w)
    theirs = get_path_from_json(json.loads((tmp_path / "path.json").read_text()))
    ours = nerfstudio_to_camera_batch(square_cameras(theirs, "fill"))
    torch.testing.assert_close(path.intrinsics, ours.intrinsics[0])
    assert path.request == request_of(theirs[:1], "fill")


def test_photographs_of_transforms_json_are_cropped_as_the_model_sees_them(tmp_path: Path) -> None:
    meta = transforms(5, (60, 100))
    meta["frames"] = meta["frames"][::-1]
    meta["frames"][0] |= {"fl_x": 90.0, "fl_y": 54.0, "cx": 40.0}  # of the last photograph
    meta["k1"] = 0.0
    (tmp_path / "transforms.json").write_text(json.dumps(meta))
    path = read_path(tmp_path / "transforms.json", None, side=32)
    assert path.size == (32, 32)
    torch.testing.assert_close(path.c2w, walk(5), atol=1e-6, rtol=1e-6)
    expected = torch.tensor([[0.5 * 100 / 60, 0, 0.5], [0, 0.9, 0.5], [0, 0, 1]])
    torch.testing.assert_close(path.intrinsics[0], expected, atol=0.01, rtol=0)
    assert float(path.intrinsics[4, 0, 0]) == pytest.approx(90 / 60, rel=0.01)
    assert float(path.intrinsics[4, 0, 2]) == pytest.approx(0.4)
    del meta["fl_x"], meta["fl_y"]
    meta["frames"] = meta["frames"][1:]
    (tmp_path / "angle.json").write_text(json.dumps({**meta, "camera_angle_x": 1.2}))
    angle = read_path(tmp_path / "angle.json", (20, 30), side=32)
    assert angle.size == (20, 30)
    assert float(angle.intrinsics[0, 0, 0]) == pytest.approx(50 / math.tan(0.6) / 60, rel=0.01)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json", "is not a camera path of Nerfstudio .* or a transforms.json: it is not JSON"),
        ("[]", "neither a camera_path nor frames"),
        ({"frames": [{"transform_matrix": torch.eye(4).tolist()}]}, "frame 0 has no file_path"),
        ({"frames": [], "w": 4, "h": 4, "fl_x": 4}, "has no frames"),
        ({"camera_path": [{"camera_to_world": torch.eye(4).flatten().tolist(), "fov": 60}]}, "render_height"),
        (
            {
                "camera_path": [{"camera_to_world": torch.eye(4).flatten().tolist(), "fov": 190}],
                "render_height": 4,
                "render_width": 4,
            },
            "fov of frame 0 is 190, expected a number above 0.01 and below 179.9",
        ),
        (
            {
                "camera_type": "fisheye",
                "camera_path": [{"camera_to_world": torch.eye(4).flatten().tolist(), "fov": 60}],
            },
            "camera_type is fisheye, and SceneTok renders perspective cameras only",
        ),
    ],
)
def test_files_without_poses_or_lenses_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    (tmp_path / "path.json").write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(DataError, match=message) as error:
        read_path(tmp_path / "path.json", None, side=32)
    assert "\n" not in str(error.value)


POSE = torch.eye(4).flatten().tolist()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no camera path at"),
        ("not json", "is not a camera path of Nerfstudio"),
        ("[]", "is not a camera path of Nerfstudio .* it is not an object"),
        ({"keyframes": []}, "is not a camera path of Nerfstudio .*: it lacks camera_path"),
        ({"camera_path": []}, "has no frames"),
        ({"camera_path": [{"camera_to_world": POSE[:12]}]}, "frame 0 has no pose of 4 x 4 numbers"),
        (
            {"camera_path": [{"camera_to_world": POSE}, {"camera_to_world": [2 * x for x in POSE]}]},
            "frame 1 is not a rotation and a position",
        ),
        ({"camera_path": [{"camera_to_world": [*POSE[:3], float("nan"), *POSE[4:]]}]}, "pose of frame 0 is not finite"),
        ({"camera_path": [{"camera_to_world": [-POSE[0], *POSE[1:]]}]}, "frame 0 is a reflection"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "path.json"
    if content is not None:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(DataError, match=message) as error:
        read_camera_path(path)
    assert "\n" not in str(error.value)
