"""Camera-path files: the same poses as Nerfstudio reads, both ways, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from nerfstudio.cameras.camera_paths import get_path_from_json

from scenetok_ns.camera_conversion import nerfstudio_to_camera_batch
from scenetok_ns.camera_path_file import read_camera_path, write_camera_path
from scenetok_ns.data.anchors import trajectory
from scenetok_ns.data.scenes import DataError


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


POSE = torch.eye(4).flatten().tolist()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no camera path at"),
        ("not json", "no camera path of Nerfstudio"),
        ("[]", "no camera path of Nerfstudio"),
        ({"keyframes": []}, "no camera path of Nerfstudio .*camera_path"),
        ({"camera_path": []}, "has no frames"),
        ({"camera_path": [{"camera_to_world": POSE[:12]}]}, "no camera path of Nerfstudio"),
        ({"camera_path": [{"camera_to_world": POSE}, {"camera_to_world": [2 * x for x in POSE]}]}, "frame 1 is no"),
        ({"camera_path": [{"camera_to_world": [*POSE[:3], float("nan"), *POSE[4:]]}]}, "frame 0 is no camera pose"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "path.json"
    if content is not None:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(DataError, match=message) as error:
        read_camera_path(path)
    assert "\n" not in str(error.value)
