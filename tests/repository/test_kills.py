"""After a command is killed with -9, a rerun gives the result of an undisturbed run and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from support import kills

SCRIPT = kills.__file__


@pytest.mark.long
@pytest.mark.slow
def test_reruns_after_kills_equal_undisturbed_runs() -> None:
    """This test tries a few kills. `make kills` tries all commands, with twenty kills each."""
    commands = ["import", "new-run", "download"]
    words = [sys.executable, SCRIPT, *commands, "--count", "1", "--kinds", "writes"]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert done.stdout.count(" 1 kills") == len(commands), done.stdout


def test_what_is_left_over_or_lost_or_changed_is_found(tmp_path: os.PathLike[str]) -> None:
    before = {"a": "1", "b": "2", "folder": "folder"}
    assert not kills.differences(before, dict(before))
    assert kills.differences(before, {"a": "1", "b": "3", ".b.part": "4"}) == [
        "left over: .b.part",
        "missing: folder",
        "other content: b",
    ]
