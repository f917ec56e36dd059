"""Training of students: targets and noise levels are right, and a student learns its targets."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from support.small_networks import CHUNKED, NUM_TOKENS, TOKEN_DIM, VIDEO, normal, random_cameras, randomized
from support.small_networks import small_denoiser as small
from torch import Tensor

from scenetok_ns.models.flow.losses import LatentViews
from scenetok_ns.models.flow.sampling import sample_latents
from scenetok_ns.models.flow.streaming import LatentStream, StreamConfig
from scenetok_ns.models.networks.denoiser import Denoiser
from scenetok_ns.models.presets import SamplerConfig
from scenetok_ns.models.temporal import TemporalLayout
from scenetok_ns.training.student import (
    StudentDraws,
    StudentRecipe,
    draw_student,
    sampled_target,
    stream_levels,
    student_estimates,
)

CAUSAL = StudentRecipe(steps=3, causal=True, timestep_shift=4.0, chunk=1, clean_targets=2)
WINDOW = replace(CAUSAL, causal=False)


def scene(denoiser: Denoiser, layout: TemporalLayout, latents: int) -> tuple[Tensor, LatentViews]:
    cameras = random_cameras(2, layout.num_frames(latents))
    return normal(2, NUM_TOKENS, TOKEN_DIM), LatentViews(normal(2, latents, *denoiser.latent_shape, seed=7), cameras)


def draws(denoiser: Denoiser, latents: int, step: int, continued: bool = False) -> StudentDraws:
    noise = normal(2, latents, *denoiser.latent_shape, seed=5)
    return StudentDraws(noise, torch.tensor([step] * 2), torch.tensor([continued] * 2))


@pytest.mark.parametrize(("layout", "latents"), [(VIDEO, 4), (CHUNKED, 10)])
def test_the_last_step_of_a_rollout_is_what_a_stream_makes(layout: TemporalLayout, latents: int) -> None:
    denoiser = randomized(small(layout=layout, num_latents=latents))
    chunk, frames = layout.latents_per_chunk, layout.frames_per_chunk
    recipe = replace(CAUSAL, chunk=chunk)
    tokens, target = scene(denoiser, layout, latents)
    drawn = draws(denoiser, latents, step=2)
    found = student_estimates(denoiser, denoiser.project(tokens), target, drawn, recipe, own=True)
    stream = LatentStream(denoiser, tokens, layout, StreamConfig(3, 4.0, latents // chunk, 0))
    parts = [
        stream.next(
            target.cameras.select(slice(i * frames, (i + 1) * frames)), drawn.noise[:, i * chunk : (i + 1) * chunk]
        ).latents
        for i in range(latents // chunk)
    ]
    torch.testing.assert_close(found.latents.detach(), torch.cat(parts, dim=1), atol=5e-5, rtol=1e-4)
    assert float(found.counts.min()) == 1


def test_a_window_students_last_step_is_what_the_sampler_makes() -> None:
    denoiser = randomized(small(num_latents=4))
    tokens, target = scene(denoiser, VIDEO, 4)
    drawn = draws(denoiser, 4, step=2)
    found = student_estimates(denoiser, denoiser.project(tokens), target, drawn, WINDOW, own=True)
    sampler = SamplerConfig(steps=3, timestep_shift=4.0, window=4, clean_targets=2)
    sampled, _ = sample_latents(denoiser, tokens, target.cameras, drawn.noise, VIDEO, sampler)
    torch.testing.assert_close(found.latents.detach(), sampled, atol=5e-5, rtol=1e-4)
    same = sampled_target(denoiser, tokens, target.cameras, drawn.noise, VIDEO, sampler)
    assert torch.equal(same.latents, sampled)


@pytest.mark.parametrize("own", [False, True])
def test_final_latents_at_the_head_of_a_window_are_given_not_predicted(own: bool) -> None:
    denoiser = randomized(small(num_latents=4))
    tokens, target = scene(denoiser, VIDEO, 4)
    drawn = draws(denoiser, 4, step=1, continued=True)
    found = student_estimates(denoiser, denoiser.project(tokens), target, drawn, WINDOW, own=own)
    assert found.counts.tolist() == [[0, 0, 1, 1]] * 2
    assert torch.equal(found.latents[:, :2], target.latents[:, :2])
    worse = replace(target, latents=target.latents.clone())
    worse.latents[:, :2] += 100
    assert float(found.loss(worse.latents) - found.loss(target.latents)) == 0


def test_teacher_forcing_shows_the_true_past_and_a_rollout_the_students_own() -> None:
    denoiser = randomized(small(num_latents=4))
    tokens, target = scene(denoiser, VIDEO, 4)
    drawn, state = draws(denoiser, 4, step=0), denoiser.project(tokens)

    def last(latents: Tensor, own: bool) -> Tensor:
        return student_estimates(
            denoiser, state, replace(target, latents=latents), drawn, CAUSAL, own=own
        ).latents[:, -1].detach()  # fmt: skip

    changed = target.latents.clone()
    changed[:, 0] += 1
    assert float((last(target.latents, False) - last(changed, False)).abs().max()) > 1e-4
    assert torch.equal(last(target.latents, True), last(changed, True))


def test_half_of_the_elements_have_the_same_noise_in_all_chunks() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = draw_student(generator, (400, 4, 1, 2, 2), CAUSAL)
    same = (drawn.noise == drawn.noise[:, :1]).flatten(1).all(dim=1)
    assert 0.4 < float(same.float().mean()) < 0.6
    assert sorted(drawn.step.unique().tolist()) == [0, 1, 2]


@pytest.mark.parametrize("recipe", [replace(CAUSAL, steps=1), replace(CAUSAL, steps=2), replace(WINDOW, steps=2)])
def test_a_student_learns_its_targets(recipe: StudentRecipe) -> None:
    """On one scene, not only the loss falls: the student's stream also comes closer to the target."""
    student = copy.deepcopy(randomized(small(num_latents=4)))
    tokens, target = scene(student, VIDEO, 4)
    optimizer = torch.optim.Adam(student.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)

    def error() -> float:
        drawn = draws(student, 4, step=recipe.steps - 1)
        with torch.no_grad():
            state = student.project(tokens)
            return float(student_estimates(student, state, target, drawn, recipe, own=True).loss(target.latents))

    before = error()
    for step in range(60):
        drawn = draw_student(generator, tuple(target.latents.shape), recipe)  # type: ignore[arg-type]
        found = student_estimates(student, student.project(tokens), target, drawn, recipe, own=step > 20)
        optimizer.zero_grad()
        found.loss(target.latents).backward()
        optimizer.step()
    assert error() < 0.5 * before


def test_levels_of_one_step_are_the_noise() -> None:
    denoiser = randomized(small(num_latents=4))
    tokens, target = scene(denoiser, VIDEO, 4)
    noise = draws(denoiser, 4, 0).noise
    with torch.no_grad():
        context, poses = (
            denoiser.cross_attention_kv(denoiser.project(tokens)),
            denoiser.embed_poses(target.cameras),
        )
        levels = stream_levels(denoiser, context, poses, noise, torch.tensor([1.0, 0.0]), 1)
    assert torch.equal(levels, noise[None])
