"""Defaults of all sources of scenes, and of sources of one scene."""

from __future__ import annotations

import pytest
import torch
from support.scene_files import walk

from scenetok_ns.data.scenes import DataError, OneScene, Scene


class Walk(OneScene):
    def read(self) -> Scene:
        c2w = walk(3)
        intrinsics = torch.eye(3).expand(3, 3, 3)
        return Scene(self.key, c2w, intrinsics, ("a", "b", "c"), lambda index: torch.zeros(3, 4, 4, dtype=torch.uint8))


def test_a_source_decides_nothing_unless_it_says_so() -> None:
    source = Walk("walk")
    assert source.fixed_views(2) is None and source.tokens is None and source.anchors_path is None
    assert source.pose_scale == 1.0 and not source.is_capture and source.training_part() is source
    assert len(source.skipped) == 0 and source.skipped is not Walk("walk").skipped


def test_one_scene_has_one_name() -> None:
    source = Walk("walk")
    assert source.keys == ["walk"] and source.scene("walk").num_frames == 3
    with pytest.raises(DataError, match="there is one scene, 'walk', not 'run'"):
        source.scene("run")
