"""Help texts do not print None as a default or as a choice, and their boxes stay intact."""

from __future__ import annotations

import pytest

from scenetok_ns.cli.help_text import tidy
from scenetok_ns.cli.main import entrypoint

BOX = """\
╭─ options ─────────────────────────────────────╮
│ --run {None}|PATH  Run folder; default: the   │
│                    preset. (default: None)    │
│ --seed {None}|INT  Random seed. (default:     │
│                    None)                      │
│ --size INT         Pixels. (default: 64)      │
╰───────────────────────────────────────────────╯
"""
PLAIN = """\
  --run {None}|PATH  Run folder.
                     (default: None)
  --solver {None,euler,multistep}
                     Solver. (default:
                     None)

  --size {None}|[INT [INT ...]]
                     Pixels. (default: )
"""
TIDY_PLAIN = """\
  --run PATH         Run folder.
  --solver {euler,multistep}
                     Solver.

  --size [INT [INT ...]]
                     Pixels.
"""
TIDY = """\
╭─ options ─────────────────────────────────────╮
│ --run PATH         Run folder; default: the   │
│                    preset.                    │
│ --seed INT         Random seed.               │
│ --size INT         Pixels. (default: 64)      │
╰───────────────────────────────────────────────╯
"""


def test_none_is_left_out_and_boxes_stay_whole() -> None:
    assert tidy(BOX) == TIDY
    assert [line.rstrip() for line in tidy(PLAIN).splitlines()] == TIDY_PLAIN.splitlines()
    coloured = BOX.replace("(default: None)", "\x1b[36m(default: None)\x1b[0m")
    assert tidy(coloured).replace("\x1b[36m", "").replace("\x1b[0m", "") == TIDY


@pytest.mark.parametrize(("name", "default"), [("render", "orbit"), ("export-mesh", "interpolate")])
def test_the_help_of_a_command_has_no_none(name: str, default: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        entrypoint([name, "--help"])
    printed = capsys.readouterr().out
    assert "--run" in printed and f"(default: {default})" in printed and "None" not in printed
    boxed = [line for line in printed.splitlines() if line.startswith("│")]
    assert len({len(line) for line in boxed}) <= 1
