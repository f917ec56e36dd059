"""Variants of sweeps, which leave the given renderer unchanged, and the tables and plots of sweeps."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
from PIL import Image
from support.small_runs import NUM_CONTEXT, small_pipeline, write_small_re10k

from scenetok_ns.evaluation.scene_evaluation import EvaluationConditions
from scenetok_ns.evaluation.sweeps import Row, Variant, plot, shown_metrics, table, variants, write_csv


def test_a_variant_is_a_renderer_of_its_own(tmp_path: Path) -> None:
    """The variant shares the networks, and leaves model, data and the original renderer unchanged."""
    pipeline = small_pipeline(write_small_re10k(tmp_path))
    renderer, config = pipeline.model.renderer, asdict(pipeline.config)
    before = renderer.settings
    found = Variant({"steps": 2, "solver": "multistep", "context": 2, "tokens": 3}, seed=7, scene_seed=9)
    varied = found.apply(renderer)
    assert varied.settings == replace(
        before, seed=7, scene_seed=9, sampler=replace(before.sampler, steps=2, solver="multistep")
    )
    assert varied.networks is renderer.networks and varied.weights is renderer.weights
    assert len(varied.scenes.scene(0).context) == 2 and len(renderer.scenes.scene(0).context) == NUM_CONTEXT
    assert found.conditions == EvaluationConditions(num_tokens=3)
    assert pipeline.model.renderer is renderer and renderer.settings == before
    assert asdict(pipeline.config) == config


def test_variants_are_all_combinations() -> None:
    found = variants({"steps": (1, 2), "order": ("index",)}, first_seed=5, seeds=2)
    assert [v.name for v in found] == [
        "steps=1-order=index-seed=5", "steps=1-order=index-seed=6",
        "steps=2-order=index-seed=5", "steps=2-order=index-seed=6",
    ]  # fmt: skip
    assert [v.name for v in variants({}, 0, 1)] == ["seed=0"]
    assert [(v.seed, v.scene_seed) for v in variants({}, 5, 2, 9)] == [(5, 9), (6, 10)]


def test_table_is_over_seeds(tmp_path: Path) -> None:
    results = [
        (Variant({"steps": 1}, 0), {"psnr": 10.0, "psnr_std": 1.0, "rfid": 5.0}),
        (Variant({"steps": 1}, 1), {"psnr": 12.0, "psnr_std": 3.0}),
        (Variant({"steps": 2}, 0), {"psnr": 20.0, "psnr_std": 1.0, "psnr_mean_colour": 3.0}),
    ]
    rows = table(results)
    assert rows[0].means == {"psnr": 11.0, "psnr_std": 2.0} and rows[0].spreads["psnr"] == pytest.approx(2**0.5)
    assert rows[1].seeds == 1 and rows[1].spreads["psnr"] == 0.0
    assert shown_metrics(rows) == ["psnr"]
    write_csv(rows, tmp_path / "sweep.csv")
    assert (tmp_path / "sweep.csv").read_text().splitlines()[1].startswith("1,2,11.0,1.41")


def test_words_are_plotted_as_words(tmp_path: Path) -> None:
    rows = [
        Row({"order": name}, 1, {"psnr": value}, {"psnr": 0.0}) for name, value in (("index", 1.0), ("shuffled", 2.0))
    ]
    plot(rows, tmp_path / "plot.png")
    assert Image.open(tmp_path / "plot.png").width > 300
