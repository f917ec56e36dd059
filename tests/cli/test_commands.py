"""Commands that are printed can be copied into a shell."""

from __future__ import annotations

import io
import shlex
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from scenetok_ns.cli.commands import command

NAMES = st.text("abRUN /.-_'\"\\[]()$&;*äß", min_size=1, max_size=30)


@given(st.lists(NAMES, min_size=1, max_size=4))
def test_a_shell_gets_the_words_back(words: list[str]) -> None:
    printed = io.StringIO()
    Console(file=printed, width=20).print(f"Look:\n  {command('ns-viewer', *words)}", soft_wrap=True)
    assert shlex.split(printed.getvalue().split("\n", 1)[1]) == ["ns-viewer", *words]


def test_plain_paths_are_as_they_are() -> None:
    assert command("ns-viewer", "--load-config", Path("a/b-1.yml")) == "ns-viewer --load-config a/b-1.yml"
