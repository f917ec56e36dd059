"""The training of the embedded generator, at a size where it only has to run, and its parts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from scenetok_ns.evaluation.distributions import frechet_distance
from scenetok_ns.models.networks.scene_generator import SceneGenerator
from scenetok_ns.models.presets import config_folder, load_preset
from scenetok_ns.models.weight_files import load_weights
from scenetok_ns.training.tiny import generator as training
from scenetok_ns.training.tiny.generator import GeneratorOptions, GeneratorRun, draw_condition_views, run_training


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """scenegen-tiny with one narrow block and two steps."""
    values = yaml.safe_load((config_folder() / "scenegen-tiny.yaml").read_text())
    values["scene_generator"].update(hidden_size=32, depth=1, num_heads=2)
    values["scene_sampler"]["steps"] = values["sampler"]["steps"] = 2
    path = tmp_path_factory.mktemp("preset") / "small.yaml"
    path.write_text(yaml.dump(values))
    return str(path)


def options(output: Path, preset: str, **fields: object) -> GeneratorOptions:
    values = {"steps": 2, "batch_size": 2, "scenes": 2, "renew": 0, "frames_per_scene": 24, "device": "cpu", **fields}
    return GeneratorOptions(output=output, preset=preset, **values)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, preset: str) -> Path:
    folder = tmp_path_factory.mktemp("generator")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "HELD_OUT_SCENES", 4)
        patch.setattr(training, "WINDOW_STARTS", (0, 12))
        run_training(options(folder, preset))
    return folder


def test_a_run_leaves_weights_log_figures_and_pictures(run: Path, preset: str) -> None:
    assert {path.name for path in run.iterdir()} == {"weights.safetensors", "log.jsonl", "figures.json", "samples.png"}
    figures = json.loads((run / "figures.json").read_text())
    # The shipped tokenizer is trained, so what its tokens show is known, and scenes from no training are not.
    assert figures["other_frames_encoded"] > figures["other_frames_generated"] + 3
    assert figures["frechet_encoded"] < min(figures["frechet_generated"], figures["frechet_shuffled"])
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    (steps,) = (line for line in log if line["stage"] == "generator")
    assert steps["step"] == 1 and 0 < steps["held_out_loss"] < 10
    load_weights({"scene_generator": SceneGenerator.from_preset(load_preset(preset))}, run / "weights.safetensors")


def test_only_the_generator_learns_and_a_run_goes_on_from_its_weights(run: Path, tmp_path: Path, preset: str) -> None:
    made = GeneratorRun(options(tmp_path, preset, resume=run / "weights.safetensors"), load_preset(preset))
    before = {name: p.clone() for name, p in made.network.named_parameters()}
    frozen = {name: p.clone() for name, p in made.compressor.named_parameters()}
    assert before["model.final_layer.linear.weight"].abs().max() > 0  # zero where training has not begun
    made.train()
    assert any(not torch.equal(p, before[name]) for name, p in made.network.named_parameters())
    assert all(torch.equal(p, frozen[name]) and p.grad is None for name, p in made.compressor.named_parameters())


def test_condition_views_begin_with_a_context_view_and_differ() -> None:
    generator = torch.Generator().manual_seed(0)
    context = torch.arange(5).repeat(400, 1) * 4 + 1
    drawn = draw_condition_views(generator, context, 24, 3)
    assert set(drawn[:, 0].tolist()) == {1, 5, 9, 13, 17} and drawn.shape == (400, 3)
    assert all(len(set(row)) == 3 for row in drawn.tolist())
    assert set(drawn[:, 1:].flatten().tolist()) == set(range(24))


def test_shuffled_tokens_are_the_same_tokens_at_the_same_places() -> None:
    tokens = torch.arange(6).repeat(4, 1)[:, :, None] + 10.0 * torch.arange(4)[:, None, None]
    shuffled = training.shuffled_between_scenes(tokens)
    assert torch.equal(shuffled.sort(dim=0).values, tokens)
    assert max(len(set((scene // 10).flatten().tolist())) for scene in shuffled) > 1


def test_frechet_distance_of_known_gaussians() -> None:
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64)).Q

    def features(mean: float, deviations: tuple[float, ...]) -> torch.Tensor:
        """Mean and covariance are exactly those."""
        values = torch.randn(50, 3, generator=generator, dtype=torch.float64)
        values = values - values.mean(0)
        root = torch.linalg.cholesky(torch.cov(values.T))
        white = torch.linalg.solve_triangular(root, values.T, upper=False).T
        return (white * torch.tensor(deviations) + mean) @ basis

    first, second = features(0.0, (1.0, 2.0, 0.0)), features(0.5, (3.0, 2.0, 1.0))
    # Aligned axes: squared difference of means and of standard deviations.
    assert float(frechet_distance(first, second)) == pytest.approx(3 * 0.25 + 4 + 0 + 1, rel=1e-6)
    assert float(frechet_distance(first, first)) == pytest.approx(0, abs=1e-6)
    turned = second @ torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64)).Q
    assert float(frechet_distance(first, turned)) == pytest.approx(float(frechet_distance(turned, first)), rel=1e-6)
