"""The engine's denoising against the plain loop, in float32 on the CPU: same arithmetic, other order."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace

import pytest
import torch
from support.small_networks import (
    CHUNKED,
    NUM_TOKENS,
    TOKEN_DIM,
    VIDEO,
    normal,
    random_cameras,
    randomized,
    small_denoiser,
)
from torch import Tensor

from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.engine import denoising
from scenetok_ns.models.engine.denoising import KEPT_WINDOWS, DenoisingEngine, stretches
from scenetok_ns.models.engine.options import EngineOptions
from scenetok_ns.models.engine.window import CAPACITY
from scenetok_ns.models.flow.sampling import path_schedule, sample_windows
from scenetok_ns.models.networks.denoiser import Denoiser
from scenetok_ns.models.presets import SamplerConfig
from scenetok_ns.models.temporal import IMAGE_LAYOUT, TemporalLayout

CPU = torch.device("cpu")
VIDEO_SAMPLER = SamplerConfig(steps=3, timestep_shift=4.0, window=4, clean_targets=2)
CHUNKED_SAMPLER = SamplerConfig(steps=3, timestep_shift=4.0, window=10, clean_targets=5)


def engine_of(denoiser: Denoiser) -> DenoisingEngine:
    return DenoisingEngine(denoiser, CPU, EngineOptions.for_device(CPU))


def scene(denoiser: Denoiser, layout: TemporalLayout, latents: int, batch: int = 2, seed: int = 0):
    """Tokens, cameras and noise of a path."""
    cameras = random_cameras(batch, layout.num_frames(latents), seed=seed)
    tokens = normal(batch, NUM_TOKENS, TOKEN_DIM, seed=seed + 10)
    return tokens, cameras, normal(batch, latents, *denoiser.latent_shape, seed=seed + 20)


def check_same(denoiser: Denoiser, inputs: tuple[Tensor, CameraBatch, Tensor], layout, config, clean: int = 0) -> None:
    plain = list(sample_windows(denoiser, *inputs, layout, config, clean=clean))
    found = list(engine_of(denoiser).sample_windows(*inputs, layout, config, clean=clean))
    assert [(p.first, p.window_first) for p in found] == [(p.first, p.window_first) for p in plain]
    for ours, theirs in zip(found, plain, strict=True):
        torch.testing.assert_close(ours.latents, theirs.latents, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(ours.uncertainty, theirs.uncertainty, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("schedule", ["full_sequence", "autoregressive", "pyramid"])
@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize("solver", ["euler", "multistep"])
def test_every_schedule_guidance_and_solver(schedule: str, guidance: float, solver: str) -> None:
    denoiser = randomized(small_denoiser(num_latents=4))
    config = replace(VIDEO_SAMPLER, schedule=schedule, guidance=guidance, solver=solver, pyramid_uncertainty=2)
    check_same(denoiser, scene(denoiser, VIDEO, latents=9), VIDEO, config)


@pytest.mark.parametrize("schedule", ["full_sequence", "autoregressive", "pyramid"])
@pytest.mark.parametrize("steps", [3, 4])
def test_one_scene_whose_steps_share_the_product_of_their_modulations(schedule: str, steps: int) -> None:
    denoiser = randomized(small_denoiser(num_latents=4))
    config = replace(VIDEO_SAMPLER, schedule=schedule, steps=steps, pyramid_uncertainty=2)
    check_same(denoiser, scene(denoiser, VIDEO, latents=9, batch=1), VIDEO, config)


class RunAgain:
    """In the place of `StepGraphs`: what would be a graph is run again."""

    def __init__(self) -> None:
        self.captured: dict[Hashable, Callable[[], None]] = {}

    def capture(self, name: Hashable, function: Callable[[], None]) -> None:
        if name not in self.captured:
            function()
            self.captured[name] = function

    def replay(self, name: Hashable) -> None:
        self.captured[name]()


@pytest.fixture
def graphed(monkeypatch: pytest.MonkeyPatch) -> Denoiser:
    monkeypatch.setattr(denoising, "StepGraphs", RunAgain)
    return randomized(small_denoiser(num_latents=4))


def check_again(engine: DenoisingEngine, denoiser: Denoiser, latents: int, config: SamplerConfig) -> None:
    inputs = scene(denoiser, VIDEO, latents=latents, batch=1)
    plain = torch.cat([part.latents for part in sample_windows(denoiser, *inputs, VIDEO, config)], dim=1)
    found = torch.cat([part.latents for part in engine.sample_windows(*inputs, VIDEO, config)], dim=1)
    torch.testing.assert_close(found, plain, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("steps", [63, CAPACITY])
def test_a_graph_may_be_captured_after_as_many_steps_as_there_is_room_for(graphed: Denoiser, steps: int) -> None:
    engine = DenoisingEngine(graphed, CPU, replace(EngineOptions.for_device(CPU), graphs=True))
    config = replace(VIDEO_SAMPLER, steps=steps)
    check_again(engine, graphed, 4, config)
    check_again(engine, graphed, 5, config)  # its second window has clean latents: another graph


def test_a_path_goes_on_after_its_buffers_were_given_to_others(graphed: Denoiser) -> None:
    engine = DenoisingEngine(graphed, CPU, replace(EngineOptions.for_device(CPU), graphs=True))
    config, inputs = VIDEO_SAMPLER, scene(graphed, VIDEO, latents=9, batch=1)
    plain = list(sample_windows(graphed, *inputs, VIDEO, config))
    path = engine.sample_windows(*inputs, VIDEO, config)
    found = [next(path)]
    for batch in range(2, 2 + KEPT_WINDOWS):
        other = scene(graphed, VIDEO, latents=4, batch=batch)
        assert list(engine.sample_windows(*other, VIDEO, config))
    for ours, theirs in zip([*found, *path], plain, strict=True):
        torch.testing.assert_close(ours.latents, theirs.latents, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_chunked_latents_in_two_splits(guidance: float) -> None:
    denoiser = randomized(small_denoiser(layout=CHUNKED, num_latents=10, target_splits=2))
    config = replace(CHUNKED_SAMPLER, guidance=guidance)
    check_same(denoiser, scene(denoiser, CHUNKED, latents=20), CHUNKED, config)


def test_a_path_shorter_than_a_window_and_steps_beyond_the_capacity() -> None:
    denoiser = randomized(small_denoiser(num_latents=4))
    check_same(denoiser, scene(denoiser, VIDEO, latents=2), VIDEO, replace(VIDEO_SAMPLER, steps=2))
    check_same(denoiser, scene(denoiser, VIDEO, latents=4, batch=1), VIDEO, replace(VIDEO_SAMPLER, steps=70))


def test_images_as_latents() -> None:
    denoiser = randomized(small_denoiser(layout=IMAGE_LAYOUT, num_latents=4))
    check_same(denoiser, scene(denoiser, IMAGE_LAYOUT, latents=6), IMAGE_LAYOUT, VIDEO_SAMPLER)


@pytest.mark.parametrize("clean", [1, 2])
def test_a_path_that_goes_on_from_clean_latents(clean: int) -> None:
    denoiser = randomized(small_denoiser(num_latents=4))
    check_same(denoiser, scene(denoiser, VIDEO, latents=8), VIDEO, VIDEO_SAMPLER, clean=clean)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_some_of_a_scenes_tokens(guidance: float) -> None:
    denoiser = randomized(small_denoiser(num_latents=4))
    tokens, *others = scene(denoiser, VIDEO, latents=4)
    check_same(denoiser, (tokens[:, :2], *others), VIDEO, replace(VIDEO_SAMPLER, guidance=guidance))


def test_paths_in_turns_do_not_mix() -> None:
    denoiser = randomized(small_denoiser(num_latents=4))
    engine = engine_of(denoiser)
    inputs = [scene(denoiser, VIDEO, latents=8, batch=1, seed=seed) for seed in (0, 1)]
    alone = [[part.latents for part in engine.sample_windows(*each, VIDEO, VIDEO_SAMPLER)] for each in inputs]
    under_way = [engine.sample_windows(*each, VIDEO, VIDEO_SAMPLER) for each in inputs]
    in_turns = [[next(path).latents for path in under_way] for _ in alone[0]]
    for window, (first, second) in enumerate(in_turns):
        assert torch.equal(first, alone[0][window]) and torch.equal(second, alone[1][window])
    assert not torch.allclose(alone[0][0], alone[1][0], atol=0.1)


def test_the_engine_leaves_inputs_alone_and_reports_steps() -> None:
    denoiser = randomized(small_denoiser(num_latents=4))
    tokens, cameras, noise = scene(denoiser, VIDEO, latents=6)
    kept = [tokens.clone(), noise.clone(), cameras.c2w.clone(), *(p.clone() for p in denoiser.parameters())]
    reports: list[tuple[int, int]] = []
    engine = engine_of(denoiser)
    list(engine.sample_windows(tokens, cameras, noise, VIDEO, VIDEO_SAMPLER, on_step=lambda *r: reports.append(r)))
    assert all(
        torch.equal(a, b) for a, b in zip(kept, [tokens, noise, cameras.c2w, *denoiser.parameters()], strict=True)
    )
    assert reports == [(i, 6) for i in range(7)]


def test_clean_latents_are_left_out_of_the_work() -> None:
    schedule = path_schedule(VIDEO_SAMPLER, 8)
    plan = stretches(schedule, 8, VIDEO_SAMPLER.clean_targets, 1)
    assert [(s.start, s.clean, len(s.steps), s.final) for s in plan] == [(0, 0, 3, 4), (2, 2, 3, 6), (4, 2, 3, 8)]


def test_what_cannot_be_sampled_is_refused_at_once() -> None:
    denoiser = randomized(small_denoiser(num_latents=4, null_token=False))
    inputs = scene(denoiser, VIDEO, latents=4)
    with pytest.raises(ValueError, match="no null token"):
        engine_of(denoiser).sample_windows(*inputs, VIDEO, replace(VIDEO_SAMPLER, guidance=2.0))
    with pytest.raises(ValueError, match="4 latents are 16 frames, but there are 12 cameras"):
        engine_of(denoiser).sample_windows(inputs[0], inputs[1].select(slice(12)), inputs[2], VIDEO, VIDEO_SAMPLER)


def test_with_little_memory_modulations_of_one_step_are_kept_and_nothing_changes() -> None:
    denoiser = randomized(small_denoiser(num_latents=4))
    inputs, found, sizes = scene(denoiser, VIDEO, 9), [], []
    for low_vram in (False, True):
        engine = DenoisingEngine(denoiser, CPU, EngineOptions.for_device(CPU, low_vram=low_vram))
        parts = engine.sample_windows(*inputs, VIDEO, VIDEO_SAMPLER)
        found.append(torch.cat([part.latents for part in parts], dim=1))
        (steps,) = engine._windows.values()
        sizes.append(steps._modulation.numel())
    assert sizes[0] == 2 * sizes[1]
    torch.testing.assert_close(found[1], found[0], atol=2e-5, rtol=1e-4)
