"""Training from precomputed latents: the same samples and the same loss as from photographs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.small_runs import PRESET, small_config, small_pipeline, write_small_re10k

from scenetok_ns.cli.main import entrypoint
from scenetok_ns.data.precomputed.latents import LatentScenes, LatentStore
from scenetok_ns.data.scenes import DataError
from scenetok_ns.data.sources.re10k import RE10KSource
from scenetok_ns.data.training_batches import LatentSamples, Sharding, TrainingLoader, TrainingSamples
from scenetok_ns.models import scenetok_networks
from scenetok_ns.models.autoencoders.registry import build_autoencoder, latent_space
from scenetok_ns.models.presets import AutoencoderConfig, load_preset

TINY = load_preset(str(PRESET))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_re10k(tmp_path_factory.mktemp("re10k"))


@pytest.fixture(scope="module")
def folders(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for role in ("context", "target"):
        made[f"{role}_latents"] = folder = tmp_path_factory.mktemp(role)
        options = ["--role", role, "--min-frames", "4", "--flip", "--splits", "train", "--preset", str(PRESET)]
        entrypoint(["latents", "--data", str(data), "--output", str(folder), *options])
    return made


def scenes(data: Path, folders: dict[str, Path]) -> LatentScenes:
    context = LatentStore(folders["context_latents"], latent_space(TINY.context_autoencoder))
    target = LatentStore(folders["target_latents"], latent_space(TINY.target_autoencoder))
    return LatentScenes(context, target, RE10KSource(data / "train").keys)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_samples_equal_those_from_photographs(
    data: Path, folders: dict[str, Path], flip: bool, num_workers: int
) -> None:
    config = replace(TINY.data, random_flip=flip)
    sharding, layout = Sharding(2), latent_space(TINY.target_autoencoder).layout
    photographs = TrainingSamples(RE10KSource(data / "train"), config, layout, sharding, seed=3)
    stored = LatentSamples(scenes(data, folders), config, layout, sharding, seed=3)
    loader = TrainingLoader(stored, num_workers, pin_memory=False)
    for step in range(4):
        expected, batch = photographs[step], loader.batch(step)
        assert batch.scenes == expected.scenes
        for role, clips, truth in (
            ("context", batch.context, expected.context),
            ("target", batch.target, expected.target),
        ):
            autoencoder = build_autoencoder(getattr(TINY, f"{role}_autoencoder"))
            assert clips.images is None and clips.latents is not None and truth.images is not None
            frames = autoencoder.decode_raw(clips.latents.float())
            torch.testing.assert_close(frames, truth.images / 255, atol=1e-3, rtol=0)
            torch.testing.assert_close(clips.c2w, truth.c2w)
            torch.testing.assert_close(clips.intrinsics, truth.intrinsics)


def test_the_loss_is_that_of_photographs(data: Path, folders: dict[str, Path]) -> None:
    losses = []
    for fields in ({}, folders):
        pipeline = small_pipeline(data, **fields)
        pipeline.train()
        batch, _ = pipeline.datamanager.next_train(0)
        losses.append(pipeline.model(batch)["loss"])
    torch.testing.assert_close(losses[0], losses[1], atol=1e-3, rtol=1e-3)
    assert not torch.equal(losses[0], losses[1]), "the second run did not take the float16 latents"


def test_scenes_without_latents_are_left_out_and_reported(
    data: Path, folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed = tmp_path / "target"
    (mixed / "train" / "1").mkdir(parents=True)
    for path in sorted((folders["target_latents"] / "train" / "1").glob("*"))[:3]:
        (mixed / "train" / "1" / path.name).write_bytes(path.read_bytes())
    pipeline = small_pipeline(data, context_latents=folders["context_latents"], target_latents=mixed)
    batch, _ = pipeline.datamanager.next_train(0)
    assert set(batch.scenes) <= {"train0", "train1"}
    said = " ".join(capsys.readouterr().out.split())
    assert "2 scenes with latents" in said and "2 of 4 scenes have no latents in" in said and "train2, train3" in said
    tiny = LatentScenes(
        LatentStore(folders["context_latents"], latent_space(TINY.context_autoencoder)),
        LatentStore(mixed, latent_space(TINY.target_autoencoder)),
        ["train0", "train1"],
    )
    assert tiny.summary(random_flip=True) == [
        "1 of 2 scenes have no mirrored latents; `scenetok latents --flip` makes them"
    ]
    assert tiny.summary(random_flip=False) == []


def test_a_damaged_file_is_replaced_by_another_scene(data: Path, folders: dict[str, Path], tmp_path: Path) -> None:
    for path in (folders["target_latents"] / "train" / "1").glob("*.npz"):
        copy = tmp_path / "train" / "1" / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes()[: 100 if path.stem == "train2" else None])
    pipeline = small_pipeline(data, context_latents=folders["context_latents"], target_latents=tmp_path)
    for step in range(4):
        assert "train2" not in pipeline.datamanager.next_train(step)[0].scenes
    assert "cannot be read" in pipeline.datamanager._training.samples.source.skipped.reasons["train2"]


def test_both_folders_or_none(data: Path, folders: dict[str, Path]) -> None:
    pipeline = small_pipeline(data, context_latents=folders["context_latents"])
    with pytest.raises(DataError, match="needs both --context-latents and --target-latents"):
        pipeline.datamanager.next_train(0)


def test_autoencoders_are_made_when_photographs_are_met(
    data: Path, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    build = scenetok_networks.build_autoencoder
    monkeypatch.setattr(
        scenetok_networks, "build_autoencoder", lambda config, weights: made.append(config) or build(config)
    )
    pipeline = small_pipeline(data, "val", **folders)
    pipeline.train()
    pipeline.get_train_loss_dict(0)[1]["loss"].backward()
    assert made == []
    pipeline.get_eval_loss_dict(0)  # of photographs
    assert made == [TINY.context_autoencoder, TINY.target_autoencoder]
    small_pipeline(data, "test", **folders)
    assert len(made) == 4, "tools find out at once whether they can decode"


def test_training_from_latents_needs_no_weights_of_autoencoders(
    data: Path, folders: dict[str, Path], tmp_path: Path
) -> None:
    """Without weights of the real autoencoders nothing is evaluated, because nothing can be decoded."""
    config = small_config(data, tmp_path, vis="tensorboard", max_num_iterations=2, steps_per_eval_batch=1)
    for role, folder in folders.items():
        setattr(config.pipeline.datamanager, role, folder)
    trainer = config.setup()
    trainer.setup()
    model = trainer.pipeline.model
    assert model.has_autoencoders
    model.preset = replace(model.preset, target_autoencoder=AutoencoderConfig("wan"))
    assert not model.has_autoencoders
    trainer.pipeline.get_eval_loss_dict = lambda step: pytest.fail("evaluated")
    trainer.eval_iteration(1)
    model.config.target_weights = tmp_path / "wan.pt"
    assert model.has_autoencoders
