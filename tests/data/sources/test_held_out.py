"""Training on evaluation scenes leaves out their target views."""

from __future__ import annotations

from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import torch
from support.scene_files import example, write_re10k

from scenetok_ns.data.scenes import Scene, ViewIndices
from scenetok_ns.data.sources.held_out import HeldOutTargets
from scenetok_ns.data.sources.re10k import RE10KSource


def some_views(scene: Scene) -> ViewIndices:
    return ViewIndices(torch.tensor([0, 4, 9]), torch.tensor([0, 1, 2, 3, 4, 5]))


def test_targets_are_left_out_unless_they_are_context(tmp_path: Path) -> None:
    whole = RE10KSource(write_re10k(tmp_path, [[example("a", 12), example("b", 12)]]))
    source = HeldOutTargets(whole, ["a"], some_views)
    ForkingPickler.dumps(source)  # the source can be sent to workers
    assert list(source.keys) == ["a", "b"]
    part, kept = source.scene("a"), [0, 4, 6, 7, 8, 9, 10, 11]
    assert torch.equal(part.c2w, whole.scene("a").c2w[kept])
    assert [int(image[0].float().mean().round()) // 4 for image in part.load_images(range(8))] == kept
    assert source.scene("b").num_frames == 12
    assert source.skipped is whole.skipped
