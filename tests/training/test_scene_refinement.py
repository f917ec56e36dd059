"""Tokens of a scene are refined on any number of photographs, and the model stays as it was."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.small_models import small_model, views

from scenetok_ns.models.flow.draws import SceneTokDraws
from scenetok_ns.models.flow.losses import LatentViews
from scenetok_ns.models.metrics import psnr
from scenetok_ns.training.scene_refinement import PICTURE_WEIGHT, RefineOptions, refine_scene, scene_loss


@pytest.mark.parametrize(("layout", "photographs"), [("4:1", 1), ("1:1", 3)])
def test_the_model_stays_and_the_refined_one_shows_another_picture(layout: str, photographs: int) -> None:
    model = small_model(layout)
    pictures, cameras = views(photographs)
    tokens = model.encode(pictures, cameras, pose_scale=2.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seen: list[tuple[int, int]] = []
    options = RefineOptions(steps=2, batch_size=2, rank=2)
    images = (pictures * 255).round().byte()
    refined, learned = refine_scene(model, tokens, images, cameras, options, lambda *done: seen.append(done))
    assert seen == [(1, 2), (2, 2)]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.state_dict().keys() == refined.state_dict().keys() and refined.compressor is model.compressor
    assert not torch.equal(learned.mean, tokens.mean) and learned.pose_scale == 2.0
    assert not torch.equal(refined.render(learned, cameras), model.render(learned, cameras))
    again, same = refine_scene(model, tokens, images, cameras, options)
    assert torch.equal(same.mean, learned.mean)
    assert torch.equal(again.render(same, cameras), refined.render(learned, cameras))


def test_steps_inside_of_another_autocast_see_each_others_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trainer's autocast, even a disabled one, keeps casts of weights until it ends: adapters would be stale."""
    real = torch.autocast

    def in_bfloat16(device: str, *dtype: torch.dtype, enabled: bool = True, **settings: bool) -> torch.autocast:
        return real(device, *dtype, enabled=enabled or bool(dtype), **settings)  # as on CUDA

    monkeypatch.setattr(torch, "autocast", in_bfloat16)
    model = small_model("1:1")
    pictures, cameras = views(2)
    tokens = model.encode(pictures, cameras)
    images, options = (pictures * 255).round().byte(), RefineOptions(steps=4, batch_size=2, rank=2, adapters_rate=0.1)
    _, alone = refine_scene(model, tokens, images, cameras, options)
    with real("cpu", enabled=False):
        _, inside = refine_scene(model, tokens, images, cameras, options)
    assert torch.equal(alone.mean, inside.mean)


def test_photographs_are_shown_better() -> None:
    model = small_model("1:1")
    pictures, cameras = views(2)
    pictures = pictures.new_tensor([0.9, 0.2, 0.4])[None, :, None, None].expand(2, 3, 16, 16)
    tokens = model.encode(pictures, cameras)
    options = RefineOptions(steps=60, tokens_rate=0.05, adapters_rate=0.02)
    refined, learned = refine_scene(model, tokens, (pictures * 255).round().byte(), cameras, options)
    before = psnr(pred=model.render(tokens, cameras), target=pictures).mean()
    after = psnr(pred=refined.render(learned, cameras), target=pictures).mean()
    assert after > before + 0.2, (before, after)


def test_a_model_of_one_step_is_refined_for_that_step() -> None:
    """Its loss compares decoded pictures, which start from pure noise with or without clean views before them."""
    model = small_model("1:1")
    many = model.preset
    count = many.data.views.num_target_latents
    model.preset = replace(many, sampler=replace(many.sampler, steps=1, window=count, clean_targets=count // 2))
    pictures, cameras = views(count)
    images = (pictures * 255).round().byte()[None]
    tokens = model.encode(pictures, cameras)
    target = LatentViews(model.target_autoencoder.encode(pictures[None]), cameras)
    generator = torch.Generator().manual_seed(0)
    mean = tokens.mean.clone().requires_grad_(True)
    times = torch.ones(1, count), torch.full((1, count), 0.5)
    noise = torch.randn(target.latents.shape, generator=generator)
    found = []
    for time in times:
        draws = SceneTokDraws(torch.zeros(1).long(), torch.zeros(1, *mean.shape), time, noise, torch.zeros(1).bool())
        output = scene_loss(model, model.denoiser, mean, target, images, draws, generator)
        (gradient,) = torch.autograd.grad(output.loss, mean)
        assert gradient.abs().max() > 0
        found.append(output)
    # All latents count from pure noise, the later half behind clean views; the loss is the sum of both terms.
    for output in found:
        expected = output.metrics["flow"] + PICTURE_WEIGHT * output.metrics["picture"]
        torch.testing.assert_close(output.loss.detach(), expected)
    assert found[0].metrics["flow"] != found[1].metrics["flow"]
    model.preset = many
    assert "picture" not in scene_loss(model, model.denoiser, mean, target, images, draws, generator).metrics
