"""`scenetok eval-index`: makes an index, and compares one with its data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.scene_files import example, write_re10k

from scenetok_ns.cli.main import entrypoint


def run(*options: object) -> None:
    entrypoint(["eval-index", *map(str, options)])


def test_command_makes_and_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_re10k(tmp_path / "data" / "test", [[example("a", 12)], [example("b", 12)]])
    out = tmp_path / "index.json"
    run("--data", tmp_path / "data", "--output", out, "--num-context", 3, "--num-targets", 8, "--start", "middle")
    assert json.loads(out.read_text())["a"]["target"] == list(range(2, 10))
    run("--data", tmp_path / "data", "--check", out)
    assert "all 2 scenes and frames are there" in " ".join(capsys.readouterr().out.split())
    out.write_text(json.dumps({"a": {"context": [0], "target": [50]}}))
    with pytest.raises(SystemExit, match=r"1 of 1 entries do not fit") as stop:
        run("--data", tmp_path / "data", "--check", out)
    assert "\n" not in str(stop.value) and "asks for frame 50" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give either --output"),
        (["--output", "x.txt"], r"ends in \.json"),
        (["--output", "x.json", "--num-context", "0"], "at least one context"),
        (["--output", "x.json", "--num-targets", "99"], "no scene fits"),
    ],
)
def test_bad_input_is_one_line(
    options: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_re10k(tmp_path / "data" / "test", [[example("a", 12)]])
    with pytest.raises(SystemExit, match=message) as stop:
        run("--data", tmp_path / "data", *options)
    assert "\n" not in str(stop.value) and not list(tmp_path.glob("x.*"))
