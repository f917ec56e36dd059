"""The training of the embedded model, at a size where it only has to run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from scenetok_ns.models.autoencoders.conv import ConvCodec
from scenetok_ns.models.presets import config_folder, load_preset
from scenetok_ns.models.weight_files import load_weights
from scenetok_ns.training.tiny import evaluation
from scenetok_ns.training.tiny import tokenizer as tiny_training
from scenetok_ns.training.tiny.run import cosine
from scenetok_ns.training.tiny.tokenizer import TinyOptions, TinyRun, codec_loss, run_training


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """scenetok-tiny with one narrow block in each network, few tokens and two steps."""
    values = yaml.safe_load((config_folder() / "scenetok-tiny.yaml").read_text())
    values["compressor"].update(hidden_size=32, depth=1, num_heads=2, num_tokens=16)
    values["denoiser"].update(hidden_size=32, depth=1, num_heads=2)
    values["sampler"]["steps"] = 2
    path = tmp_path_factory.mktemp("preset") / "small.yaml"
    path.write_text(yaml.dump(values))
    return str(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, preset: str) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    patch = pytest.MonkeyPatch()
    patch.setattr(tiny_training, "HELD_OUT_SCENES", 2)
    patch.setattr(evaluation, "TOKEN_COUNTS", (8, 16, 32))
    patch.setattr(evaluation, "VIEW_COUNTS", (1, 12))
    patch.setattr(evaluation, "WINDOW_STRIDE", 24)
    run_training(
        TinyOptions(
            output=folder,
            preset=preset,
            codec_steps=2,
            codec_batch_size=4,
            token_steps=3,
            regression=0.5,
            batch_size=2,
            scenes=2,
            renew=0,
            frames_per_scene=24,
            device="cpu",
        )
    )
    patch.undo()
    return folder


def test_a_run_leaves_weights_log_figures_and_pictures(run: Path) -> None:
    assert {path.name for path in run.iterdir()} == {
        "weights.safetensors",
        "log.jsonl",
        "figures.json",
        "samples.png",
        "curves.json",
        "curves.png",
    }
    figures = json.loads((run / "figures.json").read_text())
    assert {"nearest", "one_step", "sampled", "other_tokens"} <= figures.keys()
    assert all(3 < value < 60 for value in figures.values())
    load_weights({"codec": ConvCodec()}, run / "weights.safetensors")


def test_the_codec_alone_can_be_taken_over(
    run: Path, preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_training, "HELD_OUT_SCENES", 1)
    for name in ("TOKEN_COUNTS", "VIEW_COUNTS"):
        monkeypatch.setattr(evaluation, name, (12,))
    path = run / "weights.safetensors"
    run_training(
        TinyOptions(
            output=tmp_path,
            preset=preset,
            resume_codec=path,
            codec_steps=0,
            token_steps=0,
            scenes=1,
            frames_per_scene=24,
            device="cpu",
        )
    )
    before, after = ConvCodec(), ConvCodec()
    load_weights({"codec": before}, path)
    load_weights({"codec": after}, tmp_path / "weights.safetensors")
    assert all(
        torch.equal(a, b) for a, b in zip(before.state_dict().values(), after.state_dict().values(), strict=True)
    )


def test_learning_rate_rises_and_falls() -> None:
    assert cosine(0, 0.0, warmup=10) == pytest.approx(0.1)
    assert cosine(10, 0.0, warmup=10) == pytest.approx(1.0)
    assert cosine(99, 1.0, warmup=10) == pytest.approx(0.02)


def test_codec_loss_sees_colours_and_edges() -> None:
    image = torch.zeros(1, 3, 4, 4)
    assert codec_loss(image, image) == 0
    shifted = image + 0.5
    striped = image + 0.5 * torch.tensor([1.0, -1.0, 1.0, -1.0])
    assert codec_loss(striped, image) > codec_loss(shifted, image) > 0


def test_a_training_that_diverged_stops_and_says_what_to_do(tmp_path: Path) -> None:
    options = TinyOptions(output=tmp_path, device="cpu", learning_rate=0.5)
    run = TinyRun(options, load_preset(options.preset))
    assert run.finite(torch.tensor(0.25), 9) == 0.25
    with pytest.raises(ValueError, match=r"loss is nan after 10 steps.*lower --learning-rate \(now 0.5\)"):
        run.finite(torch.tensor(float("nan")), 9)
