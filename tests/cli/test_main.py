"""The `scenetok` command prints help without heavy imports, finds subcommands, and reports bad input in one line."""

from __future__ import annotations

import importlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tyro
from support.docs_pages import parse
from support.docs_runner import check_options

from scenetok_ns import __version__
from scenetok_ns.cli.commands import COMMANDS, GROUPS
from scenetok_ns.cli.completion import script
from scenetok_ns.cli.main import attached, entrypoint
from scenetok_ns.cli.old_names import EARLIER_COMMANDS, OPTIONS, RUN_FIRST, current_options
from scenetok_ns.tools.errors import UsageError
from scenetok_ns.tools.threads import CHOICES, let_idle_threads_sleep


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from scenetok_ns.cli.main import entrypoint; entrypoint(['--help']);"
        "assert not {'torch', 'tyro', 'nerfstudio', 'rich'} & set(sys.modules), 'heavy import'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(name in done.stdout for name in (*COMMANDS, *GROUPS))


def test_options_of_commands_are_known_without_torch_and_nerfstudio() -> None:
    """`scenetok COMMAND --help` and errors about options must not wait for heavy imports. Only trainings need torch."""
    quick = [command.function for name, command in COMMANDS.items() if not name.startswith("train-tiny")]
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
    module, function = COMMANDS[name].function.split(":")
    assert callable(getattr(importlib.import_module(module), function))
    with pytest.raises(SystemExit) as stop:
        entrypoint([name, "--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert f"usage: scenetok {name}" in printed and "--quiet" in printed
    assert COMMANDS[name].examples and all(f"\n  {line}\n" in printed for line in COMMANDS[name].examples)


@pytest.mark.parametrize("line", [line for command in COMMANDS.values() for line in command.examples])
def test_examples_of_the_help_are_commands(line: str, tmp_path: Path) -> None:
    command = parse(line)
    assert command is not None and command.program == "scenetok"
    check_options(command, tmp_path)


def options_of(name: str) -> dict[str, str]:
    """Options of a command -> their help texts."""
    module, function = COMMANDS[name].function.split(":")
    parser = tyro.extras.get_parser(getattr(importlib.import_module(module), function))
    return {word: action.help or "" for action in parser._actions for word in action.option_strings}


def test_one_word_for_one_thing() -> None:
    """An option has the same name in all commands, and other commands' names for it are accepted."""
    for earlier, now in EARLIER_COMMANDS.items():
        assert now in COMMANDS and earlier not in COMMANDS
    for name, renamed in OPTIONS.items():
        options = options_of(name)
        assert set(renamed.values()) <= set(options) and not set(renamed) & set(options), name
    exports, trainings = ([name for name in COMMANDS if name.startswith(start)] for start in ("export-", "train-tiny"))
    computing = ("capture", "encode", "evaluate", "generate", "latents", "render", "score", *exports, *trainings)
    for name in computing:
        assert "--device" in options_of(name), name
    assert "--views" not in options_of("export-mesh") and "--frames" in options_of("export-mesh")


def test_a_help_text_leaves_a_default_that_is_printed_to_the_parser() -> None:
    """If the help text named the default that the parser prints, too, the two could contradict each other."""
    for name in COMMANDS:
        for option, text in options_of(name).items():
            stated = re.findall(r"[Dd]efault:? ", text.replace("(default: ", ""))
            printed = re.search(r"\(default: (.*)\)", text)
            if stated and printed is not None:
                assert printed[1] in ("None", "") or option in ("-h", "--help"), f"{name} {option}: {text}"


def test_earlier_names_work_with_a_hint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for earlier, now in EARLIER_COMMANDS.items():
        with pytest.raises(SystemExit) as stop:
            entrypoint([earlier, "--help"])
        printed = capsys.readouterr()
        assert stop.value.code == 0 and f"usage: scenetok {now}" in printed.out
        assert (
            printed.err
            == f"scenetok {now}: scenetok {earlier} is now called scenetok {now}; the earlier name still works\n"
        )
    words = ["--train", "1", "--test=1", "--frames", "2", "--size", "16", "--output", str(tmp_path / "rooms")]
    entrypoint(["demo-data", *words])
    printed = capsys.readouterr()
    assert printed.err == (
        "scenetok demo-data: --train is called --train-scenes here; --train still works\n"
        "scenetok demo-data: --test is called --test-scenes here; --test still works\n"
    )
    for name in RUN_FIRST:
        assert current_options(name, ["--seed", "1", "--run", "RUN", "-h"]) == (["RUN", "--seed", "1", "-h"], [])
        assert current_options(name, ["--run=RUN", "-h"]) == (["RUN", "-h"], [])
    assert current_options("render", ["--run", "RUN", "--scene", "x"])[0] == ["--run", "RUN", "--scenes", "x"]
    words = ["--scenes=3", "--frames-per-scene", "24"]
    assert current_options("train-tiny-depth", words)[0] == ["--num-scenes=3", "--frames", "24"]


def test_quiet_prints_errors_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "demo-data",
        "--train",
        "1",
        "--test",
        "1",
        "--frames",
        "2",
        "--size",
        "16",
        "--output",
        str(tmp_path / "a"),
    ]
    entrypoint([*words, "--quiet"])
    assert capsys.readouterr() == ("", "") and (tmp_path / "a").is_dir()
    with pytest.raises(SystemExit):
        entrypoint(["--quiet", *words])
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("scenetok demo-data: ") and "exists" in printed.err
    entrypoint([*words[:-1], str(tmp_path / "b")])
    assert "1 training and 1 test scenes" in " ".join(capsys.readouterr().out.split())


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    entrypoint(["--version"])
    assert capsys.readouterr().out == f"scenetok {__version__}\n"


def test_completion_knows_commands_and_options(tmp_path: Path) -> None:
    text = script("bash")
    assert all(name in text for name in COMMANDS) and "--num-context" in text and "\x1b" not in text
    (tmp_path / "scenetok").write_text(text)
    asking = (
        f"source {tmp_path / 'scenetok'}; COMP_WORDS=(scenetok export-); COMP_CWORD=1; COMP_LINE='scenetok export-';"
        "_tyro_scenetok 2>/dev/null; echo ${COMPREPLY[@]}"
    )
    done = subprocess.run(["bash", "-c", asking], capture_output=True, text=True)
    assert done.stdout.split() == ["export-dataset", "export-mesh", "export-splat"], done.stderr
    assert "#compdef scenetok" in script("zsh")


def test_unknown_command_is_named() -> None:
    with pytest.raises(SystemExit, match=r"unknown command 'demo-dada' .did you mean demo-data\?.; known: .*demo-data"):
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
        # A process in the background ignores SIGINT, and so would its children.
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


def test_several_photographs_are_sent_to_the_gallery() -> None:
    with pytest.raises(SystemExit, match=r"--image takes one photograph, got 3; .* run scenetok gallery, upload them"):
        entrypoint(["generate", "--image", "a.jpg", "b.jpg", "c.jpg", "--output", "scene.safetensors"])


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
