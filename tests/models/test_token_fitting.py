"""Tokens fitted to photographs: renders come closer to them, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.small_networks import random_cameras, randomized

from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.presets import AutoencoderConfig, load_preset
from scenetok_ns.models.scenegen import generate
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.models.token_fitting import fit_tokens
from scenetok_ns.models.tokens import SceneTokens

SUPPORT = Path(__file__).parents[1] / "support"
PRESET = load_preset(str(SUPPORT / "tiny_scenegen.yaml"))
CAMERAS, ANCHORS = random_cameras(1, 6), random_cameras(1, 3, seed=5)
IMAGES = torch.rand(6, 3, 1, 1, generator=torch.Generator().manual_seed(0)).expand(-1, -1, 32, 32)


@pytest.fixture(scope="module")
def model() -> SceneTok:
    return randomized(SceneTok.from_preset(PRESET)).requires_grad_(False)


def error(model: SceneTok, tokens: SceneTokens) -> float:
    return float((model.predict(tokens, CAMERAS) - IMAGES).square().mean())


def test_renders_come_closer_to_the_photographs_with_every_step(model: SceneTok) -> None:
    tokens = model.encode(IMAGES, CAMERAS)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():  # as the tools call it
        fitted = [fit_tokens(model, tokens, IMAGES, CAMERAS, steps=steps) for steps in (10, 60)]
    errors = [error(model, found) for found in (tokens, *fitted)]
    assert errors[0] > errors[1] > errors[2]
    assert fitted[1].logvar is None and not fitted[1].mean.requires_grad
    assert fitted[1].pose_scale == tokens.pose_scale and torch.equal(fitted[1].reference_c2w, tokens.reference_c2w)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_the_same_arguments_give_the_same_tokens(model: SceneTok) -> None:
    tokens = model.encode(IMAGES, CAMERAS)
    first = fit_tokens(model, tokens, IMAGES, CAMERAS, steps=3, seed=1).mean
    torch.manual_seed(9)
    assert torch.equal(fit_tokens(model, tokens, IMAGES, CAMERAS, steps=3, seed=1).mean, first)
    assert not torch.equal(fit_tokens(model, tokens, IMAGES, CAMERAS, steps=3, seed=2).mean, first)
    assert torch.equal(fit_tokens(model, tokens, IMAGES, CAMERAS, steps=0).mean, tokens.mean)


def test_chunks_of_several_latents_and_windows_of_two_parts_can_be_fitted() -> None:
    """Wan has such chunks: five latents for seventeen frames, and a window of two chunks."""
    tiny = load_preset(str(SUPPORT / "tiny_preset.yaml"))
    wan = replace(
        tiny,
        target_autoencoder=AutoencoderConfig("pixel", spatial_factor=8, frames_per_chunk=17, latents_per_chunk=5),
        denoiser=replace(tiny.denoiser, num_latents=10, target_splits=2),
        sampler=replace(tiny.sampler, window=10, clean_targets=5),
    )
    model = randomized(SceneTok.from_preset(wan)).requires_grad_(False)
    tokens = model.encode(IMAGES[:2], CAMERAS.select([0, 1]))
    fitted = fit_tokens(model, tokens, IMAGES[:2], CAMERAS.select([0, 1]), steps=20)
    path = CameraBatch(*(part[:, :1].expand(-1, 34, -1, -1) for part in (CAMERAS.c2w, CAMERAS.intrinsics)))
    before, after = (float((model.predict(each, path) - IMAGES[:1]).square().mean()) for each in (tokens, fitted))
    assert after < before


def test_generation_ends_with_its_fitting_steps(model: SceneTok) -> None:
    sampler = replace(PRESET.scene_sampler, fit_steps=4)
    progress: list[tuple[int, int]] = []
    photographs, cameras = IMAGES[:2], CAMERAS.select([0, 1])
    fitted = generate(
        model, photographs, cameras, ANCHORS, seed=3, sampler=sampler, on_step=lambda *step: progress.append(step)
    )
    plain = generate(model, photographs, cameras, ANCHORS, seed=3)
    expected = fit_tokens(model, plain, photographs, cameras, steps=4, seed=3)
    assert torch.equal(fitted.mean, expected.mean) and not torch.equal(fitted.mean, plain.mean)
    assert progress == sorted(progress) and progress[-1] == (sampler.steps + 4, sampler.steps + 4)
    assert len({total for _, total in progress}) == 1


def test_wrong_arguments_are_refused(model: SceneTok) -> None:
    with pytest.raises(ValueError, match="expected model of type SceneTok, got Tensor; the order is model, tokens"):
        fit_tokens(IMAGES, IMAGES, CAMERAS, CAMERAS)  # type: ignore[arg-type]
    tokens = model.encode(IMAGES, CAMERAS)
    with pytest.raises(ValueError, match="expected steps of at least 0, got -1"):
        fit_tokens(model, tokens, IMAGES, CAMERAS, steps=-1)
    with pytest.raises(ValueError, match="fit_tokens: "):
        fit_tokens(model, tokens, IMAGES[:2], CAMERAS)
    with pytest.raises(ValueError, match="fit_tokens: "):
        fit_tokens(model, tokens, IMAGES * 255, CAMERAS)


def test_progress_can_end_the_fitting(model: SceneTok) -> None:
    class StopError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if (done, total) == (2, 5):
            raise StopError

    with pytest.raises(StopError):
        fit_tokens(model, model.encode(IMAGES, CAMERAS), IMAGES, CAMERAS, steps=5, on_step=stop)
