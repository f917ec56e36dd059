"""Draws and losses: distributions, determinism, gradients (recorded values: test_parity_sampling.py)."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.oracle import LAYOUTS, path

from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.flow.draws import SceneGenDraws, SceneTokDraws, draw_scenegen, draw_scenetok, noise_levels
from scenetok_ns.models.flow.losses import (
    LatentViews,
    LossOutput,
    compressor_frozen,
    kl_weight,
    scenegen_loss,
    scenetok_loss,
)
from scenetok_ns.models.networks.compressor import Compressor
from scenetok_ns.models.networks.denoiser import Denoiser
from scenetok_ns.models.networks.scene_generator import SceneGenerator
from scenetok_ns.models.presets import CameraConfig, CompressorConfig, DenoiserConfig, SceneGeneratorConfig
from scenetok_ns.models.recipes import TrainingConfig

CONFIG = TrainingConfig(
    batch_size=2,
    learning_rate=1e-4,
    warmup_steps=0,
    warmup_start=1.0,
    milestones=(),
    gamma=1.0,
    weighting="logit_normal",
    timestep_shift=None,
    kl_weights=(1e-3, 1e-2),
)
CAMERA = CameraConfig(rays="ray", normalize=False, embedding="lvsm", patch_size=4, input_size=8)
TOKENS = (5, 3)
LATENTS = (4, 2, 2, 2)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scenetok_draws(config: TrainingConfig = CONFIG, batch: int = 2, seed: int = 0, views: int = 3) -> SceneTokDraws:
    return draw_scenetok(
        generator(seed),
        config,
        num_context=views,
        tokens=(batch, *TOKENS),
        latents=(batch, *LATENTS),
        splits=2,
        device="cpu",
    )


def scenegen_draws(config: TrainingConfig = CONFIG, batch: int = 2, dropout: float = 0.1) -> SceneGenDraws:
    return draw_scenegen(
        generator(), config, num_condition=3, tokens=(batch, *TOKENS), pose_dropout=dropout, device="cpu"
    )


def randomized(network: torch.nn.Module) -> torch.nn.Module:
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network


def networks(null_token: bool = False) -> tuple[Compressor, Denoiser]:
    torch.manual_seed(0)
    compressor = Compressor(
        CompressorConfig(24, 2, 2, 1, num_tokens=TOKENS[0], token_dim=TOKENS[1], camera=CAMERA),
        latent_channels=2,
        latent_size=(2, 2),
    )
    denoiser = Denoiser(
        DenoiserConfig(24, 1, 2, 1, num_latents=4, camera=CAMERA, null_token=null_token),
        latent_channels=2,
        latent_size=(2, 2),
        layout=LAYOUTS["4:1"],
        token_dim=TOKENS[1],
        num_tokens=TOKENS[0],
    )
    return randomized(compressor), randomized(denoiser)


def batch_of(scenes: int = 2) -> tuple[LatentViews, LatentViews]:
    torch.manual_seed(1)
    context = LatentViews(torch.randn(scenes, 3, 2, 2, 2), path(3, scenes))
    return context, LatentViews(torch.randn(scenes, *LATENTS), path(16, scenes))


def loss_of(
    config: TrainingConfig = CONFIG, step: int = 0, null_token: bool = False, **changes
) -> tuple[LossOutput, Compressor, Denoiser]:
    compressor, denoiser = networks(null_token)
    draws = replace(scenetok_draws(replace(config, unconditional_prob=0.0)), **changes)
    return scenetok_loss(compressor, denoiser, *batch_of(), draws, config, step), compressor, denoiser


# --- draws


def equal(a: object, b: object) -> bool:
    return all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))


def test_draws_depend_on_the_generator_alone() -> None:
    assert equal(scenetok_draws(seed=3), scenetok_draws(seed=3)) and equal(scenegen_draws(), scenegen_draws())
    assert not equal(scenetok_draws(seed=3), scenetok_draws(seed=4))


def test_distributions_of_scenetok_draws() -> None:
    config = replace(CONFIG, unconditional_prob=0.1)
    draws = scenetok_draws(config, batch=4000)
    assert draws.reference.unique().tolist() == [0, 1, 2]
    assert torch.equal(draws.time[:, 0], draws.time[:, 1]) and torch.equal(draws.time[:, 2], draws.time[:, 3])
    assert (draws.time[:, 0] == draws.time[:, 2]).float().mean().item() == pytest.approx(0.2, abs=0.03)
    assert draws.unconditional.float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert draws.time.logit().mean().item() == pytest.approx(0.0, abs=0.05)
    assert draws.time.logit().std().item() == pytest.approx(1.0, abs=0.05)
    assert not scenetok_draws(replace(config, freeze_denoiser=True), batch=100).unconditional.any()
    assert (scenetok_draws(replace(config, uniform_noise_prob=1.0)).time.diff(dim=1) == 0).all()


def test_distributions_of_scenegen_draws() -> None:
    draws = scenegen_draws(replace(CONFIG, weighting="uniform", unconditional_prob=0.1), batch=4000)
    shown = draws.condition_mask.float()
    assert shown[:, 0].mean().item() == pytest.approx(0.9, abs=0.02)
    assert shown[shown[:, 0] > 0][:, 1:].mean().item() == pytest.approx(0.5, abs=0.03)
    assert shown[shown[:, 0] == 0].sum() == 0
    for dropped in (draws.drop_poses, draws.drop_anchors):
        assert dropped.float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert not torch.equal(draws.drop_poses, draws.drop_anchors)
    assert draws.time.shape == (4000,) and draws.time.mean().item() == pytest.approx(0.5, abs=0.03)
    assert not scenegen_draws(batch=100, dropout=0.0).drop_poses.any()


def test_levels_of_each_weighting() -> None:
    raw = torch.tensor([0.0, 0.5])
    assert noise_levels(raw, "logit_normal", None).tolist() == pytest.approx([0.5, 0.62246], abs=1e-4)
    assert noise_levels(raw, "uniform", 4.0).tolist() == [0.0, 0.5]
    assert noise_levels(raw, "shifted", 4.0).tolist() == pytest.approx([0.0, 0.8])
    with pytest.raises(ValueError, match="'shifted' needs timestep_shift"):
        noise_levels(raw, "shifted", None)


def test_pure_noise_is_at_all_latents_of_its_share_of_elements() -> None:
    assert (scenetok_draws(replace(CONFIG, pure_noise_prob=1.0), batch=5).time == 1).all()
    pure = (scenetok_draws(replace(CONFIG, pure_noise_prob=0.5), batch=400).time == 1).float()
    assert torch.equal(pure.amin(1), pure.amax(1)) and 0.4 < pure.mean() < 0.6
    assert (scenetok_draws(CONFIG, batch=400).time < 1).all()


def test_splits_must_divide_the_latents() -> None:
    with pytest.raises(ValueError, match="5 target latents cannot be cut into 2 equal parts"):
        draw_scenetok(
            generator(), CONFIG, num_context=1, tokens=(1, 2, 2), latents=(1, 5, 1, 1, 1), splits=2, device="cpu"
        )


# --- KL schedule and freezing


@given(st.integers(0, 400_000))
def test_kl_weight_is_a_ramp(step: int) -> None:
    weight = kl_weight(step, CONFIG)
    assert 1e-3 <= weight <= 1e-2 and weight <= kl_weight(step + 1, CONFIG)
    assert (kl_weight(100_000, CONFIG), kl_weight(300_001, CONFIG)) == (1e-3, 1e-2)
    assert kl_weight(200_000, CONFIG) == pytest.approx(5.5e-3)


def test_compressor_freezes_by_switch_or_by_step() -> None:
    assert not compressor_frozen(CONFIG, 10**9) and compressor_frozen(replace(CONFIG, freeze_compressor=True), 0)
    later = replace(CONFIG, freeze_compressor_after=10)
    assert (compressor_frozen(later, 9), compressor_frozen(later, 10)) == (False, True)


# --- SceneTok


def test_loss_is_a_function_of_its_draws() -> None:
    first, _, _ = loss_of()
    assert torch.equal(first.loss, loss_of()[0].loss)
    assert first.metrics.keys() == {"flow", "kl"} and not any(m.requires_grad for m in first.metrics.values())
    torch.testing.assert_close(first.loss.detach(), first.metrics["flow"] + 1e-3 * first.metrics["kl"])
    for change in ("token_noise", "noise", "time", "reference"):
        old = getattr(scenetok_draws(), change)
        changed = (old + 1) % 3 if change == "reference" else old * 0.5
        assert not torch.equal(loss_of(**{change: changed})[0].loss, first.loss), change


def test_every_parameter_of_an_ordinary_step_has_a_gradient() -> None:
    output, compressor, denoiser = loss_of()
    output.loss.backward()
    for network in (compressor, denoiser):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_a_frozen_compressor_has_neither_gradient_nor_kl_term() -> None:
    output, compressor, denoiser = loss_of(replace(CONFIG, freeze_compressor_after=5), step=5)
    output.loss.backward()
    assert all(p.grad is None for p in compressor.parameters()) and denoiser.cnd_proj.weight.grad is not None
    torch.testing.assert_close(output.loss.detach(), output.metrics["flow"])


def test_dropped_elements_use_the_null_token_alone() -> None:
    config = replace(CONFIG, unconditional_prob=0.1, kl_weights=(1.0, 1.0))
    half = torch.tensor([True, False])
    output, compressor, denoiser = loss_of(config, null_token=True, unconditional=half)
    kept, _, _ = loss_of(config, null_token=True)
    assert not torch.equal(output.loss, kept.loss)
    output.loss.backward()
    assert denoiser.null_tokens.grad.abs().sum() > 0 and compressor.scene_tokens.grad.abs().sum() > 0
    # With all dropped, tokens and KL are out of the loss, and nothing flows back to them.
    nobody, compressor, denoiser = loss_of(config, null_token=True, unconditional=torch.tensor([True, True]))
    nobody.loss.backward()
    torch.testing.assert_close(nobody.loss.detach(), nobody.metrics["flow"])
    assert not any(p.grad.any() for p in compressor.parameters()) and not denoiser.cnd_proj.weight.grad.any()
    # The null token takes part even where nobody is dropped: data-parallel training expects its gradient.
    kept, _, denoiser = loss_of(config, null_token=True)
    kept.loss.backward()
    assert denoiser.null_tokens.grad is not None and not denoiser.null_tokens.grad.any()


def test_dropping_needs_a_null_token() -> None:
    with pytest.raises(ValueError, match="unconditional_prob > 0 needs a denoiser with null_token: true"):
        loss_of(replace(CONFIG, unconditional_prob=0.1))


def test_the_world_may_move() -> None:
    """Only poses relative to the drawn context view count."""
    compressor, denoiser = networks()
    context, target = batch_of()
    turn = torch.tensor([[0.0, -1, 0, 2], [1, 0, 0, 3], [0, 0, 1, 4], [0, 0, 0, 1]])

    def moved(views: LatentViews) -> LatentViews:
        return LatentViews(views.latents, CameraBatch(turn @ views.cameras.c2w, views.cameras.intrinsics))

    draws = scenetok_draws()
    here = scenetok_loss(compressor, denoiser, context, target, draws, CONFIG, 0)
    there = scenetok_loss(compressor, denoiser, moved(context), moved(target), draws, CONFIG, 0)
    torch.testing.assert_close(here.loss, there.loss, rtol=1e-3, atol=0)


def test_elements_of_a_batch_are_apart() -> None:
    """The loss of a batch is the mean of the losses of its halves: what data-parallel training relies on."""
    compressor, denoiser = networks()
    context, target = batch_of()
    draws = scenetok_draws()
    whole = scenetok_loss(compressor, denoiser, context, target, draws, CONFIG, 0).loss

    def part(views: LatentViews, i: int) -> LatentViews:
        cameras = CameraBatch(views.cameras.c2w[i : i + 1], views.cameras.intrinsics[i : i + 1])
        return LatentViews(views.latents[i : i + 1], cameras)

    halves = []
    for i in range(2):
        own = SceneTokDraws(**{f.name: getattr(draws, f.name)[i : i + 1] for f in fields(draws)})
        halves.append(scenetok_loss(compressor, denoiser, part(context, i), part(target, i), own, CONFIG, 0).loss)
    torch.testing.assert_close(torch.stack(halves).mean(), whole, rtol=1e-4, atol=0)


# --- SceneGen


def test_scenegen_loss_trains_the_generator_alone() -> None:
    compressor, _ = networks()
    camera = CameraConfig(
        rays="plucker", normalize=True, embedding="patch_embed", patch_size=4, input_size=8, dropout=0.9
    )
    model = randomized(
        SceneGenerator(
            SceneGeneratorConfig(24, 1, 2, 1, camera=camera),
            latent_channels=2,
            latent_size=(2, 2),
            token_dim=TOKENS[1],
            num_tokens=TOKENS[0],
        )
    ).train()
    context, _ = batch_of()
    condition = LatentViews(torch.randn(2, 3, 2, 2, 2, generator=generator()), path(3, 2))
    draws = replace(scenegen_draws(), condition_mask=torch.tensor([[True, True, False], [True, False, True]]))

    def loss(**changes) -> torch.Tensor:
        return scenegen_loss(compressor, model, condition, context, replace(draws, **changes)).loss

    first = loss()
    # In training mode too, poses are dropped as drawn and not by the network's own dice.
    torch.manual_seed(99)
    assert torch.equal(loss(), first)
    first.backward()
    assert all(p.grad is None for p in compressor.parameters())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    for change, value in {
        "drop_poses": ~draws.drop_poses,
        "drop_anchors": ~draws.drop_anchors,
        "condition_mask": ~draws.condition_mask,
        "token_noise": draws.token_noise + 1,
        "time": 1 - draws.time,
        "noise": -draws.noise,
    }.items():
        assert not torch.equal(loss(**{change: value}), first), change
