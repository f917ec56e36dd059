"""The bundled model's depth head trains at a small size, at which it only has to run: from exact depth and without."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from scenetok_ns.data.demo.scenes import render_depths, sample_rooms, sample_walks
from scenetok_ns.models.depth_weights import load_depth_head
from scenetok_ns.models.presets import load_preset
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.training.tiny import depth as training
from scenetok_ns.training.tiny.depth import DepthOptions, DepthPool, DepthTask, SweptPool, run_training
from scenetok_ns.training.tiny.run import TRAINING_SEED, TinyRun

PRESET = "scenetok-tiny"


def options(output: Path, **fields: object) -> DepthOptions:
    values = {"steps": 2, "batch_size": 1, "num_scenes": 1, "renew": 0, "frames": 24, "device": "cpu", **fields}
    return DepthOptions(output=output, **values)  # type: ignore[arg-type]


def test_a_run_leaves_a_head_for_the_models_weights_and_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "VIEW_COUNTS", (1, 12))
    run_training(options(tmp_path))
    model = SceneTok.from_preset(load_preset(PRESET))
    model.load_embedded()
    load_depth_head(tmp_path / "depth.safetensors", model.preset, model.denoiser)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert {"abs_rel_1_views", "delta1_12_views", "confidence_off_12_views"} <= set(figures)
    assert 0 < figures["abs_rel_12_views"] < 2
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log if line.get("done")] == [1]


def test_a_pool_has_the_depth_of_its_frames(tmp_path: Path) -> None:
    run = TinyRun(options(tmp_path, num_scenes=2), load_preset(PRESET))
    pool = run.pool(2, TRAINING_SEED, encoded=False, pool_class=DepthPool)
    assert isinstance(pool, DepthPool)
    rooms = sample_rooms([TRAINING_SEED, TRAINING_SEED + 1])
    expected = render_depths(rooms, sample_walks(rooms, 24), rooms.intrinsics, run.preset.data.image_size)
    found = pool.depths(torch.tensor([1]), torch.tensor([[3, 7]]))
    torch.testing.assert_close(found[0, :, 0], expected[1, [3, 7]], rtol=1e-3, atol=1e-3)


def test_only_the_head_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DepthTask, "held_out", lambda self: {})  # measured in the first test
    settings = options(tmp_path, steps=1)
    run = TinyRun(settings, load_preset(PRESET))
    task = DepthTask(run, settings)
    before = {name: value.clone() for name, value in task.denoiser.state_dict().items()}
    head = {name: value.clone() for name, value in task.head.state_dict().items()}
    run.train(task, 1, 1e9)
    assert all(torch.equal(value, before[name]) for name, value in task.denoiser.state_dict().items())
    assert any(not torch.equal(value, head[name]) for name, value in task.head.state_dict().items())


def test_without_depth_sweeps_over_the_pictures_of_a_walk_are_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SWEPT_EVERY", 12)
    settings = options(tmp_path, supervision="photographs")
    task = DepthTask(TinyRun(settings, load_preset(PRESET)), settings)
    pool = task.pool
    assert isinstance(pool, SweptPool)
    rooms = sample_rooms([TRAINING_SEED])
    expected = render_depths(rooms, pool._c2w, pool._intrinsics, task.preset.data.image_size)[0, :, None]
    scene, walk = torch.tensor([0]), torch.arange(24)[None]
    depth, weight = pool.depths(scene, walk)[0], pool.weights(scene, walk)[0]
    assert weight.flatten(1).any(dim=1).nonzero()[:, 0].tolist() == [0, 12]
    counts = weight > 0
    assert counts[[0, 12]].float().mean() > 0.5
    assert (depth[counts] / expected[counts] - 1).abs().median() < 0.05

    def loss() -> float:
        task.run.generator.manual_seed(0)
        monkeypatch.setattr(training, "draw_training_views", lambda *_: (walk[:, :12], walk[:, :8]))
        return float(task.loss(12).detach())

    before = loss()
    pool._depths[pool._weights == 0] = 50.0
    assert loss() == pytest.approx(before, abs=1e-5)
    pool._depths[pool._weights > 0] *= 1.5
    assert abs(loss() - before) > 0.01
