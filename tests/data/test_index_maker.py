"""Evaluation indices follow a rule, have the published form, and are checked against their data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.scene_files import example, intrinsics, walk, write_dl3dv, write_re10k

from scenetok_ns.data.evaluation_index import EvaluationIndex
from scenetok_ns.data.index_maker import IndexRule, check_index, has_clips, make_index, save_index
from scenetok_ns.data.scenes import BadScene, DataError, Scene
from scenetok_ns.data.sources.dl3dv import DL3DVSource
from scenetok_ns.data.sources.re10k import RE10KSource


def scene(frames: int, key: str = "a") -> Scene:
    names = tuple(map(str, range(frames)))
    return Scene(key, walk(frames), intrinsics(frames), names, lambda i: torch.zeros(3, 8, 8, dtype=torch.uint8))


@given(
    frames=st.integers(1, 40),
    num_context=st.integers(1, 12),
    num_targets=st.integers(1, 40),
    mode=st.sampled_from(["bounded", "farthest"]),
    start=st.sampled_from(["first", "middle", "random"]),
    seed=st.integers(0, 3),
)
def test_views_of_any_rule(frames: int, num_context: int, num_targets: int, mode: str, start: str, seed: int) -> None:
    if mode == "bounded" and num_context > num_targets:
        with pytest.raises(ValueError, match="do not fit among"):
            IndexRule(num_context, num_targets, mode, start, seed)
        return
    rule = IndexRule(num_context, num_targets, mode, start, seed)
    if frames < max(num_context, num_targets):
        with pytest.raises(BadScene, match=f"{frames} frames, but"):
            rule.views(scene(frames))
        return
    views = rule.views(scene(frames))
    context, target = views.context.tolist(), views.target.tolist()
    assert target == list(range(target[0], target[0] + num_targets)) and target[0] >= 0 and target[-1] < frames
    assert len(set(context)) == num_context and context == sorted(context) and context[-1] < frames
    assert target[0] == {"first": 0, "middle": (frames - num_targets) // 2}.get(start, target[0])
    if mode == "bounded":
        assert set(context) <= set(target) and context[0] == target[0]
    again = rule.views(scene(frames))
    assert again.context.tolist() == context and again.target.tolist() == target


def test_random_starts_differ_between_scenes_and_seeds() -> None:
    rule = IndexRule(2, 5, "bounded", "random")
    starts = [int(rule.views(scene(200, f"scene{i}")).target[0]) for i in range(20)]
    assert len(set(starts)) > 10
    other = IndexRule(2, 5, "bounded", "random", seed=1)
    assert starts != [int(other.views(scene(200, f"scene{i}")).target[0]) for i in range(20)]


def test_an_index_is_made_and_read_back(tmp_path: Path) -> None:
    bad = example("bad")
    bad["cameras"][0, 8] = float("nan")
    source = RE10KSource(
        write_re10k(tmp_path / "data", [[example("a", 12), example("short", 6)], [bad, example("b", 9)]])
    )
    entries, skipped = make_index(source, IndexRule(3, 8, "bounded", "first"))
    assert list(entries) == ["a", "b"] and set(skipped.reasons) == {"short", "bad"}
    save_index(tmp_path / "index.json", entries)
    before = (tmp_path / "index.json").read_bytes()
    save_index(tmp_path / "index.json", make_index(source, IndexRule(3, 8, "bounded", "first"))[0])
    assert (tmp_path / "index.json").read_bytes() == before
    index = EvaluationIndex.load(tmp_path / "index.json")
    assert index.views(source.scene("b")).context.tolist() == entries["b"].context.tolist()
    assert check_index(index, source) == {}
    with pytest.raises(DataError, match="no scene fits; 4 scenes skipped"):
        make_index(source, IndexRule(3, 99, "bounded", "first"))


def test_an_index_is_compared_with_its_data(tmp_path: Path) -> None:
    write_dl3dv(tmp_path / "data" / "hash", frames=9)
    source = DL3DVSource(tmp_path / "data")
    good = {"context": [0, 3], "target": [1, 2]}
    entries = {
        "hash_1": good,
        "unknown": good,
        "hash": {"context": [0, 3], "target": [8, 9]},
        "hash_2": {"context": [1, 1], "target": [2]},
    }
    (tmp_path / "index.json").write_text(json.dumps(entries))
    problems = check_index(EvaluationIndex.load(tmp_path / "index.json"), source)
    assert problems["unknown"] == "the data set has no such scene" and "twice" in problems["hash_2"]
    assert "frame 9" in problems["hash"]


def test_spacing_of_targets() -> None:
    rule = IndexRule(2, 5, "bounded", "first").views(scene(9))
    assert has_clips(rule)
    rule.target[-1] = 8
    assert not has_clips(rule)
