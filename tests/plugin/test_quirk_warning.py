"""Training from random weights with an error that only released weights need prints a warning."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from support.small_runs import PRESET, small_config

from scenetok_ns.plugin.trainer import SceneTokTrainer


def start(preset: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the lines that a trainer prints if it has no checkpoint to load."""
    trainer = SceneTokTrainer.__new__(SceneTokTrainer)
    trainer.config = small_config(Path("unused"), Path("unused"))
    trainer.config.pipeline.model.preset = str(preset)
    model = SimpleNamespace(initialize_training_state=list, start_line=None)  # with nothing to say
    trainer.pipeline = SimpleNamespace(model=model)
    trainer._load_checkpoint()
    return " ".join(capsys.readouterr().out.split())


def test_training_afresh_with_a_quirk_warns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quirky = tmp_path / "quirky.yaml"
    quirky.write_text(PRESET.read_text().replace("data:\n", "data:\n  scale_focal_by_256: all\n", 1))
    assert "quirk" not in start(PRESET, capsys)
    said = start(quirky, capsys)
    assert "Warning: preset quirky has the quirk data.scale_focal_by_256: all, which only released weights need" in said
