"""The bundled models train at a small size, where they only have to run. Parts of the training are tested exactly."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from scenetok_ns.data.demo import pool as demo_pool
from scenetok_ns.models.autoencoders.conv import ConvCodec
from scenetok_ns.models.networks.compressor import Compressor
from scenetok_ns.models.networks.denoiser import Denoiser
from scenetok_ns.models.presets import config_folder, load_preset
from scenetok_ns.models.weight_files import load_weights
from scenetok_ns.tools.errors import UsageError
from scenetok_ns.training.picture_losses import codec_loss, contrast_loss, grid_loss, pixel_loss, stripe_loss
from scenetok_ns.training.tiny import codec as codec_task
from scenetok_ns.training.tiny import generator as generator_task
from scenetok_ns.training.tiny import tokenizer as token_task
from scenetok_ns.training.tiny.evaluation import TinyFigures, TinyModel, closed_round, edge_contrast
from scenetok_ns.training.tiny.finish import FinishTask, FinishWeights, Trained
from scenetok_ns.training.tiny.generator import GeneratorOptions, draw_condition_views, run_generator_training
from scenetok_ns.training.tiny.optimizer import Group, TinyOptimizer, orthogonalized
from scenetok_ns.training.tiny.run import TinyRun, cosine
from scenetok_ns.training.tiny.stages import TinyOptions, run_training
from scenetok_ns.training.tiny.tokenizer import middle_views

SMALLER = (
    (r"image_size: 128", "image_size: 32"),
    (r"input_size: 32", "input_size: 8"),
    (r"hidden_size: 192", "hidden_size: 48"),
    (r"hidden_size: 256", "hidden_size: 64"),
    (r"depth: [58]", "depth: 1"),
    (r"num_tokens: 256", "num_tokens: 32"),
)


def small_preset(folder: Path, name: str) -> Path:
    text = (config_folder() / f"{name}.yaml").read_text()
    for before, after in SMALLER:
        text = re.sub(before, after, text)
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train codec, tokens and finish, and then a generator on these tokens."""
    folder, presets = tmp_path_factory.mktemp("tiny"), tmp_path_factory.mktemp("presets")
    patch = pytest.MonkeyPatch()
    patch.setattr(token_task, "HELD_OUT_SCENES", 2)
    patch.setattr(generator_task, "HELD_OUT_SCENES", 2)
    patch.setattr(codec_task, "MOST_SCENES", 2)
    patch.setattr(demo_pool, "SCENES_AT_A_TIME", 2)
    small = {"num_scenes": 2, "batch_size": 2, "renew": 0, "report_every": 2, "device": "cpu"}
    run_training(
        TinyOptions(
            output=folder,
            preset=str(small_preset(presets, "scenetok-tiny")),
            codec_steps=2,
            codec_batch_size=4,
            token_steps=4,
            regression=0.5,
            finish_steps=2,
            finish=FinishWeights(contrast=0.5),
            muon=True,
            **small,
        )
    )
    run_generator_training(
        GeneratorOptions(
            output=folder / "generator",
            preset=str(small_preset(presets, "scenegen-tiny")),
            steps=2,
            tokenizer=folder / "weights.safetensors",
            **small,
        )
    )
    patch.undo()
    small_preset(folder, "scenetok-tiny")  # for the tests that use this folder
    return folder


def test_each_stage_leaves_weights_and_a_log(run: Path) -> None:
    preset = load_preset(str(run / "scenetok-tiny.yaml"))
    for name in ("tokens", "weights"):
        parts = {"codec": ConvCodec(), "compressor": Compressor.from_preset(preset)}
        load_weights({**parts, "denoiser": Denoiser.from_preset(preset)}, run / f"{name}.safetensors")
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [name for name in dict.fromkeys(line["stage"] for line in lines) if name != "pool"] == [
        "codec",
        "tokens",
        "finish",
    ]
    assert all(3 < lines[-1][key] < 60 for key in ("views_12", "views_1", "half", "other"))
    assert 0 < lines[-1]["grid"] < 10 and 0 < lines[-1]["edges"] < 10
    assert "held_out_loss" in (run / "generator/log.jsonl").read_text()
    assert (run / "generator/weights.safetensors").is_file()


