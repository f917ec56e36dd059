"""Names are printed unchanged, and printed commands can be copied into a shell."""

from __future__ import annotations

import ast
import io
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import Progress

import scenetok_ns
from scenetok_ns.tools import printing
from scenetok_ns.tools.printing import command, description_column, plain_console, print_line

PACKAGE = Path(scenetok_ns.__file__).parent
NAMES = st.text("abRUN /.-_'\"\\[]()$&;*:äß", min_size=1, max_size=30) | st.sampled_from((":smile:", "a[/b]", "[old]"))


@given(st.lists(NAMES, min_size=1, max_size=4))
def test_a_shell_gets_the_words_back(words: list[str]) -> None:
    console = plain_console()
    console.file, console.width = io.StringIO(), 20
    path = "/".join(words)
    console.print(f"{path} is ready:\n  {command('ns-viewer', *words)}", soft_wrap=True)
    first, second = console.file.getvalue().split("\n", 1)
    assert first == f"{path} is ready:" and shlex.split(second) == ["ns-viewer", *words]


def test_plain_paths_are_as_they_are() -> None:
    assert command("ns-viewer", "--load-config", Path("a/b-1.yml")) == "ns-viewer --load-config a/b-1.yml"


def test_bars_and_nerfstudio_s_console_take_names_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    console = plain_console()
    monkeypatch.setattr(console, "_file", io.StringIO())
    with Progress(description_column(), console=console) as progress:
        progress.add_task("SHA-256 of a[/b]:smile:.ckpt", total=1)
    monkeypatch.setattr(CONSOLE, "_file", console.file)
    print_line(f"Resuming after step 3 of {'long/' * 40}a[/b]:smile:.ckpt", style="bold")
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "SHA-256 of a[/b]:smile:.ckpt" in said and f"step 3 of {'long/' * 40}a[/b]:smile:.ckpt\n" in said


def markup_printers(source: str) -> Iterator[str]:
    """Yield calls in `source` that print names as rich's markup."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    for call in calls:
        name = ast.unparse(call.func)
        if name in ("Console", "TextColumn", "CONSOLE.print"):
            yield f"line {call.lineno}: {name}"
        if name.endswith(".status") and isinstance(call.args[0], ast.JoinedStr):
            yield f"line {call.lineno}: status of a name"


def test_nothing_is_printed_as_markup() -> None:
    paths = [path for path in PACKAGE.rglob("*.py") if path != Path(printing.__file__)]
    found = [f"{path.relative_to(PACKAGE)}, {call}" for path in paths for call in markup_printers(path.read_text())]
    assert len(paths) > 150 and not found, "\n".join(found)


@pytest.mark.parametrize("call", ["Console()", "TextColumn('{x}')", "CONSOLE.print(1)", "console.status(f'of {a}')"])
def test_the_walk_sees_markup(call: str) -> None:
    assert list(markup_printers(call))
