"""The loss of a batch: what its noise and weights follow from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.small_runs import small_pipeline, write_small_re10k

from scenetok_ns.plugin.pipeline import SceneTokPipeline
from scenetok_ns.training.loss import TrainingLoss


@pytest.fixture
def pipeline(tmp_path: Path) -> SceneTokPipeline:
    return small_pipeline(write_small_re10k(tmp_path)).eval()


def test_noise_follows_from_the_step_alone(pipeline: SceneTokPipeline) -> None:
    batch, _ = pipeline.datamanager.next_train(3)
    losses = [pipeline.model(replace(batch, step=step))["loss"].item() for step in (3, 3, 4)]
    assert losses[0] == losses[1] != losses[2]


def test_another_seed_is_other_noise(pipeline: SceneTokPipeline) -> None:
    batch, _ = pipeline.datamanager.next_train(3)
    first = pipeline.model(batch)["loss"].item()
    pipeline.model.training_loss.seed += 1
    assert pipeline.model(batch)["loss"].item() != first


def test_clips_are_encoded_one_by_one(pipeline: SceneTokPipeline) -> None:
    """A frame of one clip says nothing about the latents of the other."""
    batch, _ = pipeline.datamanager.next_train(0)
    splits = pipeline.model.preset.data.views.target_splits
    images = batch.target.images
    assert images is not None
    other = images.clone()
    last = images.shape[1] // splits - 1  # of the first clip
    other[:, last] = 255 - other[:, last]
    loss = pipeline.model.training_loss
    before = loss.latents(batch.target, splits, "target").latents
    after = loss.latents(replace(batch.target, images=other), splits, "target").latents
    clips = (before != after).flatten(2).any(2).unflatten(1, (splits, -1)).any(2)
    assert clips[:, 0].all() and not clips[:, 1:].any()


@pytest.mark.parametrize("draws", [False, True])
def test_context_latents_are_drawn_where_that_is_asked_for(
    pipeline: SceneTokPipeline, draws: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[object] = []
    autoencoder = pipeline.model.scenetok.context_autoencoder
    encode = autoencoder.encode
    monkeypatch.setattr(autoencoder, "encode", lambda images, noise: (given.append(noise), encode(images))[1])
    loss = TrainingLoss(pipeline.model.scenetok, draws_latents=draws)
    batch, _ = pipeline.datamanager.next_train(3)
    loss.prepare(3)
    loss(batch)
    assert given == [loss.generator if draws else None]
