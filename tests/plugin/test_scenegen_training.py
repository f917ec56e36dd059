"""Training of a scene generator: on a frozen tokenizer, from photographs, latents or tokens that were stored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.scripts.train import train_loop
from support.small_networks import randomized
from support.small_runs import GENERATOR, PRESET, final_state, small_config, small_pipeline, write_small_re10k

from scenetok_ns.cli.main import entrypoint
from scenetok_ns.data.precomputed.token_jobs import TokenJob, compute_tokens
from scenetok_ns.data.precomputed.token_sets import TokenSettings, TokenStore, token_path
from scenetok_ns.data.scenes import DataError
from scenetok_ns.data.sources.re10k import RE10KSource
from scenetok_ns.data.training_batches import Clips, Sample, TrainingBatch
from scenetok_ns.models.presets import load_preset
from scenetok_ns.models.released_checkpoints import CheckpointError, module_sha256
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.plugin.pipeline import SceneTokPipeline
from scenetok_ns.training.tokenizer_weights import load_tokenizer

TINY = load_preset(str(GENERATOR))
VIEWS = {"num_context": 3, "max_condition_views": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_re10k(tmp_path_factory.mktemp("re10k"))


def generator_pipeline(data: Path, **fields: Any) -> SceneTokPipeline:
    pipeline = small_pipeline(data, preset=GENERATOR, **fields)
    randomized(pipeline.model.scenetok)
    return pipeline


def test_the_generator_alone_is_trained_on_condition_views_and_context_views(data: Path) -> None:
    pipeline = generator_pipeline(data)
    batch, _ = pipeline.datamanager.next_train(0)
    assert batch.sample.target is None and batch.condition.images.shape == (2, 2, 3, 32, 32)
    for b in range(2):  # the first condition view is a context view
        same = (batch.context.c2w[b] == batch.condition.c2w[b, 0]).all(dim=(1, 2))
        assert int(same.sum()) == 1
        assert torch.equal(batch.context.images[b, int(same.nonzero())], batch.condition.images[b, 0])
    pipeline.train()
    pipeline.get_train_loss_dict(0)[1]["loss"].backward()
    with_gradient = {name.split(".")[0] for name, p in pipeline.model.scenetok.named_parameters() if p.grad is not None}
    assert with_gradient == {"scene_generator"}
    assert {id(p) for p in pipeline.model.get_param_groups()["networks"]} == {
        id(p) for p in pipeline.model.scenetok.scene_generator.parameters()
    }


def test_the_held_out_loss_has_no_random_drops(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = generator_pipeline(data)
    losses = [pipeline.get_eval_loss_dict(step)[1]["loss"] for step in (0, 7)]
    assert torch.equal(*losses)
    # A dropout of 1 in the preset shows in training and not in evaluation.
    camera = replace(TINY.scene_generator.camera, dropout=1.0)
    monkeypatch.setattr(
        pipeline.model.training_loss,
        "preset",
        replace(TINY, scene_generator=replace(TINY.scene_generator, camera=camera)),
    )
    assert torch.equal(pipeline.get_eval_loss_dict(0)[1]["loss"], losses[0])
    batch, _ = pipeline.datamanager.next_eval(0)
    assert not torch.allclose(pipeline.model.train()(batch)["loss"], losses[0], atol=1e-4)


# --- A frozen tokenizer


def trained(data: Path, output: Path, preset: Path, steps: int = 2, **fields: Any) -> TrainerConfig:
    config = small_config(data, output, preset, max_num_iterations=steps)
    for name, value in fields.items():
        setattr(config.pipeline.model, name, value)
    config.save_config()
    train_loop(0, 1, config)
    return config


def part(state: dict[str, Any], name: str) -> dict[str, torch.Tensor]:
    prefix = f"_model.scenetok.{name}."
    return {key.removeprefix(prefix): value for key, value in state["pipeline"].items() if key.startswith(prefix)}


def test_a_generator_is_trained_on_the_tokenizer_of_a_run_which_stays_as_it_is(data: Path, tmp_path: Path) -> None:
    tokenizer = trained(data, tmp_path / "tokenizer", PRESET)
    config = trained(data, tmp_path / "generator", GENERATOR, tokenizer=tokenizer.get_base_dir())
    first, second = final_state(tokenizer, 1), final_state(config, 1)
    for name in ("compressor", "denoiser"):
        given, kept = part(first, name), part(second, name)
        assert given.keys() == kept.keys() and all(torch.equal(given[key], kept[key]) for key in given)
    assert part(second, "scene_generator")["model.final_layer.linear.weight"].abs().max() > 0  # zero before training


def test_without_a_tokenizer_training_does_not_start(data: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"frozen tokenizer \(preset tiny_preset\).*--pipeline.model.tokenizer"):
        trained(data, tmp_path, GENERATOR)
    assert not list(tmp_path.rglob("*.ckpt"))


def test_tokenizers_in_other_files(data: Path, tmp_path: Path) -> None:
    source, model = (
        randomized(SceneTok.from_preset(load_preset(str(p))), seed=s) for s, p in ((1, PRESET), (2, GENERATOR))
    )
    before = {key: value.clone() for key, value in model.scene_generator.state_dict().items()}
    dropped = {"denoiser.model.feat_rope.freqs": torch.zeros(3)}
    torch.save({"state_dict": source.state_dict() | dropped}, tmp_path / "released.ckpt")
    assert load_tokenizer(model, tmp_path / "released.ckpt") == tmp_path / "released.ckpt"
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in source.state_dict().items())
    assert all(torch.equal(value, model.scene_generator.state_dict()[key]) for key, value in before.items())
    torch.save({"state_dict": {"compressor.x": torch.zeros(1)}}, tmp_path / "wrong.ckpt")
    with pytest.raises(
        CheckpointError, match=r"wrong.ckpt does not fit the tokenizer of preset tiny_scenegen: .* missing"
    ):
        load_tokenizer(model, tmp_path / "wrong.ckpt")


# --- Stored tokens


@pytest.fixture(scope="module")
def model() -> SceneTok:
    return randomized(SceneTok.from_preset(TINY))


def job(root: Path, data: Path, model: SceneTok, flip: bool = False, seed: int = 0, **fields: Any) -> TokenJob:
    settings = TokenSettings(
        preset=TINY.name,
        compressor_sha256=module_sha256(model.compressor),
        image_size=32,
        views=VIEWS,
        random_flip=flip,
        encodings=4,
        seed=seed,
        dtype="float32",
    )
    return TokenJob(root, "train", RE10KSource(data / "train"), settings, **fields)


def test_a_loss_from_tokens_is_the_loss_from_their_photographs(data: Path, tmp_path: Path) -> None:
    pipeline = generator_pipeline(data, tokens=tmp_path)
    compute_tokens(job(tmp_path, data, pipeline.model.scenetok), pipeline.model.scenetok)
    pipeline.train()
    for step in range(3):
        batch, _ = pipeline.datamanager.next_train(step)
        assert batch.context.images is None and batch.sample.tokens.mean.shape == (2, 8, 4)
        context = []
        for key, c2w in zip(batch.scenes, batch.context.c2w, strict=True):
            scene = RE10KSource(data / "train").scene(key)
            frames = [int((scene.c2w == pose).all(dim=(1, 2)).nonzero()) for pose in c2w]
            context.append(Clips(*scene.load_views(frames, (32, 32))))
        sample = Sample(Clips.stack(context), condition=batch.condition)
        whole = pipeline.model(TrainingBatch(step, batch.scenes, sample))["loss"]
        torch.testing.assert_close(pipeline.model(batch)["loss"], whole, rtol=1e-4, atol=1e-5)


def test_encodings_differ_in_views_and_reference_and_half_are_mirrored(
    data: Path, tmp_path: Path, model: SceneTok
) -> None:
    flipping = replace(TINY, data=replace(TINY.data, random_flip=True))
    model = randomized(SceneTok.from_preset(flipping))
    compute_tokens(job(tmp_path, data, model, flip=True), model)
    store = TokenStore(tmp_path, "train", module_sha256(model.compressor))
    found = [store.encoding("train0", number) for number in range(4)]
    assert [encoding.flipped for encoding in found] == [False, True, False, True]
    assert len({encoding.reference for encoding in found}) > 1
    scene = RE10KSource(data / "train").scene("train0")
    mirror = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0]))
    for encoding in found:
        pose = scene.c2w[encoding.reference]
        pose = mirror @ pose @ mirror if encoding.flipped else pose
        assert sum(torch.allclose(pose, context) for context in encoding.c2w) == 1


def test_a_job_goes_on_where_it_ended_and_gives_the_same_bytes(data: Path, tmp_path: Path, model: SceneTok) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    report = compute_tokens(job(whole, data, model), model)
    assert (report.written, report.present, len(report.skipped)) == (4, 0, 0)

    class StopError(Exception):
        pass

    def stop(key: str) -> None:
        if key == "train1":
            raise StopError

    with pytest.raises(StopError):
        compute_tokens(job(parts, data, model), model, stop)
    report = compute_tokens(job(parts, data, model), model)
    assert (report.written, report.present) == (2, 2)
    names = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(parts) for path in parts.rglob("*") if path.is_file()) and len(names) == 5
    assert all((whole / name).read_bytes() == (parts / name).read_bytes() for name in names)
    with pytest.raises(DataError, match=r"made with seed 0 \(now 1\); choose another folder"):
        compute_tokens(job(whole, data, model, seed=1), model)


def test_tokens_of_other_weights_are_refused(data: Path, tmp_path: Path, model: SceneTok) -> None:
    compute_tokens(job(tmp_path, data, model), model)
    other = small_pipeline(data, seed=5, preset=GENERATOR, tokens=tmp_path)
    with pytest.raises(DataError, match=r"made by other weights .* encode the data again") as error:
        other.datamanager.next_train(0)
    assert "\n" not in str(error.value)


def test_damaged_and_foreign_tokens_are_replaced_by_another_scene(data: Path, tmp_path: Path) -> None:
    pipeline = generator_pipeline(data, tokens=tmp_path)
    compute_tokens(job(tmp_path, data, pipeline.model.scenetok), pipeline.model.scenetok)
    damaged, missing = (token_path(tmp_path, "train", key) for key in ("train2", "train3"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    missing.unlink()
    for step in range(3):
        assert not {"train2", "train3"} & set(pipeline.datamanager.next_train(step)[0].scenes)
    assert "cannot be read" in pipeline.datamanager._training.samples.source.skipped.reasons["train2"]


def test_a_folder_without_tokens_and_a_preset_without_generator_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no tokens in .*`scenetok encode --split` makes them"):
        generator_pipeline(data, tokens=tmp_path).datamanager.next_train(0)
    with pytest.raises(DataError, match="preset tiny_preset has none"):
        small_pipeline(data, tokens=tmp_path).datamanager.next_train(0)


def test_context_latents_alone_serve_a_generator(data: Path, tmp_path: Path) -> None:
    options = ["--role", "context", "--min-frames", "4", "--splits", "train", "--preset", str(GENERATOR)]
    entrypoint(["latents", "--data", str(data), "--output", str(tmp_path), *options])
    losses = []
    for fields in ({}, {"context_latents": tmp_path}):
        pipeline = generator_pipeline(data, **fields)
        pipeline.train()
        losses.append(pipeline.model(pipeline.datamanager.next_train(0)[0])["loss"])
    torch.testing.assert_close(losses[0], losses[1], atol=1e-2, rtol=1e-2)
    assert not torch.equal(*losses), "the second run did not take the float16 latents"
