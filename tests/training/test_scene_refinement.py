"""Tokens of a scene are refined on any number of photographs, and the model stays as it was."""

from __future__ import annotations

import pytest
import torch
from support.small_models import small_model, views

from scenetok_ns.models.metrics import psnr
from scenetok_ns.training.scene_refinement import RefineOptions, refine_scene


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