def test_the_finish_leaves_encoder_and_compressor_alone(run: Path) -> None:
    """The finish changes denoiser and decoder only. If tokens changed, too, the generator would not fit them."""
    before, after = (load_file(run / f"{name}.safetensors") for name in ("tokens", "weights"))
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert not any(key.startswith(("compressor", "codec.encoder")) for key in moved)
    assert any(key.startswith("denoiser") for key in moved) and any(key.startswith("codec.decoder") for key in moved)


@pytest.mark.parametrize(
    ("trains", "moving"),
    [("decoder", {"codec.decoder"}), ("all", {"codec.decoder", "denoiser", "compressor"})],
)
def test_the_finish_trains_the_named_networks_and_no_others(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trains: Trained, moving: set[str]
) -> None:
    monkeypatch.setattr(token_task, "HELD_OUT_SCENES", 2)
    run_training(
        TinyOptions(
            output=tmp_path,
            preset=str(run / "scenetok-tiny.yaml"),
            resume=run / "weights.safetensors",
            codec_steps=0,
            token_steps=0,
            finish_steps=2,
            finish_trains=trains,
            muon=True,
            num_scenes=2,
            batch_size=2,
            renew=0,
            report_every=2,
            device="cpu",
        )
    )
    before, after = (load_file(folder / "weights.safetensors") for folder in (run, tmp_path))
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    parts = {key.split(".")[0] for key in moved} - {"codec"} | {
        ".".join(k.split(".")[:2]) for k in moved if "codec" in k
    }
    assert parts == moving
    last = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert 0 <= last["stripes"] < 10 and 3 < last["views_12"] < 60


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (FinishWeights(stripes=1.0), "at least 32 x 32 pixels, but the preset has 24 x 24; give --finish.stripes 0"),
        (FinishWeights(stripes=0.0, perceptual=0.5), "--finish.perceptual needs --perceptual-weights"),
    ],
)
def test_a_finish_that_cannot_run_is_refused_before_anything_is_rendered(
    tmp_path: Path, weights: FinishWeights, expected: str
) -> None:
    preset = small_preset(tmp_path, "scenetok-tiny")
    preset.write_text(preset.read_text().replace("image_size: 32", "image_size: 24"))
    options = TinyOptions(output=tmp_path / "out", preset=str(preset), finish_steps=1, finish=weights, device="cpu")
    with pytest.raises(UsageError, match=re.escape(expected)):
        run_training(options)
    assert not (tmp_path / "out").exists()


def test_learning_rate_rises_and_falls() -> None:
    assert cosine(0, 0.0, 10, 0.02) == pytest.approx(0.1)
    assert cosine(10, 0.0, 10, 0.02) == pytest.approx(1.0)
    assert cosine(99, 1.0, 10, 0.02) == pytest.approx(0.02)


def test_codec_loss_sees_colours_and_edges() -> None:
    image = torch.zeros(1, 3, 4, 4)
    assert codec_loss(image, image) == 0
    shifted = image + 0.5
    striped = image + 0.5 * torch.tensor([1.0, -1.0, 1.0, -1.0])
    assert codec_loss(striped, image) > codec_loss(shifted, image) > 0


def test_contrast_loss_asks_for_contrast_and_not_for_its_place() -> None:
    stripes = (torch.arange(32) % 8 < 4).float().expand(1, 3, 32, 32) * 2 - 1
    moved, soft = stripes.roll(4, -1), stripes * 0.5
    assert contrast_loss(stripes, stripes) == 0
    assert contrast_loss(moved, stripes) < 0.5 * contrast_loss(soft, stripes)


