"""`scenetok gallery` opens rooms, a generator and captures in one viewer."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.command_line import failure
from support.scene_files import write_dl3dv
from support.small_runs import GENERATOR, write_run, write_small_re10k

from scenetok_ns.cli import gallery as module
from scenetok_ns.cli.demo_rooms import write_rooms
from scenetok_ns.viewer.start_part import GALLERY, gallery_captures


def test_the_first_call_creates_what_later_ones_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[Any] = []
    monkeypatch.setattr(module, "start_viewer", lambda config, pipeline: served.append((config, pipeline)))
    captures = [write_dl3dv(tmp_path / home / "kitchen", frames=4, image_folder="images", divide=1) for home in "ab"]
    small = write_run(write_small_re10k(tmp_path / "re10k"), tmp_path / "runs", GENERATOR)
    monkeypatch.setattr(module, "write_rooms", partial(write_rooms, frames=16, size=48))
    home = tmp_path / "gallery"
    module.gallery(tuple(captures), output=home, rooms=1, run=small)
    (config, pipeline), run = served[0], home / "run"
    assert config.get_base_dir() == run.absolute() and (run / "config.yml").is_file()
    renderer = pipeline.model.renderer
    assert renderer.generates and len(renderer.scenes.keys) == 1
    assert gallery_captures(run) == {"kitchen": captures[0], "kitchen (2)": captures[1]}
    room = next((home / "rooms" / "test").glob("*.torch")).stat().st_mtime_ns
    module.gallery(output=home, rooms=3, run=small)
    assert next((home / "rooms" / "test").glob("*.torch")).stat().st_mtime_ns == room and len(served) == 2
    assert json.loads((run / GALLERY).read_text()) == {}


def test_wrong_galleries_are_refused_in_one_line(tmp_path: Path) -> None:
    out = tmp_path / "gallery"
    (tmp_path / "empty").mkdir()
    assert "--rooms must be from 1" in failure("gallery", rooms=0, output=out)
    assert "empty" in failure("gallery", str(tmp_path / "empty"), output=out)
    assert "scenetok-tiny" in failure("gallery", run="scenetok-tiny", output=out)
    assert not out.exists()
