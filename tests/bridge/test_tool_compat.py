"""Checkpoints with numpy's numbers, and errors in one line."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from scenetok_ns.bridge.tool_compat import TRACEBACK, shorten_errors
from scenetok_ns.models.presets import load_preset
from scenetok_ns.plugin import methods as scenetok_config  # noqa: F401  importing it makes numpy's scalars readable


@pytest.mark.parametrize("number", [np.float64(0.5), np.float32(2), np.int64(3), np.bool_(True)])
def test_checkpoints_of_stock_schedules_load(number: np.generic) -> None:
    file = io.BytesIO()
    torch.save({"_last_lr": [number]}, file)
    file.seek(0)
    assert torch.load(file, weights_only=True)["_last_lr"] == [number]


def reported(action: object, capsys: pytest.CaptureFixture[str]) -> str:
    try:
        action()  # type: ignore[operator]
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    return capsys.readouterr().err


def test_our_complaints_are_one_line_and_bugs_keep_their_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    monkeypatch.delenv(TRACEBACK, raising=False)
    shorten_errors()
    complaint = reported(lambda: load_preset("nothing"), capsys)
    assert complaint.startswith("error: unknown preset 'nothing'") and "Traceback" not in complaint
    assert "Traceback" in reported(lambda: Path("nowhere").read_text(), capsys)
    assert "Traceback" in reported(lambda: [][1], capsys)
    torch.save({"a": torch.zeros(1000)}, tmp_path / "cut.ckpt")
    (tmp_path / "cut.ckpt").write_bytes((tmp_path / "cut.ckpt").read_bytes()[:2000])
    damaged = reported(lambda: torch.load(tmp_path / "cut.ckpt", weights_only=True), capsys)  # as stock ns-eval does
    assert re.search(r"^error: checkpoint .*cut\.ckpt cannot be read: .*; is the file whole\?$", damaged, re.MULTILINE)
    assert "Traceback" not in damaged
    monkeypatch.setenv(TRACEBACK, "1")
    assert "Traceback" in reported(lambda: load_preset("nothing"), capsys)
