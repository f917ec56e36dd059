"""Denoising loops with a denoiser that knows the answer (recorded runs: test_parity_sampling.py)."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from support.oracle import LAYOUTS, SAMPLERS, OracleDenoiser, grey, path
from support.small_networks import NUM_TOKENS, TOKEN_DIM, generator_inputs, randomized, small_generator

from scenetok_ns.models.flow.noise import latent_noise, token_noise
from scenetok_ns.models.flow.rectified_flow import TRAINING_TIMES, network_time, time_grid
from scenetok_ns.models.flow.sampling import sample_latents, sample_scene_tokens, sample_windows
from scenetok_ns.models.networks.denoiser import Denoiser
from scenetok_ns.models.networks.scene_generator import SceneGenerator
from scenetok_ns.models.presets import (
    CameraConfig,
    DenoiserConfig,
    SceneGeneratorConfig,
    SceneSamplerConfig,
)

TOKENS = torch.zeros(1, 2, 3)


def start(layout: str, num_latents: int, seed: int = 0) -> torch.Tensor:
    space = OracleDenoiser(LAYOUTS[layout]).autoencoder.space
    return latent_noise(seed, num_latents, (space.channels, 1, 1))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("schedule", ["full_sequence", "autoregressive", "pyramid"])
def test_latents_are_those_of_their_own_cameras(layout: str, schedule: str) -> None:
    if layout == "17:5" and schedule == "pyramid":
        pytest.skip("refused: see below")
    denoiser = OracleDenoiser(LAYOUTS[layout])
    config = replace(SAMPLERS[layout], schedule=schedule, pyramid_uncertainty=2)
    noise = start(layout, 20)
    cameras = path(LAYOUTS[layout].num_frames(20))
    parts = list(sample_windows(denoiser, TOKENS, cameras, noise, LAYOUTS[layout], config))
    assert [p.first for p in parts] == [0, *torch.tensor([p.latents.shape[1] for p in parts]).cumsum(0)[:-1].tolist()]
    found = denoiser.autoencoder.decode(torch.cat([p.latents for p in parts], dim=1))
    torch.testing.assert_close(found, grey(cameras), atol=1e-4, rtol=0)
    assert len(parts) > 1 and all(p.latents.shape[1] % LAYOUTS[layout].latents_per_chunk == 0 for p in parts)


def test_what_stays_the_same_is_computed_once() -> None:
    denoiser, config = OracleDenoiser(LAYOUTS["4:1"]), SAMPLERS["4:1"]
    sample_latents(denoiser, TOKENS, path(64), start("4:1", 16), LAYOUTS["4:1"], config)
    assert (denoiser.projections, denoiser.embeddings, denoiser.forwards) == (1, 3, 9)


def test_clean_latents_of_a_window_have_time_0_and_stay() -> None:
    denoiser, config = OracleDenoiser(LAYOUTS["1:1"]), SAMPLERS["1:1"]
    first, second = sample_windows(denoiser, TOKENS, path(12), start("1:1", 12), LAYOUTS["1:1"], config)
    assert (first.first, first.latents.shape[1], second.first, second.latents.shape[1]) == (0, 8, 8, 4)
    assert second.window_first == 4 and second.uncertainty.shape[1] == 8
    for t_net in denoiser.network_times[config.steps :]:
        assert (t_net[:, :4] == 0).all() and (t_net[:, 4:] > 0).all()


def test_guidance_goes_from_null_through_conditional() -> None:
    layout, config = LAYOUTS["1:1"], replace(SAMPLERS["1:1"], guidance=3.0)
    denoiser = OracleDenoiser(layout)
    cameras = path(8)
    tokens = torch.full((1, 2, 3), 0.02)
    latents, uncertainty = sample_latents(denoiser, tokens, cameras, start("1:1", 8), layout, config)
    # null is 0.1 too dark, the tokens 0.02 too bright: -0.1 + 3 * (0.02 + 0.1)
    found = denoiser.autoencoder.decode(latents + 0)
    torch.testing.assert_close(found, (grey(cameras) + 0.26).clamp(0, 1), atol=1e-4, rtol=0)
    assert denoiser.forwards == 2 * config.steps and uncertainty.shape == (1, 8, 1, 1)


def test_scenes_of_a_batch_are_apart() -> None:
    layout, config = LAYOUTS["4:1"], SAMPLERS["4:1"]
    denoiser = OracleDenoiser(layout)
    tokens = torch.stack([torch.zeros(2, 3), torch.full((2, 3), 0.1)])
    noise = torch.cat([start("4:1", 12, seed) for seed in (0, 1)])
    both, _ = sample_latents(denoiser, tokens, path(48, scenes=2), noise, layout, config)
    second, _ = sample_latents(
        denoiser,
        tokens[1:],
        path(48, scenes=2).select(slice(None)),
        noise[1:].expand(2, -1, -1, -1, -1),
        layout,
        config,
    )
    torch.testing.assert_close(both[1], second[1])
    assert not torch.allclose(both[0], both[1], atol=0.01)


def test_inputs_are_left_alone_and_steps_are_reported() -> None:
    layout, config = LAYOUTS["4:1"], SAMPLERS["4:1"]
    tokens, noise, cameras = TOKENS.clone(), start("4:1", 12), path(48)
    kept = [tokens.clone(), noise.clone(), cameras.c2w.clone()]
    reports: list[tuple[int, int]] = []
    sample_latents(
        OracleDenoiser(layout), tokens, cameras, noise, layout, config, on_step=lambda *report: reports.append(report)
    )
    assert all(torch.equal(a, b) for a, b in zip(kept, [tokens, noise, cameras.c2w], strict=True))
    assert reports == [(i, 6) for i in range(7)]


def test_a_report_can_end_the_loop() -> None:
    class StopError(Exception):
        pass

    def stop_at_two(done: int, total: int) -> None:
        if done == 2:
            raise StopError

    denoiser, layout = OracleDenoiser(LAYOUTS["1:1"]), LAYOUTS["1:1"]
    with pytest.raises(StopError):
        sample_latents(denoiser, TOKENS, path(8), start("1:1", 8), layout, SAMPLERS["1:1"], on_step=stop_at_two)
    assert denoiser.forwards == 2


@pytest.mark.parametrize(
    ("layout", "frames", "change", "message"),
    [
        ("4:1", 47, {}, "12 latents are 48 frames, but there are 47 cameras; pad the path"),
        ("1:1", 12, {"guidance": 0.5}, "guidance must be at least 1"),
        ("1:1", 12, {"schedule": "pyramid", "pyramid_uncertainty": 1}, "never ends"),
        ("17:5", 68, {"schedule": "pyramid", "pyramid_uncertainty": 2}, "cuts chunks of 5 latents in two"),
        ("17:5", 68, {"clean_targets": 4}, "cuts chunks of 5 latents in two"),
    ],
)
def test_what_cannot_be_sampled_is_refused_before_the_first_window(
    layout: str, frames: int, change: dict, message: str
) -> None:
    latents = 20 if layout == "17:5" else 12
    denoiser = OracleDenoiser(LAYOUTS[layout])
    with pytest.raises(ValueError, match=message) as error:
        sample_windows(
            denoiser, TOKENS, path(frames), start(layout, latents), LAYOUTS[layout], replace(SAMPLERS[layout], **change)
        )
    assert denoiser.forwards == 0 and "\n" not in str(error.value)


CAMERA = CameraConfig(rays="ray", normalize=False, embedding="lvsm", patch_size=4, input_size=8)


def small_denoiser(null_token: bool) -> Denoiser:
    torch.manual_seed(0)
    network = Denoiser(
        DenoiserConfig(24, 1, 2, 1, num_latents=4, camera=CAMERA, null_token=null_token),
        latent_channels=2,
        latent_size=(2, 2),
        layout=LAYOUTS["4:1"],
        token_dim=3,
        num_tokens=5,
    )
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network


def test_guidance_without_a_null_token_is_refused() -> None:
    config = replace(SAMPLERS["4:1"], guidance=2.0, window=4, clean_targets=2)
    arguments = (torch.randn(1, 5, 3), path(16), torch.randn(1, 4, 2, 2, 2), LAYOUTS["4:1"], config)
    with pytest.raises(ValueError, match="no null token, so guidance is impossible; set guidance to 1"):
        sample_windows(small_denoiser(null_token=False), *arguments)
    sample_latents(small_denoiser(null_token=True), *arguments)


def test_a_real_network_in_bfloat16_is_close_and_leaves_no_gradient() -> None:
    network, config = small_denoiser(null_token=False), replace(SAMPLERS["4:1"], window=4, clean_targets=2)
    arguments = (torch.randn(1, 5, 3), path(24), torch.randn(1, 6, 2, 2, 2), LAYOUTS["4:1"], config)
    exact, _ = sample_latents(network, *arguments)
    rough, _ = sample_latents(network, *arguments, autocast=True)
    assert not exact.requires_grad and exact.dtype == rough.dtype == torch.float32
    assert 0 < (exact - rough).abs().max() < 0.2 * exact.std()
    assert not torch.is_autocast_enabled("cpu")


class TimedDenoiser(OracleDenoiser):
    """Its velocity is 1 + 3 t^2 everywhere, so each latent must move by -2 from noise to data."""

    def velocity(self, latents: torch.Tensor, poses: Any, t_net: torch.Tensor, context: Any) -> torch.Tensor:
        t = (t_net + 1) / TRAINING_TIMES
        return (1 + 3 * t**2)[:, :, None, None, None].expand_as(latents)


@pytest.mark.parametrize("schedule", ["full_sequence", "autoregressive"])
def test_the_multistep_solver_is_of_second_order_in_every_window(schedule: str) -> None:
    layout, noise, cameras = LAYOUTS["1:1"], start("1:1", 20), path(20)

    def error(solver: str, steps: int) -> torch.Tensor:
        """For each latent."""
        config = replace(SAMPLERS["1:1"], solver=solver, steps=steps, schedule=schedule, timestep_shift=3.0)
        latents, _ = sample_latents(TimedDenoiser(layout), TOKENS, cameras, noise, layout, config)
        return (latents - noise + 2).abs().amax(dim=(0, 2, 3, 4))

    for solver, order in (("euler", 1), ("multistep", 2)):
        ratio = error(solver, 10) / error(solver, 20)
        assert (ratio > 0.75 * 2**order).all() and (ratio < 1.3 * 2**order).all()


def test_scene_tokens_follow_seed_mask_guidance_and_solver() -> None:
    torch.manual_seed(0)
    camera = CameraConfig(rays="plucker", normalize=True, embedding="patch_embed", patch_size=4, input_size=8)
    generator = SceneGenerator(
        SceneGeneratorConfig(24, 1, 2, 1, camera=camera),
        latent_channels=2,
        latent_size=(2, 2),
        token_dim=3,
        num_tokens=5,
    ).eval()
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    reports: list[tuple[int, int]] = []

    def tokens(
        seed: int = 0, shown: tuple[bool, bool] = (True, True), guidance: float = 1.0, solver: str = "euler"
    ) -> torch.Tensor:
        return sample_scene_tokens(
            generator,
            token_noise(seed, 5, 3),
            torch.ones(1, 2, 2, 2, 2),
            path(2),
            path(3),
            torch.tensor([shown]),
            SceneSamplerConfig(steps=3, timestep_shift=4.0, guidance=guidance, solver=solver),
            on_step=lambda *report: reports.append(report),
        )

    same = tokens()
    assert reports == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert torch.equal(tokens(), same)
    changes = ({"seed": 1}, {"shown": (True, False)}, {"guidance": 2.0}, {"solver": "multistep"})
    for other in (tokens(**change) for change in changes):
        assert not torch.allclose(other, same, atol=1e-3)
    # Without any view shown there is nothing to guide towards.
    torch.testing.assert_close(tokens(shown=(False, False), guidance=5.0), tokens(shown=(False, False)))
    with pytest.raises(ValueError, match="guidance must be at least 1"):
        tokens(guidance=0.0)


def test_the_condition_is_embedded_once_and_guidance_is_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    generator = randomized(small_generator())
    _, _, latents, cameras, anchors, mask = generator_inputs()
    noise = token_noise([0, 1], NUM_TOKENS, TOKEN_DIM)
    calls: list[tuple[str, int]] = []
    for name in ("embed_condition", "cross_attention_kv", "velocity"):
        whole = getattr(generator, name)

        def counted(*args: Any, name: str = name, whole: Any = whole) -> Any:
            first = args[0]
            calls.append((name, len(first)))
            return whole(*args)

        monkeypatch.setattr(generator, name, counted)
    config = SceneSamplerConfig(steps=3, timestep_shift=4.0, guidance=3.0)
    tokens = sample_scene_tokens(generator, noise, latents, cameras, anchors, mask, config)
    monkeypatch.undo()
    assert calls == [("embed_condition", 4), ("cross_attention_kv", 4), *[("velocity", 4)] * 3]

    # The plain loop: two calls per step, and everything is embedded again.
    x, times = noise, time_grid(3, 4.0)
    with torch.no_grad():
        for t, t_next in pairwise(times):
            t_net = network_time(t).expand(2, NUM_TOKENS)
            given, nothing = (generator(x, t_net, latents, cameras, anchors, m) for m in (mask, mask & False))
            x = x + (t_next - t) * (nothing + 3.0 * (given - nothing))
    torch.testing.assert_close(tokens, x / 0.1, rtol=1e-4, atol=1e-4)
