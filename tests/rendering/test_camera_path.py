"""The Python function `camera_path` gives the paths of `scenetok render`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.oracle import path

from scenetok_ns.data.anchors import trajectory
from scenetok_ns.data.camera_path_files import write_camera_path
from scenetok_ns.data.errors import DataError
from scenetok_ns.models.tokens import SceneTokens
from scenetok_ns.rendering.camera_path import camera_path
from scenetok_ns.rendering.shots import path_around

CAMERAS = path(5)
TOKENS = SceneTokens(
    mean=torch.zeros(2, 3),
    reference_c2w=torch.eye(4),
    preset="scenetok-tiny",
    cameras_c2w=CAMERAS.c2w[0],
    cameras_intrinsics=CAMERAS.intrinsics[0],
)


def test_paths_by_name_and_from_files(tmp_path: Path) -> None:
    found = camera_path("interpolate", TOKENS, 7)
    expected = path_around("interpolate", TOKENS, 7, (64, 64))
    assert torch.equal(found.c2w[0], expected.c2w) and torch.equal(found.intrinsics[0], expected.intrinsics)
    write_camera_path(tmp_path / "path.json", trajectory("turn", 6), fov=60.0, side=24)
    assert torch.allclose(camera_path(tmp_path / "path.json", TOKENS).c2w[0], trajectory("turn", 6), atol=1e-5)


def test_paths_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown path 'orbitt' \\(did you mean orbit\\?\\); give orbit, dolly"):
        camera_path("orbitt", TOKENS)
    with pytest.raises(DataError, match="at least 1 frame, got 0"):
        camera_path("orbit", TOKENS, 0)
    with pytest.raises(ValueError, match=r"^camera_path: expected a whole number of frames, got 2.5"):
        camera_path("orbit", TOKENS, 2.5)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no file"):
        camera_path(tmp_path / "none.json", TOKENS)
    with pytest.raises(ValueError, match=r"^camera_path: expected tokens of type SceneTokens, got str; the order"):
        camera_path(TOKENS, "orbit")  # type: ignore[arg-type]
