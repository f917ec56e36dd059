from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from scenetok_ns.tools.ffmpeg import put_ffmpeg_on_path


def test_an_ffmpeg_runs_where_path_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "/nowhere")
    program = put_ffmpeg_on_path()
    assert program == str(tmp_path / "scenetok_ns/bin/ffmpeg")
    assert os.environ["PATH"] == f"/nowhere{os.pathsep}{tmp_path / 'scenetok_ns/bin'}"
    said = subprocess.run(["ffmpeg", "-version"], capture_output=True, text=True, check=True).stdout
    assert said.startswith("ffmpeg version")
    # mediapy reads with -vsync, which ffmpeg 8 does not have any more.
    assert int(said.split()[2].split(".")[0].lstrip("n")) < 8
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setitem(__import__("sys").modules, "imageio_ffmpeg", None)
    assert put_ffmpeg_on_path() == program  # the link is enough


def test_an_ffmpeg_on_path_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "ffmpeg"
    mine.write_text("#!/bin/sh\n")
    mine.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert put_ffmpeg_on_path() == str(mine) and os.environ["PATH"] == str(tmp_path)


def test_a_cache_that_cannot_be_written_and_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setenv("PATH", "/nowhere")
    program = put_ffmpeg_on_path()
    assert program is not None and Path(program).is_file()
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setitem(__import__("sys").modules, "imageio_ffmpeg", None)
    assert put_ffmpeg_on_path() is None
