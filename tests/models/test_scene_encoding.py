"""Encode several scenes, add photographs later, and warn about models without weights."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.oracle import path
from support.small_models import small_model, small_preset, vavae_model, views

from scenetok_ns.models.autoencoders.registry import latent_space
from scenetok_ns.models.cameras import CameraBatch, camera_spread, scaled_poses
from scenetok_ns.models.presets import load_preset
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.models.tokens import SceneTokens


@pytest.mark.parametrize("make", [small_model, vavae_model])
def test_views_that_come_later_count_like_those_from_the_start(make, tmp_path: Path) -> None:
    """The reference stays the middle one of the first views. Encoding all views at once with this reference must give
    the same tokens."""
    model, (images, cameras) = make(), views(7)
    later = [1, 3, 5, 6]
    tokens = model.encode(images[[0, 2, 4]], cameras.select([0, 2, 4]), keep_latents=True, pose_scale=2.0, scene="room")
    tokens.save(tmp_path / "room.safetensors")
    tokens = SceneTokens.load(tmp_path / "room.safetensors")
    found = model.add_views(tokens, images[later], cameras.select(later))
    order = [0, 1, 3, 2, 4, 5, 6]  # the middle one is view 2
    expected = model.encode(images[order], cameras.select(order), pose_scale=2.0, scene="room")
    torch.testing.assert_close(found.mean, expected.mean, atol=1e-4, rtol=1e-4)
    assert (found.pose_scale, found.scene) == (2.0, "room")
    assert torch.equal(found.reference_c2w, expected.reference_c2w) and found.latents is not None
    assert len(found.latents) == len(found.cameras_c2w) == 7  # type: ignore[arg-type]
    again = model.add_views(
        model.add_views(tokens, images[[1, 3]], cameras.select([1, 3])), images[5:], cameras.select([5, 6])
    )
    torch.testing.assert_close(again.mean, found.mean, atol=1e-4, rtol=1e-4)


def test_keeping_latents_changes_no_token() -> None:
    model, (images, cameras) = small_model(), views(5)
    torch.testing.assert_close(
        model.encode(images, cameras, keep_latents=True).mean, model.encode(images, cameras).mean
    )


def test_tokens_without_latents_are_not_added_to() -> None:
    model, (images, cameras) = small_model(), views(3)
    tokens = model.encode(images, cameras)
    with pytest.raises(ValueError, match=r"^add_views: these tokens keep no latents: encode with keep_latents=True"):
        model.add_views(tokens, images, cameras)
    with pytest.raises(ValueError, match=r"expected latents \[v, c, h, w\] of 3 cameras or None, got \[2, 192, 2, 2\]"):
        replace(tokens, latents=torch.zeros(2, 192, 2, 2))


def test_sources_join() -> None:
    model, (images, cameras) = small_model(), views(3)
    tokens = model.encode(images, cameras, sources=("a", "b", "c"), keep_latents=True)
    assert model.add_views(tokens, images[:1], cameras.select([0]), sources=("d",)).sources == ("a", "b", "c", "d")
    assert model.add_views(tokens, images[:1], cameras.select([0])).sources == ()


def test_several_scenes_are_what_each_is_alone() -> None:
    model, (images, cameras) = small_model(), views(4)
    found = model.encode_many([images, images[:3]], [cameras, cameras.select([0, 1, 2])], scenes=["a", "b"])
    assert [tokens.scene for tokens in found] == ["a", "b"]
    assert torch.equal(found[0].mean, model.encode(images, cameras).mean)
    assert torch.equal(found[1].mean, model.encode(images[:3], cameras.select([0, 1, 2])).mean)
    together = model.encode_many(torch.stack([images, images.flip(0)]), cameras.repeat(2))
    assert torch.equal(together[1].mean, model.encode(images.flip(0), cameras).mean)
    scaled = model.encode_many([images, images], [cameras, cameras], pose_scale=np.array([1.0, 2.0]))
    assert [tokens.pose_scale for tokens in scaled] == [1.0, 2.0] and torch.equal(scaled[0].mean, found[0].mean)
    assert torch.equal(scaled[1].mean, model.encode(images, cameras, pose_scale=2.0).mean)
    with pytest.raises(ValueError, match="got 2 scenes, 2 sets of cameras, 2 names and 1 pose scales"):
        model.encode_many([images, images], [cameras, cameras], pose_scale=[1.0])
    with pytest.raises(ValueError, match="got 1 scenes, 2 sets of cameras"):
        model.encode_many([images], [cameras, cameras])
    both = CameraBatch(cameras.c2w.repeat(2, 1, 1, 1), cameras.intrinsics.repeat(2, 1, 1, 1))
    with pytest.raises(ValueError, match="encode several scenes with encode_many"):
        model.encode(images, both)


def test_a_model_without_weights_says_so_once() -> None:
    model, (images, cameras) = SceneTok.from_preset(small_preset()).eval(), views(3)
    with pytest.warns(UserWarning, match=r"random weights, .* SceneTok.from_pretrained"):
        tokens = model.encode(images, cameras)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.render(tokens, path(2))
        trained = small_model()
        trained.render(trained.encode(images, cameras), path(2))
        training = SceneTok.from_preset(small_preset())
        training.encode(images, cameras)  # a model in training mode does not warn
        loaded = SceneTok.from_preset(load_preset("scenegen-tiny")).eval()
        loaded.load_embedded()
        loaded.warn_if_untrained()
    half = SceneTok.from_preset(load_preset("scenegen-tiny")).eval()
    half.preset = replace(half.preset, embedded_generator=None)
    half.load_embedded()
    with pytest.warns(UserWarning, match="random weights"):
        half.warn_if_untrained()


def test_a_loss_on_predicted_frames_moves_the_tokens() -> None:
    """Gradients reach the tokens and reduce the loss. The weights do not change."""
    model, (images, cameras) = small_model().requires_grad_(False), views(3)
    tokens = model.encode(images, cameras)
    mean = tokens.mean.clone().requires_grad_(True)
    before = model.predict(replace(tokens, mean=mean), path(6))
    assert before.shape == (6, 3, 16, 16) and before.requires_grad
    target = torch.rand(before.shape, generator=torch.Generator().manual_seed(1))
    loss = (before - target).square().mean()
    loss.backward()
    assert mean.grad is not None and bool((mean.grad.norm(dim=1) > 0).all())
    assert all(parameter.grad is None for parameter in model.parameters())
    moved = replace(tokens, mean=(mean - 0.1 * mean.grad / mean.grad.norm()).detach())
    assert float((model.predict(moved, path(6)) - target).square().mean()) < loss.item()


@pytest.mark.parametrize("layout", ["1:1", "4:1", "17:5"])
@pytest.mark.parametrize("frames", [1, 6, 60])
def test_a_prediction_is_a_render_of_one_step(layout: str, frames: int) -> None:
    """`predict` equals a render in one step in the first window. Later windows of a render continue from it."""
    model, (images, cameras) = small_model(layout), views(3)
    tokens, sampler = model.encode(images, cameras), replace(model.preset.sampler, steps=1)
    expected = model.render(tokens, path(frames), sampler=sampler, seed=3)
    found = model.predict(tokens, path(frames), seed=3)
    assert found.shape == expected.shape
    window = latent_space(model.preset.target_autoencoder).layout.num_frames(sampler.window)
    torch.testing.assert_close(found[:window].detach(), expected[:window], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("factor", "count", "expected"), [(10.0, 5, True), (0.1, 5, True), (2.0, 5, False), (9.0, 2, False)]
)
def test_a_forgotten_pose_scale_is_reported(factor: float, count: int, expected: bool) -> None:
    model, (images, cameras) = small_model(), views(count)
    spread = camera_spread(cameras.c2w[0])
    model.preset = replace(model.preset, data=replace(model.preset.data, camera_spread=spread))
    moved = CameraBatch(scaled_poses(cameras.c2w, factor), cameras.intrinsics)
    for caller, encode in (
        ("encode", lambda **scale: model.encode(images, moved, **scale)),
        ("encode_many", lambda **scale: many(model, images, moved, scale)),
    ):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            tokens = encode()
            encode(pose_scale=1.0)  # a given scale is never questioned
        text = f"{caller}: the cameras' spread is {spread * factor:.3g}, training scenes have {spread:.3g}: give pose_"
        found = [(str(one.message)[: len(text)], one.filename) for one in caught]
        assert found == [(text, __file__)] * expected  # the line that called
        assert tokens.pose_scale == 1.0


def many(model: SceneTok, images: torch.Tensor, cameras: CameraBatch, scale: dict[str, float]) -> SceneTokens:
    return model.encode_many([images], [cameras], **scale)[0]
