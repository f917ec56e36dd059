"""A renderer has fixed settings for all pictures, and copies with other settings share its networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.small_runs import GENERATOR, randomize, small_pipeline, write_small_re10k

from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.rendering.scene_renderer import SceneRenderer


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_re10k(tmp_path_factory.mktemp("re10k"))


@pytest.fixture
def renderer(data: Path) -> SceneRenderer:
    pipeline = small_pipeline(data).eval()
    randomize(pipeline)
    return pipeline.model.renderer


@pytest.fixture
def encodings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the names of the scenes that are encoded."""
    found: list[str] = []
    encode: Callable = SceneTok.encode
    monkeypatch.setattr(
        SceneTok, "encode", lambda *args, **options: (found.append(options["scene"]), encode(*args, **options))[1]
    )
    return found


def target_cameras(renderer: SceneRenderer, number: int) -> CameraBatch:
    views = renderer.scenes.target_views(number)
    return CameraBatch(views.c2w[None], views.intrinsics[None])


def test_settings_cannot_be_changed(renderer: SceneRenderer) -> None:
    with pytest.raises(FrozenInstanceError):
        renderer.settings = renderer.settings  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        renderer.settings.seed = 3  # type: ignore[misc]


def test_a_copy_has_other_pictures_and_the_same_networks(renderer: SceneRenderer) -> None:
    other = replace(renderer, settings=replace(renderer.settings, seed=3))
    cameras, tokens = target_cameras(renderer, 0), renderer.tokens_of(0)
    first = renderer.render(tokens, cameras)
    assert torch.equal(other.tokens_of(0).mean, tokens.mean)
    assert not torch.equal(other.render(tokens, cameras), first)
    assert torch.equal(renderer.render(tokens, cameras), first)
    assert other.scenetok is renderer.scenetok and other.fingerprint == renderer.fingerprint


def test_pictures_for_the_tools_are_the_frames_of_the_path(renderer: SceneRenderer) -> None:
    """Cameras of a data set carry the number of their scene, which need not be the active one."""
    views = renderer.scenes.data_set(1, "target").cameras
    frames = renderer.render(renderer.tokens_of(1), target_cameras(renderer, 1)).clamp(0, 1)
    for place in (0, len(views) - 1):
        rgb = renderer.outputs(views[place : place + 1])["rgb"]
        torch.testing.assert_close(rgb, frames[place].permute(1, 2, 0))


def test_tokens_are_encoded_once_for_each_state_of_the_weights(renderer: SceneRenderer, encodings: list[str]) -> None:
    copies = renderer, replace(renderer, settings=replace(renderer.settings, seed=3))
    for _ in range(2):
        for one in copies:
            for number in (0, 1, 0):
                one.tokens_of(number)
        assert encodings == ["test0", "test1"] * 2
        encodings.clear()
        renderer.weights.advance()
    assert all(len(one._tokens) == 2 for one in copies)  # those of earlier weights are gone


def test_generated_scenes_follow_from_the_scene_seed_alone(data: Path) -> None:
    pipeline = small_pipeline(data, preset=GENERATOR).eval()
    randomize(pipeline)
    renderer = pipeline.model.renderer
    assert renderer.generates
    first = renderer.tokens_of(0).mean
    for name, equal in (("seed", True), ("scene_seed", False)):
        other = replace(renderer, settings=replace(renderer.settings, **{name: 5}))
        assert torch.equal(other.tokens_of(0).mean, first) == equal


def test_draws_follow_from_encoding_seed_and_scene(renderer: SceneRenderer, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[torch.Tensor | None] = []
    encode: Callable = SceneTok.encode

    def spy(*args: Any, noise: torch.Generator | None, **options: Any) -> Any:
        given.append(None if noise is None else torch.randn(4, generator=noise))
        return encode(*args, **options)

    monkeypatch.setattr(SceneTok, "encode", spy)

    def tokens(encoding: Any, seed: int, scene: int = 0) -> torch.Tensor:
        other = replace(renderer, settings=replace(renderer.settings, encoding=encoding, seed=seed))
        return other.tokens_of(scene).mean

    means = [tokens("mean", seed) for seed in (0, 1)]
    assert torch.equal(*means) and given == [None, None]
    given.clear()
    drawn = [tokens("latents", *which) for which in ((0,), (0,), (1,), (0, 1))]
    first, again, other_seed, other_scene = given
    assert torch.equal(first, again) and not torch.equal(first, other_seed) and not torch.equal(first, other_scene)
    assert torch.equal(drawn[0], means[0])  # this autoencoder has no Gaussian
    published = [tokens("published", *which) for which in ((0,), (0,), (1,))]
    assert torch.equal(published[0], published[1]) and not torch.equal(published[0], published[2])
    deviation = (0.5 * renderer.tokens_of(0).logvar).exp()
    assert 0.7 < float(((published[0] - means[0]) / deviation).std()) < 1.3
    assert torch.equal(given[4], first)  # the latents are those of the encoding "latents"


def test_condition_views_are_drawn_with_the_scene_s_seed(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[torch.Tensor | None] = []
    encode: Callable = SceneTok.encode_images

    def spy(self: SceneTok, images: torch.Tensor, engine: Any, noise: torch.Generator | None) -> Any:
        given.append(None if noise is None else torch.randn(4, generator=noise))
        return encode(self, images, engine)

    monkeypatch.setattr(SceneTok, "encode_images", spy)
    made = small_pipeline(data, preset=GENERATOR).eval().model.renderer
    for changes in ({}, {"encoding": "latents"}, {"encoding": "latents", "seed": 1}, {"scene_seed": 1}):
        made = replace(made, settings=replace(made.settings, **changes))
        made.tokens_of(0)
    assert given[0] is None and torch.equal(given[1], given[2]) and not torch.equal(given[2], given[3])
