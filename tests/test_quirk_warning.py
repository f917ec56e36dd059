"""ns-train tells who trains afresh with an error that only released weights need."""

from __future__ import annotations

from pathlib import Path

import pytest
from nerfstudio.scripts.train import train_loop
from small_runs import PRESET, small_config, write_small_re10k


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def test_training_afresh_with_a_quirk_warns_and_going_on_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_small_re10k(tmp_path / "data")
    quirky = tmp_path / "quirky.yaml"
    quirky.write_text(PRESET.read_text().replace("data:\n", "data:\n  scale_focal_by_256: all\n", 1))

    plain = small_config(data, tmp_path / "plain", max_num_iterations=1)
    train_loop(0, 1, plain)
    assert "quirk" not in said(capsys)

    first = small_config(data, tmp_path / "first", max_num_iterations=1)
    first.pipeline.model.preset = str(quirky)
    train_loop(0, 1, first)
    assert "Warning: preset quirky has the quirk data.scale_focal_by_256: all, which only released" in said(capsys)

    more = small_config(data, tmp_path / "more", max_num_iterations=1, load_dir=first.get_checkpoint_dir())
    more.pipeline.model.preset = str(quirky)
    train_loop(0, 1, more)
    assert "quirk " not in said(capsys)
