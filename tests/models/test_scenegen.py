"""Scene generation: the generator's inputs, seeds and reference poses, and wrong input that is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.small_networks import random_cameras, randomized

from scenetok_ns.models import scenegen
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.flow.noise import token_noise
from scenetok_ns.models.flow.sampling import sample_scene_tokens
from scenetok_ns.models.presets import load_preset
from scenetok_ns.models.scenegen import generate
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.models.tokens import SceneTokens

PRESET = load_preset(str(Path(__file__).parents[1] / "support" / "tiny_scenegen.yaml"))
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
CAMERAS, ANCHORS = random_cameras(1, 2), random_cameras(1, 3, seed=5)


@pytest.fixture(scope="module")
def model() -> SceneTok:
    return randomized(SceneTok.from_preset(PRESET))


def test_tokens_are_those_of_the_sampler_with_poses_relative_to_the_first_photograph(model: SceneTok) -> None:
    tokens = generate(model, IMAGES, CAMERAS, ANCHORS, seed=7, scene="room", sources=("a", "b"))
    reference = CAMERAS.c2w[:, 0]
    expected = sample_scene_tokens(
        model.scene_generator,
        token_noise(7, 8, 4),
        model.context_autoencoder.encode(IMAGES[None]),
        CAMERAS.relative_to(reference),
        ANCHORS.relative_to(reference),
        torch.tensor([[True, True]]),
        PRESET.scene_sampler,
    )
    torch.testing.assert_close(tokens.mean, expected[0])
    torch.testing.assert_close(tokens.reference_c2w, reference[0])
    assert (tokens.preset, tokens.scene, tokens.sources, tokens.logvar) == ("tiny_scenegen", "room", ("a", "b"), None)
    assert not tokens.mean.requires_grad


def test_views_that_are_not_given_are_null_tokens(model: SceneTok, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training always has the same number of views, of which some are masked, so generation must do the same."""
    seen: dict[str, Any] = {}

    def watched(*args: Any, **options: Any) -> torch.Tensor:
        seen.update(latents=args[2], views=args[3].num_views, mask=args[5])
        return sample_scene_tokens(*args, **options)

    monkeypatch.setattr(scenegen, "sample_scene_tokens", watched)
    one = generate(model, IMAGES[:1], CAMERAS.select([0]), ANCHORS)
    assert seen["latents"].shape[1] == seen["views"] == 2 and seen["mask"].tolist() == [[True, False]]
    assert not torch.allclose(one.mean, generate(model, IMAGES, CAMERAS, ANCHORS).mean, atol=1e-3)


def test_a_scene_follows_its_seed_its_inputs_and_nothing_else(model: SceneTok) -> None:
    def mean(images=IMAGES, cameras=CAMERAS, anchors=ANCHORS, **options: Any) -> torch.Tensor:
        return generate(model, images, cameras, anchors, **options).mean

    first = mean(seed=3)
    torch.manual_seed(99)
    assert torch.equal(mean(seed=3), first)
    changed = [
        mean(seed=4),
        mean(images=IMAGES.flip(0), seed=3),
        mean(cameras=CAMERAS.select([1, 0]), seed=3),
        mean(anchors=ANCHORS.select([0, 1]), seed=3),
        mean(seed=3, pose_scale=2.0),
        mean(seed=3, sampler=replace(PRESET.scene_sampler, guidance=3.0)),
    ]
    for other in changed:
        assert not torch.allclose(other, first, atol=1e-3)


def moved(cameras: CameraBatch, pose: torch.Tensor, scale: float = 1.0) -> CameraBatch:
    c2w = pose @ cameras.c2w
    c2w[..., :3, 3] *= scale
    return CameraBatch(c2w, cameras.intrinsics)


