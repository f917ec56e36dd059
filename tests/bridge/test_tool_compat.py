"""Checkpoints with NumPy scalars load, errors are one line, and other methods are not affected by the plugin."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.utils.eval_utils import eval_load_checkpoint, eval_setup
from support.stock_methods import describe

from scenetok_ns.bridge import tool_compat
from scenetok_ns.bridge.tool_compat import opened_config, shorten_errors
from scenetok_ns.models.presets import load_preset
from scenetok_ns.plugin.methods import method_config
from scenetok_ns.tools.errors import REPORT, TRACEBACK


@pytest.mark.parametrize("number", [np.float64(0.5), np.float32(2), np.int64(3), np.bool_(True)])
def test_checkpoints_of_stock_schedules_load(number: np.generic) -> None:
    file = io.BytesIO()
    torch.save({"_last_lr": [number]}, file)
    file.seek(0)
    assert torch.load(file, weights_only=True)["_last_lr"] == [number]


@pytest.fixture(autouse=True)
def hook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    monkeypatch.delenv(TRACEBACK, raising=False)
    shorten_errors()


def reported(action: Callable[[], Any], capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """Return what the plugin's hook prints for the error of an action, and what Python prints without the plugin."""
    try:
        action()
    except (Exception, KeyboardInterrupt) as error:
        capsys.readouterr()
        sys.excepthook(type(error), error, error.__traceback__)
        ours = capsys.readouterr().err
        sys.__excepthook__(type(error), error, error.__traceback__)
        return ours, capsys.readouterr().err
    raise AssertionError("no error")


def test_our_complaints_are_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    printed, _ = reported(lambda: load_preset("nothing"), capsys)
    assert printed.startswith("error: unknown preset 'nothing'") and "Traceback" not in printed
    monkeypatch.setenv(TRACEBACK, "1")
    printed, stock = reported(lambda: load_preset("nothing"), capsys)
    assert printed.startswith(stock) and "error: unknown preset" in printed


@pytest.mark.parametrize("ours", [True, False])
def test_ctrl_c_is_one_line_in_the_tools_of_our_runs(ours: bool, capsys: pytest.CaptureFixture[str]) -> None:
    def start_viewer(config: Any) -> None:
        raise KeyboardInterrupt

    config = method_config("scenetok-tiny") if ours else None
    printed, stock = reported(lambda: start_viewer(config), capsys)
    assert printed == ("interrupted\n" if ours else stock)

    def _start_viewer(config: Any) -> None:  # the name in Nerfstudio's run_viewer
        start_viewer(config)

    printed, stock = reported(lambda: _start_viewer(config), capsys)
    assert printed == ("viewer closed\n" if ours else stock)


def test_bugs_keep_their_traceback_and_say_that_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    printed, stock = reported(lambda: tool_compat.is_our_run(None), capsys)  # type: ignore[arg-type]
    assert printed == f"{stock}{REPORT}\n" and "TypeError" in printed


@pytest.mark.parametrize("action", [lambda: [][1], lambda: Path("nowhere").read_text(), lambda: yaml.safe_load("[")])
def test_errors_of_others_are_not_ours(action: Callable[[], Any], capsys: pytest.CaptureFixture[str]) -> None:
    printed, stock = reported(action, capsys)
    assert printed == stock


class Foreign:
    """A class that torch refuses to load."""


@pytest.mark.parametrize("method", ["splatfacto", "nerfacto", "scenetok-tiny"])
@pytest.mark.parametrize("damage", ["cut", "foreign", "empty"])
def test_checkpoints_that_do_not_load(
    method: str, damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ns-eval reports unreadable checkpoints of our methods in one line. Other methods keep torch's own message."""
    file = tmp_path / "step-000000001.ckpt"
    torch.save({"a": Foreign() if damage == "foreign" else torch.zeros(1000)}, file)
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:2000])
    if damage == "empty":
        file.unlink()
    config = all_methods[method]
    config.load_dir, config.load_step = tmp_path, None
    try:
        printed, stock = reported(lambda: eval_load_checkpoint(config, None), capsys)  # type: ignore[arg-type]
    finally:
        config.load_dir = None
    if method != "scenetok-tiny":
        assert printed == stock and ("Unsupported global" in printed or damage != "foreign")
    else:
        wanted = r"no checkpoint .* in " if damage == "empty" else r"checkpoint .*step-000000001\.ckpt cannot be read: "
        assert re.match("error: " + wanted, printed) and "Traceback" not in printed


@pytest.mark.parametrize(("method", "is_ours"), [("splatfacto", False), ("scenetok-tiny", True)])
def test_damaged_config_files(method: str, is_ours: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = yaml.dump(all_methods[method])
    for damaged in (text[: len(text) // 2], text.replace("method_name", "method"), "[" + text):
        (tmp_path / "config.yml").write_text(damaged)
        printed, stock = reported(lambda: eval_setup(tmp_path / "config.yml"), capsys)
        if is_ours:
            assert re.match(r"error: .*config\.yml cannot be read as the configuration of a scenetok run: ", printed)
            assert "Traceback" not in printed
        else:
            assert printed == stock


def stock_function(config_path: Path, ask: Callable[[], Any]) -> Any:
    return ask()


stock_function.__code__ = stock_function.__code__.replace(co_name="eval_setup")


def test_the_config_file_being_opened_is_known(tmp_path: Path) -> None:
    assert opened_config() is None
    tool = FunctionType(stock_function.__code__, {"__name__": "nerfstudio.utils.eval_utils"}, "eval_setup")
    assert tool(tmp_path / "config.yml", opened_config) == tmp_path / "config.yml"


def test_other_methods_have_the_same_defaults_and_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    call = [sys.executable, "-m", "support.stock_methods"]
    done = subprocess.run(call, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr
    alone, has_stock_hook = json.loads(done.stdout.splitlines()[-1])
    assert has_stock_hook and "scenetok-tiny" in all_methods
    assert describe() == alone
    assert all(len(help_text) > 1000 for _, help_text in alone.values())


def test_frames_without_configurations_are_others() -> None:
    frame = SimpleNamespace(f_code=compile("", "elsewhere.py", "exec"), f_locals={}, f_globals={})
    assert not tool_compat.is_our_run([frame])  # type: ignore[list-item]
