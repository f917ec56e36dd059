"""Splits, shards and reports of jobs over all scenes of a data set."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from support.scene_files import example, write_dl3dv, write_re10k

from scenetok_ns.cli.scene_jobs import chosen_shard, job_label, open_split, print_report
from scenetok_ns.data.precomputed.scene_jobs import JobReport, Shard
from scenetok_ns.data.scenes import DataError, SkippedScenes
from scenetok_ns.data.sources.dl3dv import DL3DVSource
from scenetok_ns.data.sources.re10k import RE10KSource


def test_a_split_is_found_by_what_is_in_its_folder(tmp_path: Path) -> None:
    write_re10k(tmp_path / "re10k" / "test", [[example("a", 4)]])
    write_dl3dv(tmp_path / "dl3dv" / "test" / "b" / "nerfstudio", 4)
    for data in (tmp_path / "re10k", tmp_path / "re10k" / "test"):
        source = open_split(data, "test", ("test",))
        assert isinstance(source, RE10KSource) and list(source.keys) == ["a"]
    assert isinstance(open_split(tmp_path / "dl3dv", "test", ("train", "test")), DL3DVSource)
    with pytest.raises(DataError, match=r"no folder .*train; if .* is a single split, name it: --splits train"):
        open_split(tmp_path / "re10k" / "test", "train", ("train", "test"))


def test_shards_are_given_or_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert (chosen_shard(None), chosen_shard("0/2")) == (Shard(1, 4), Shard(0, 2))
    assert (job_label("latents", Shard()), job_label("latents", Shard(1, 4))) == ("latents", "latents, shard 1/4")
    with pytest.raises(ValueError, match="expected i/n"):
        chosen_shard("2")


def test_a_job_without_any_usable_scene_fails() -> None:
    skipped = SkippedScenes()
    skipped.add_all(["a"], "damaged")
    console = Console(file=StringIO())
    with pytest.raises(DataError, match=r"nothing was written to out: .*damaged"):
        print_report(JobReport(written=0, present=0, skipped=skipped), Path("out"), console)
    print_report(JobReport(written=2, present=1, skipped=skipped), Path("out"), console)
    said = console.file.getvalue()
    assert "2 files written to out, 1 scenes were there already" in said and "damaged" in said
