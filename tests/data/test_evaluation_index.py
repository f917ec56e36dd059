from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.scene_files import example, write_dl3dv, write_re10k

from scenetok_ns.data.evaluation_index import EvaluationIndex
from scenetok_ns.data.scenes import BadScene, DataError
from scenetok_ns.data.sources.dl3dv import DL3DVSource
from scenetok_ns.data.sources.re10k import RE10KSource

ENTRY = {"context": [0, 5], "target": [1, 2, 3]}


def index(tmp_path: Path, content: Any) -> EvaluationIndex:
    path = tmp_path / "evaluation.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return EvaluationIndex.load(path)


def source(tmp_path: Path) -> RE10KSource:
    return RE10KSource(write_re10k(tmp_path / "data", [[example("a")], [example("b")], [example("c")]]))


def test_entries_as_published(tmp_path: Path) -> None:
    found = index(tmp_path, {"b": ENTRY, "a": [{"context": [7], "target": [0, 7]}], "skipped": None, "empty": []})
    data = source(tmp_path)
    assert found.keys_in(data) == ["b", "a"]
    views = found.views(data.scene("a"))
    assert views.context.tolist() == [7] and views.target.tolist() == [0, 7] and views.target.dtype == torch.int64


def test_published_dl3dv_names_carry_a_suffix(tmp_path: Path) -> None:
    write_dl3dv(tmp_path / "data" / "hash")
    data = DL3DVSource(tmp_path / "data")
    found = index(tmp_path, {"hash_1": ENTRY})
    assert found.keys_in(data) == ["hash"]
    assert found.views(data.scene("hash")).context.tolist() == [0, 5]
    both = index(tmp_path, {"hash_1": ENTRY, "hash": {"context": [2], "target": [3]}})
    assert both.views(data.scene("hash")).context.tolist() == [2]


def test_skipped_scenes_are_left_out(tmp_path: Path) -> None:
    source(tmp_path)
    (tmp_path / "data" / "000000.torch").unlink()
    assert index(tmp_path, {"a": ENTRY, "b": ENTRY}).keys_in(RE10KSource(tmp_path / "data")) == ["b"]


def test_unknown_scene(tmp_path: Path) -> None:
    data = source(tmp_path)
    with pytest.raises(DataError, match="names 2 scenes, none of which the data set has; the first is 'x'"):
        index(tmp_path, {"x": ENTRY, "y": ENTRY}).keys_in(data)
    assert not data.skipped.reasons
    found = index(tmp_path, {"a": ENTRY, **{f"x{i}": ENTRY for i in range(136)}})
    for _ in range(2):
        assert found.keys_in(data) == ["a"]
    assert len(data.skipped) == 136
    assert data.skipped.reasons["x0"] == f"not in the data set, though {found.path.name} names it"
    with pytest.raises(DataError, match="has no entry for scene 'c'"):
        found.views(data.scene("c"))


def test_unknown_frame(tmp_path: Path) -> None:
    for entry in ({"context": [0, 8], "target": [1]}, {"context": [0], "target": [1, 8]}):
        with pytest.raises(BadScene, match=r"scene a: .* asks for frame 8, but it has 8 frames \(0 to 7\)"):
            index(tmp_path, {"a": entry}).views(source(tmp_path).scene("a"))


@pytest.mark.parametrize(
    "content, message",
    [
        ('{"a"', "cannot be read as JSON"),
        ([ENTRY], "expected an object"),
        ({}, "names no scenes"),
        ({"a": {"context": [0]}}, "entry of scene 'a' should be"),
        ({"a": {"context": [0], "target": []}}, "entry of scene 'a' should be"),
        ({"a": {"context": [0], "target": [-1]}}, "entry of scene 'a' should be"),
        ({"a": {"context": [0], "target": [1.5]}}, "entry of scene 'a' should be"),
        ({"a": [ENTRY, ENTRY]}, "entry of scene 'a' should be"),
    ],
)
def test_damaged_index(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        index(tmp_path, content)
    assert "\n" not in str(caught.value)


def test_missing_index(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no evaluation index .*nowhere.json: `scenetok eval-index` makes"):
        EvaluationIndex.load(tmp_path / "nowhere.json")