def test_pixel_loss_counts_an_error_of_colour_twice_as_hard_at_half_size() -> None:
    image = torch.zeros(1, 3, 4, 4)
    checkers = 0.5 * (-1.0) ** torch.arange(4).add(torch.arange(4)[:, None]).expand(1, 3, 4, 4)
    assert pixel_loss(image, image) == 0
    assert pixel_loss(checkers, image) == pytest.approx(0.5 + 4 * 0.25)  # nothing of it is left at half size
    assert pixel_loss(image + 0.5, image) == pytest.approx(0.5 + 8 * 0.25)


def tiled(pattern: Tensor, images: int) -> Tensor:
    """Gray images of 64 x 64 pixels full of a pattern."""
    count = 64 // len(pattern)
    return pattern.tile(count, count).expand(images, 3, 64, 64)


def test_stripe_loss_finds_patterns_of_the_latents_in_each_picture_and_no_others() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(3, 3, 64, 64, generator=generator) * 0.1
    row, column = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    phase = torch.rand(3, 1, 1, 1, generator=generator) * 6
    stripes = 0.05 * torch.sin(2 * torch.pi * (row + column) / 8 + phase)
    found = stripe_loss(truth + stripes, truth)
    assert stripe_loss(truth, truth) < 0.02 * found and stripe_loss(truth + stripes, truth + stripes) < 0.02 * found
    for period in (5.3, 6.1, 10.7):
        other = 0.05 * torch.sin(2 * torch.pi * (row + column) / period + phase)
        assert stripe_loss(truth + other, truth) < 0.15 * found, period
    plain = truth.mean(dim=(2, 3), keepdim=True).expand_as(truth)
    assert stripe_loss(plain + stripes, plain) > 1.5 * found


