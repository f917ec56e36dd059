"""`scenetok demo-data`."""

from __future__ import annotations

from pathlib import Path

import pytest

from scenetok_ns.cli.main import entrypoint


def test_demo_data_writes_and_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--train-scenes", "1", "--test-scenes", "1", "--frames", "2", "--size", "16"]
    entrypoint(["demo-data", "--output", str(tmp_path / "data"), *options])
    assert "1 training and 1 test scenes" in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "data/train/000000.torch").is_file() and (tmp_path / "data/test/index.json").is_file()
    with pytest.raises(SystemExit, match=r"^scenetok demo-data: .*data exists; choose another"):
        entrypoint(["demo-data", "--output", str(tmp_path / "data"), *options])
    assert "making rooms" not in capsys.readouterr().out  # it refuses before it begins