def test_another_world_or_unit_gives_the_same_scene(model: SceneTok) -> None:
    first = generate(model, IMAGES, CAMERAS, ANCHORS)
    pose = random_cameras(1, 1, seed=9).c2w
    cameras, anchors = (moved(each, pose, 0.01) for each in (CAMERAS, ANCHORS))
    again = generate(model, IMAGES, cameras, anchors, pose_scale=100.0)
    torch.testing.assert_close(again.mean, first.mean, atol=2e-3, rtol=1e-2)
    path = random_cameras(1, 5, seed=4)
    shown = model.render(again, moved(path, pose, 0.01))
    torch.testing.assert_close(shown, model.render(replace(first, pose_scale=1.0), path), atol=5e-3, rtol=0)


def test_a_generated_scene_is_stored_and_rendered(model: SceneTok, tmp_path: Path) -> None:
    tokens = generate(model, IMAGES[:1], CAMERAS.select([0]), ANCHORS)
    tokens.save(tmp_path / "scene.safetensors")
    loaded = SceneTokens.load(tmp_path / "scene.safetensors")
    assert torch.equal(model.render(loaded, ANCHORS, seed=2), model.render(tokens, ANCHORS, seed=2))


def test_progress_is_reported_and_can_end_it(model: SceneTok) -> None:
    class StopError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if (done, total) == (1, 3):
            raise StopError

    with pytest.raises(StopError):
        generate(model, IMAGES, CAMERAS, ANCHORS, on_step=stop)


def with_poses(change: Callable[[torch.Tensor], None]) -> CameraBatch:
    c2w = ANCHORS.c2w.clone()
    change(c2w)
    return CameraBatch(c2w, ANCHORS.intrinsics)


def turning() -> CameraBatch:
    """Anchors that turn in the place where the first photograph was taken."""
    c2w = ANCHORS.c2w.clone()
    c2w[..., :3, 3] = CAMERAS.c2w[:, :1, :3, 3]
    return CameraBatch(c2w, ANCHORS.intrinsics)


@pytest.mark.parametrize(
    ("images", "cameras", "anchors", "message"),
    [
        (IMAGES[:0], CAMERAS.select([]), ANCHORS, "0 condition views, but preset tiny_scenegen takes 1 to 2"),
        (IMAGES[[0, 1, 0]], CAMERAS.select([0, 1, 0]), ANCHORS, "3 condition views, but .* takes 1 to 2"),
        (IMAGES, CAMERAS.select([0]), ANCHORS, r"got 2 images and 1 cameras"),
        (IMAGES[..., :1, :1], CAMERAS, ANCHORS, r"expected images \[v, 3, 32, 32\]"),
        (IMAGES, CAMERAS, ANCHORS.select([]), "at least one anchor"),
        (IMAGES, CAMERAS, turning(), "all 3 anchors are where the first photograph was taken"),
        (IMAGES, CAMERAS, with_poses(lambda c2w: c2w[:, 1, :3, :3].mul_(2)), "anchor 1 of 3 is not a camera pose"),
        (IMAGES, CAMERAS, with_poses(lambda c2w: c2w[:, 2].fill_(float("nan"))), "anchor 2 of 3 is not a camera pose"),
    ],
)
def test_wrong_input_is_one_clear_line(
    model: SceneTok, images: torch.Tensor, cameras: CameraBatch, anchors: CameraBatch, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        generate(model, images, cameras, anchors)
    assert "\n" not in str(error.value)


def test_a_model_without_generator_is_refused() -> None:
    model = SceneTok.from_preset(load_preset(str(Path(__file__).parents[1] / "support" / "tiny_preset.yaml")))
    with pytest.raises(ValueError, match="preset tiny_preset has no scene generator"):
        generate(model, IMAGES, CAMERAS, ANCHORS)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_same_seed_is_the_same_scene_on_a_gpu(model: SceneTok) -> None:
    expected = generate(model, IMAGES, CAMERAS, ANCHORS, seed=7)
    try:
        found = generate(model.to("cuda"), IMAGES, CAMERAS, ANCHORS, seed=7, autocast=False)
    finally:
        model.to("cpu")
    torch.testing.assert_close(found.mean.cpu(), expected.mean, atol=2e-2, rtol=2e-2)