def test_grid_loss_finds_patterns_that_repeat_and_nothing_else() -> None:
    noise = 0.3 * torch.randn(64, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    weight = torch.ones(64)
    dot, wide = torch.zeros(8, 8), torch.zeros(16, 16)
    dot[3, 3] = wide[3, 3] = 1
    signs = (-1.0) ** torch.arange(64)[:, None, None, None]
    checkers = (-1.0) ** (torch.arange(8) + torch.arange(8)[:, None])
    plain = grid_loss(noise, weight)
    assert plain < 0.005
    for pattern in (
        tiled(dot, 64),
        tiled(wide, 64),  # only cells of 16 pixels find it
        tiled(dot, 64) * signs,  # its mean over the images is zero
        0.2 * tiled(checkers, 64),  # its size is the same in all pixels
    ):
        assert grid_loss(noise + pattern, weight) > plain + 0.01
    assert grid_loss(torch.zeros(2, 3, 16, 16), torch.ones(2)) == 0
    weight[:32] = 0  # images without weight do not count
    half = torch.cat([noise[:32] + tiled(dot, 32), noise[32:]])
    assert grid_loss(half, weight) < 2 * plain + 0.001


def test_terms_of_the_finish_tell_predictions_from_true_latents() -> None:
    decoded, images = torch.rand(2, 8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    all_of_them = torch.ones(8, dtype=torch.bool)

    def total(decoded: Tensor, predicted: Tensor, **weights: float) -> float:
        task = FinishTask.__new__(FinishTask)
        none = {"picture": 0.0, "contrast": 0.0, "grid": 0.0, "stripes": 0.0, "perceptual": 0.0}
        task.weights, task.perceptual = FinishWeights(**{**none, **weights}), None
        return float(task.picture_terms(decoded, images, predicted))

    assert total(decoded, all_of_them, picture=0.5) == pytest.approx(0.5 * float(pixel_loss(decoded, images)))
    assert total(decoded, ~all_of_them, picture=0.5) == pytest.approx(0.5 * float(codec_loss(decoded, images)))
    assert total(decoded, all_of_them, contrast=2.0) == pytest.approx(2 * float(contrast_loss(decoded, images)))
    assert total(decoded, ~all_of_them, stripes=2.0) == pytest.approx(2 * float(stripe_loss(decoded, images)))
    first = torch.arange(8) < 4
    dots = torch.zeros(8, 8)
    dots[3, 3] = 2
    dotted = decoded + dots.tile(4, 4) * first[:, None, None, None]
    assert total(dotted, first, grid=1.0) > 5 * total(dotted, ~first, grid=1.0)


def test_muon_makes_singular_values_alike_and_keeps_shapes() -> None:
    matrices = torch.randn(3, 12, 20, generator=torch.Generator().manual_seed(0))
    for case in (matrices, matrices.mT):
        values = torch.linalg.svdvals(orthogonalized(case))
        assert values.min() > 0.5 and values.max() < 1.4


def test_one_flat_gradient_serves_all_parameters() -> None:
    """Gradients are clipped by groups, also with channels last, and both optimizers move their own parameters."""
    torch.manual_seed(0)
    conv, linear = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last), nn.Linear(5, 6)
    optimizer = TinyOptimizer(
        [Group(list(conv.parameters())), Group(list(linear.parameters()), orthogonal=frozenset({id(linear.weight)}))],
        0.01,
    )
    before = [p.detach().clone() for p in (*conv.parameters(), *linear.parameters())]
    optimizer.zero()
    (conv(torch.randn(2, 3, 8, 8)).square().sum() * 100 + linear(torch.randn(2, 5)).square().sum()).backward()
    assert optimizer.gradient.norm() > 100
    optimizer.step(1.0)
    for group in optimizer.groups:
        assert torch.cat([p.grad.flatten() for p in group.parameters]).norm() <= 1 + 1e-4
    after = [*conv.parameters(), *linear.parameters()]
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_training_that_diverged_stops_and_says_what_to_do(tmp_path: Path) -> None:
    options = TinyOptions(output=tmp_path, device="cpu", learning_rate=0.5)
    run = TinyRun(options, load_preset(options.preset))
    assert run.finite(torch.tensor(0.25), 9) == 0.25
    with pytest.raises(ValueError, match=r"loss is nan after 10 steps.*lower --learning-rate \(now 0.5\)"):
        run.finite(torch.tensor(float("nan")), 9)


def test_a_folder_without_photographs_is_refused(tmp_path: Path) -> None:
    options = TinyOptions(output=tmp_path / "out", device="cpu", photographs=tmp_path)
    with pytest.raises(ValueError, match="expected PNG or JPEG files"):
        TinyRun(options, load_preset(options.preset))


def test_condition_views_begin_with_a_context_view_and_repeat_none() -> None:
    context = torch.tensor([[3, 9, 20], [1, 2, 40]])
    drawn = draw_condition_views(torch.Generator().manual_seed(0), context, 48, 3)
    assert all(int(drawn[i, 0]) in context[i].tolist() for i in range(2))
    assert all(len(set(row.tolist())) == 3 for row in drawn)


def test_views_are_in_the_middles_of_equal_parts() -> None:
    assert [middle_views(48, count).tolist() for count in (1, 2, 4)] == [[24], [12, 36], [6, 18, 30, 42]]


def test_figures_cover_views_tokens_steps_and_paths(run: Path) -> None:
    preset = load_preset(str(run / "scenetok-tiny.yaml"))
    model = TinyModel.load(preset, run / "weights.safetensors", torch.device("cpu"))
    figures = TinyFigures(model, 2, 32, torch.device("cpu"))
    found = {**figures.fidelity(), **figures.steadiness()}
    wanted = {"views_1", "views_12", "tokens_half", "other_tokens", "steps_10", "edges", "codec", "frozen_steps"}
    assert wanted <= set(found)
    assert all(0 < value <= 60 for value in found.values())


def test_a_round_ends_where_it_began_and_edges_count_differences() -> None:
    path = closed_round(torch.eye(4).repeat(2, 1, 1), 9)
    assert torch.equal(path[:, 0], path[:, -1]) and not torch.allclose(path[:, 0], path[:, 4], atol=0.1)
    stripes = (torch.arange(8) % 2).float().expand(1, 1, 3, 8, 8)
    assert edge_contrast(stripes) == pytest.approx(1.0)
    assert edge_contrast(stripes * 0.5) == pytest.approx(0.5)
