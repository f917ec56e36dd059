"""The benchmark against splatfacto gives both methods the same photographs and scores. Training needs a GPU."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.splatfacto_models import run_splatfacto_without_a_gpu

from scenetok_ns.models.presets import load_preset
from scenetok_ns.models.scenetok import SceneTok

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "splatfacto.py"


@pytest.fixture(scope="module")
def benchmark_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("splatfacto_benchmark", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_scored_frames_are_those_of_the_model_card_and_no_context(benchmark_script: ModuleType) -> None:
    case = benchmark_script.held_out_case(0, num_context=12, window=8, size=8)
    truth = case.truth
    assert len(case.context.frames) == 12 and len(truth.frames) == truth.cameras.num_views
    frames = [start + i for start, kept in zip((4, 16, 28), case.scored, strict=True) for i in kept]
    context = torch.linspace(0, 47, 12).round().int().tolist()
    assert frames == [i for start in (4, 16, 28) for i in range(start, start + 8) if i not in context]
    assert len(case.windows) == 3 and case.windows[1].frames.shape == (8, 3, 8, 8)
    apart = (truth.cameras.c2w[0][:, None] - case.context.cameras.c2w[0][None]).abs().amax(dim=(2, 3))
    assert apart.min() > 1e-3
    torch.testing.assert_close(truth.frames[0], case.windows[0].frames[case.scored[0][0]])


def test_the_model_is_scored_on_the_truth(benchmark_script: ModuleType) -> None:
    case = benchmark_script.held_out_case(0, num_context=12, window=8, size=128)
    model = SceneTok.from_preset(load_preset("scenetok-tiny"))
    model.load_embedded()
    row, pictures = benchmark_script.measure_scenetok(model.eval(), case, steps=1)
    assert pictures.shape == case.truth.frames.shape
    error = (pictures.clamp(0, 1) - case.truth.frames).square().mean(dim=(1, 2, 3))
    assert row["psnr"] == pytest.approx(float((-10 * error.log10()).mean()), abs=1e-3) and row["psnr"] > 15
    assert row["seconds"] > row["seconds_encode"] > 0


def test_stock_splatfacto_trains_on_a_data_set_of_ours(
    benchmark_script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests everything except the kernels: data set, points, cameras, training, scores of other views."""
    run_splatfacto_without_a_gpu(monkeypatch)
    case = benchmark_script.held_out_case(0, num_context=12, window=8, size=12)
    found = list(benchmark_script.measure_splatfacto(case, "points", factor=4, steps=40, report=[1]))
    rows = [row for row, _ in found]
    assert [row["steps"] for row in rows] == [1, 40]
    assert all(pictures.shape == case.truth.frames.shape for _, pictures in found)
    assert rows[0]["gaussians"] > 500 and rows[1]["psnr"] > rows[0]["psnr"] + 1 and rows[1]["psnr"] > 14


def test_means_leave_out_what_was_ended(benchmark_script: ModuleType) -> None:
    row = {"method": "splatfacto, native", "steps": 500, "ssim": 0.5, "seconds": 2.0}
    rows = [{**row, "psnr": 10.0}, {**row, "psnr": 14.0}, {**row, "steps": 900, "psnr": 1.0, "ended": True}]
    (mean,) = benchmark_script.means(rows)
    assert mean["psnr"] == 12.0 and mean["scenes"] == 2 and mean["steps"] == 500


def test_a_sheet_has_the_truth_and_every_reported_step(
    benchmark_script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def results(case: Any, *others: Any) -> Iterator[tuple[dict[str, float], torch.Tensor]]:
        for steps in (5, 9):
            yield {"steps": steps, "psnr": 20.0, "ssim": 0.5, "seconds": 1.0}, case.truth.frames * steps / 10

    monkeypatch.setattr(benchmark_script, "results", results)
    rows = benchmark_script.measure((1, "points"), argparse.Namespace(pictures=tmp_path / "sheets"))
    assert [(row["scene"], row["method"], row["steps"]) for row in rows] == [
        (1, "splatfacto, points", 5),
        (1, "splatfacto, points", 9),
    ]
    sheet = torch.from_numpy(np.asarray(Image.open(tmp_path / "sheets" / "room1-points.png")).astype(np.float32))
    truth, half, most = sheet.split(128)
    torch.testing.assert_close(half, truth * 0.5, atol=1, rtol=0)
    torch.testing.assert_close(most, truth * 0.9, atol=1, rtol=0)
