"""The `scenetok` command: help without heavy imports, subcommands by table, one line for bad input."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from scenetok_ns.cli.main import COMMANDS, entrypoint


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from scenetok_ns.cli.main import entrypoint; entrypoint(['--help']);"
        "assert not {'torch', 'tyro', 'nerfstudio', 'rich'} & set(sys.modules), 'heavy import'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_exists_and_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module, function = COMMANDS[name][0].split(":")
    assert callable(getattr(importlib.import_module(module), function))
    with pytest.raises(SystemExit) as stop:
        entrypoint([name, "--help"])
    assert stop.value.code == 0
    assert f"scenetok {name}" in capsys.readouterr().out


def test_unknown_command_is_named() -> None:
    with pytest.raises(SystemExit, match=r"unknown command 'demo-dada'; known: .*demo-data"):
        entrypoint(["demo-dada"])


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyboardInterrupt(), "interrupted"),
        (ImportError("needs diffusers"), "needs diffusers"),
        (OSError("full"), "full"),
    ],
)
def test_interrupts_and_complaints_are_one_line(
    error: BaseException, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("scenetok_ns.data.demo.writer.write_demo_data", fail)
    with pytest.raises(SystemExit, match=f"^scenetok demo-data: {message}$"):
        entrypoint(["demo-data", "--output", str(tmp_path / "data")])
