"""The benchmark of rendering measures paths with the depth of a head that does not burden the work before it."""

from __future__ import annotations

import argparse

import pytest
import torch
from rendering import Bench, Phase, Result, depth_costs, measure
from support.small_runs import PRESET

from scenetok_ns.models.networks.depth_head import DepthHead
from scenetok_ns.models.presets import load_preset


def test_the_depth_head_comes_when_its_path_is_measured() -> None:
    bench = Bench(load_preset(str(PRESET)), torch.device("cpu"), low_vram=True)
    works = list(bench.work(depth=True))
    assert works[0].name.startswith("whole: ") and bench.model.depth.given is None
    (path,) = (work for work in works if work.name.endswith(", with depth"))
    found = measure(argparse.Namespace(profile=[]), bench, "small", path, "plain", None)
    assert isinstance(bench.model.depth.given, DepthHead)
    assert found.work == path.name and found.ms > 0
    head = bench.model.depth.given
    bench.add_depth_head()
    assert bench.model.depth.given is head


def test_a_whole_path_notes_the_memory_after_each_phase(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = Bench(load_preset(str(PRESET)), torch.device("cpu"), low_vram=True)

    def note(phase: str) -> None:
        bench.phases[phase] = Phase(2.0 if phase == "window 0" else 1.0, 0.0, 3.0, 4.0)

    monkeypatch.setattr(bench, "note", note)
    found = measure(argparse.Namespace(profile=[]), bench, "small", next(bench.work()), "engine", None)
    assert found.phases is not None
    names = list(found.phases)
    assert names[:2] == ["tokens", "window 0"] and found.phases["window 0"]["tensors"] == 2
    assert "window 0: 2.00 GiB in tensors" in capsys.readouterr().out


def test_the_cost_of_depth_compares_paths_of_one_preset_and_renderer() -> None:
    results = [
        Result("a", "path", "engine", 100.0),
        Result("a", "path", "plain", 500.0),
        Result("a", "path, with depth", "engine", 110.0),
        Result("b", "path, with depth", "plain", 300.0),
    ]
    assert depth_costs(results) == {"a, engine": pytest.approx(1.1)}
    assert depth_costs(results[:2]) == {}
