"""The `scenetok` command: help without heavy imports, subcommands by table, one line for bad input."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from scenetok_ns.cli.main import COMMANDS, attached, entrypoint
from scenetok_ns.tools.errors import UsageError
from scenetok_ns.tools.threads import CHOICES, let_idle_threads_sleep


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from scenetok_ns.cli.main import entrypoint; entrypoint(['--help']);"
        "assert not {'torch', 'tyro', 'nerfstudio', 'rich'} & set(sys.modules), 'heavy import'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(name in done.stdout for name in COMMANDS)


def test_options_of_commands_are_known_without_torch_and_nerfstudio() -> None:
    """`scenetok COMMAND --help`, and complaints about options, take no seconds of imports; trainings need torch."""
    quick = [module for name, (module, _) in COMMANDS.items() if not name.startswith("train-tiny")]
    code = (
        "import sys, importlib, tyro\n"
        "for path in sys.argv[1:]:\n"
        "    module, function = path.split(':')\n"
        "    tyro.extras.get_parser(getattr(importlib.import_module(module), function))\n"
        "    heavy = {'torch', 'numpy', 'nerfstudio', 'viser'} & set(sys.modules)\n"
        "    assert not heavy, f'{path} imports {heavy}'\n"
    )
    subprocess.run([sys.executable, "-c", code, *quick], check=True)


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


def test_exit_codes_tell_usage_failure_and_interrupts_apart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def code(error: BaseException | None = None, *words: str) -> int:
        def fail(*_: object, **__: object) -> None:
            assert error is not None
            raise error

        monkeypatch.setattr("scenetok_ns.data.demo.writer.write_demo_data", fail)
        with pytest.raises(SystemExit) as stop:
            entrypoint(["demo-data", "--output", str(tmp_path / "data"), *words])
        assert isinstance(stop.value.code, int)
        return stop.value.code

    assert code(None, "--frames", "x") == 2
    assert code(UsageError("--frames must be at least 1")) == 2
    assert code(FileNotFoundError(2, "No such file", "x")) == 1
    assert code(KeyboardInterrupt()) == 130
    capsys.readouterr()
    assert code(KeyError("bug")) == 1
    printed = capsys.readouterr().err
    assert "Traceback" in printed and printed.splitlines()[-1].endswith("please report it with the traceback above")


SLEEPS = """
import os, signal, sys, time
from scenetok_ns.cli import main
from scenetok_ns.tools.atomic_files import atomic_folder
from pathlib import Path

def work(name, args):
    with atomic_folder(Path(sys.argv[1])) as folder:
        (folder / "half").touch()
        os.kill(os.getpid(), getattr(signal, sys.argv[2]))
        time.sleep(60)

main._run = work
main.entrypoint(["report"])
"""


@pytest.mark.parametrize(("name", "code", "said"), [("SIGTERM", 143, "terminated"), ("SIGINT", 130, "interrupted")])
def test_signals_end_a_command_in_one_line_and_leave_nothing(name: str, code: int, said: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SLEEPS, str(tmp_path / "out"), name],
        capture_output=True,
        text=True,
        # What starts in the background ignores SIGINT, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert (done.returncode, done.stderr) == (code, f"scenetok report: {said}\n")
    assert not list(tmp_path.iterdir())


def test_an_output_that_nobody_reads_ends_in_one_line() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    words = [sys.executable, "-c", "from scenetok_ns.cli.main import entrypoint; entrypoint(['--help'])"]
    done = subprocess.run(words, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "scenetok: the program that reads the output has ended\n")


def test_values_that_begin_with_a_dash_are_values() -> None:
    assert attached(["--output", "-x", "--seed", "-3", "-h"]) == ["--output=-x", "--seed", "-3", "-h"]
    assert attached(["--a=b", "-x", "--flag", "--output", "y"]) == ["--a=b", "-x", "--flag", "--output", "y"]


def test_idle_threads_sleep_unless_the_environment_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CHOICES:
        monkeypatch.delenv(name, raising=False)
    let_idle_threads_sleep()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.setenv("GOMP_SPINCOUNT", "100")
    let_idle_threads_sleep()
    assert "OMP_WAIT_POLICY" not in os.environ
