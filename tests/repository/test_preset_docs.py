"""docs/presets.md and docs/quirks.md agree with the preset files."""

from __future__ import annotations

from pathlib import Path

from scenetok_ns.models.presets import load_preset, preset_names

DOCS = Path(__file__).parents[2] / "docs"


def table_rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_table_of_presets() -> None:
    rows = {row[0].strip("`"): row[1:] for row in table_rows((DOCS / "presets.md").read_text()) if len(row) == 4}
    for name in preset_names():
        preset = load_preset(name)
        method, experiment, checkpoint = rows[name]
        assert method == f"`{preset.method}`"
        assert experiment.startswith(f"`{preset.experiment}`" if preset.experiment else "none")
        files = [file for file in (preset.checkpoint, preset.tokenizer_checkpoint) if file and preset.checkpoint]
        assert checkpoint == (" + ".join(f"`{file}`" for file in files) or "none")


def test_table_of_quirks() -> None:
    rows = [row for row in table_rows((DOCS / "quirks.md").read_text()) if row[0].startswith("`")]
    documented = {(row[0].strip("`"), name.strip(" `")) for row in rows for name in row[2].split(",")}
    assert documented == {(quirk, name) for name in preset_names() for quirk in load_preset(name).quirks}
