"""Misspelt names get the similar name, and only a similar one."""

from __future__ import annotations

from pathlib import Path

import pytest

from scenetok_ns.tools.suggestions import MANY, did_you_mean, did_you_mean_path


def test_the_most_similar_name_is_suggested() -> None:
    names = ["re10k", "re10k-scene", "scenetok-tiny", "scenegen-tiny"]
    assert did_you_mean("scenetok_tiny", names) == " (did you mean scenetok-tiny?)"
    assert did_you_mean("RE10K", names) == " (did you mean re10k?)"
    assert did_you_mean("attic", names) == did_you_mean("re10k", []) == ""


def test_among_very_many_names_only_a_few_are_compared() -> None:
    keys = [f"{number:04x}{'0123456789ab'[number % 7 :]}" for number in range(MANY + 1)]
    meant = keys[0x123]
    assert did_you_mean(meant[:-1], keys) == did_you_mean(meant[:-1].upper(), keys) == f" (did you mean {meant}?)"
    assert did_you_mean(f"f{meant[1:]}", keys[:MANY]) != ""
    assert did_you_mean(f"f{meant[1:]}", keys) == did_you_mean(meant[:7], keys) == ""
    numbered = [f"scene_{number:05}" for number in range(MANY + 1)]
    assert did_you_mean("scene_0012", numbered) == ""


def test_the_missing_part_of_a_path_is_compared_with_its_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs" / "garden" / "refined").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert did_you_mean_path(Path("runs/gardne/refined")) == " (did you mean runs/garden/refined?)"
    assert did_you_mean_path(Path("runs/gardne/other")) == " (did you mean runs/garden?)"
    assert did_you_mean_path(tmp_path / "rums") == f" (did you mean {tmp_path / 'runs'}?)"
    assert did_you_mean_path(Path("rums"), ["re10k"]) == " (did you mean runs?)"
    assert did_you_mean_path(Path("re10"), ["re10k"]) == " (did you mean re10k?)"
    assert did_you_mean_path(Path("nowhere/at/all")) == ""
