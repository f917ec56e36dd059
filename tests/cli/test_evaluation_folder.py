"""Default folders of evaluations."""

from __future__ import annotations

from pathlib import Path

from scenetok_ns.cli.evaluation_folder import default_folder


def test_default_folders(tmp_path: Path) -> None:
    (tmp_path / "config.yml").touch()
    assert default_folder(tmp_path) == tmp_path / "evaluation" == default_folder(tmp_path / "config.yml")
    assert default_folder(Path("scenetok-tiny")) == Path("scenetok-tiny-evaluation")
