"""All random numbers of a training step, drawn before the arithmetic.

The losses are deterministic functions of batch, networks and draws, so they can be compared with recorded runs, and a
resumed or distributed run can be given the draws that it would have had. A generator on the CPU draws the same
numbers for every device; one on the GPU needs no transfer. Nothing here waits for the device.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from scenetok_ns.models.flow.rectified_flow import shift_time
from scenetok_ns.models.recipes import TrainingConfig

KEEP_CONDITION = 0.5
"""Probability that a condition view other than the first is shown to the scene generator."""

Draws = TypeVar("Draws", "SceneTokDraws", "SceneGenDraws")
Weighting = Literal["logit_normal", "shifted", "uniform"]


@dataclass(frozen=True)
class SceneTokDraws:
    """Random numbers of one SceneTok step."""

    reference: Int[Tensor, " b"]
    """Context view to which the poses are relative."""
    token_noise: Float[Tensor, "b n dim"]
    """Noise for the sample from the tokens' Gaussian."""
    time: Float[Tensor, "b latents"]
    """Noise levels in [0, 1]."""
    noise: Float[Tensor, "b latents c h w"]
    unconditional: Bool[Tensor, " b"]
    """Elements whose tokens are replaced by the null token."""


@dataclass(frozen=True)
class SceneGenDraws:
    """Random numbers of one SceneGen step."""

    token_noise: Float[Tensor, "b n dim"]
    time: Float[Tensor, " b"]
    """One noise level for all tokens of an element."""
    noise: Float[Tensor, "b n dim"]
    condition_mask: Bool[Tensor, "b views"]
    """Condition views that are shown; none for unconditional elements."""
    drop_poses: Bool[Tensor, " b"]
    """Elements whose pose embedding of the condition views is zeroed."""
    drop_anchors: Bool[Tensor, " b"]


def draw_scenetok(
    generator: torch.Generator,
    config: TrainingConfig,
    *,
    num_context: int,
    tokens: tuple[int, int, int],
    latents: tuple[int, int, int, int, int],
    splits: int,
    device: torch.device | str,
) -> SceneTokDraws:
    """Draw for a batch on `device`.

    Args:
        num_context: context views of each element.
        tokens: shape of the scene tokens, [b, n, dim].
        latents: shape of the target latents, [b, latents, c, h, w].
        splits: equal consecutive parts of the target latents that have one noise level each
            (`ViewSamplingConfig.target_splits`).
    """
    batch, num_latents = latents[:2]
    if num_latents % splits:
        raise ValueError(f"draw_scenetok: {num_latents} target latents cannot be cut into {splits} equal parts")
    levels = noise_levels(
        _raw_levels(generator, (batch, splits), config.weighting), config.weighting, config.timestep_shift
    )
    together = _bernoulli(generator, (batch, 1), config.uniform_noise_prob)
    # A frozen denoiser cannot learn its null token (published training step).
    unconditional = 0.0 if config.freeze_denoiser else config.unconditional_prob
    time = spread_levels(torch.where(together, levels[:, :1], levels), num_latents)
    draws = SceneTokDraws(
        reference=torch.randint(num_context, (batch,), generator=generator, device=generator.device),
        token_noise=_normal(generator, tokens),
        time=time.masked_fill(_bernoulli(generator, (batch, 1), config.pure_noise_prob), 1.0),
        noise=_normal(generator, latents),
        unconditional=_bernoulli(generator, (batch,), unconditional),
    )
    return draws_to(draws, device)


def draw_scenegen(
    generator: torch.Generator,
    config: TrainingConfig,
    *,
    num_condition: int,
    tokens: tuple[int, int, int],
    pose_dropout: float,
    device: torch.device | str,
) -> SceneGenDraws:
    """Draw for a batch on `device`.

    Args:
        num_condition: condition views of each element.
        tokens: shape of the scene tokens, [b, n, dim].
        pose_dropout: `CameraConfig.dropout` of the scene generator; 0 outside of training.
    """
    batch = tokens[0]
    raw = _raw_levels(generator, (batch,), config.weighting)
    unconditional = _bernoulli(generator, (batch,), config.unconditional_prob)
    uniform = torch.rand((batch, num_condition), generator=generator, device=generator.device)
    draws = SceneGenDraws(
        token_noise=_normal(generator, tokens),
        time=noise_levels(raw, config.weighting, config.timestep_shift),
        noise=_normal(generator, tokens),
        condition_mask=condition_mask(uniform, unconditional),
        drop_poses=_bernoulli(generator, (batch,), pose_dropout),
        drop_anchors=_bernoulli(generator, (batch,), pose_dropout),
    )
    return draws_to(draws, device)


def noise_levels(raw: Float[Tensor, "*shape"], weighting: Weighting, shift: float | None) -> Float[Tensor, "*shape"]:
    """Convert raw draws to times: normal draws through a sigmoid, uniform draws shifted or unchanged."""
    if weighting == "logit_normal":
        return raw.sigmoid()
    if weighting == "uniform":
        return raw
    if shift is None:
        raise ValueError("training: weighting 'shifted' needs timestep_shift; set it in the preset")
    return shift_time(raw, shift)


def spread_levels(levels: Float[Tensor, "b parts"], num_latents: int) -> Float[Tensor, "b num_latents"]:
    """Repeat the levels of equal consecutive parts, so that each latent has one."""
    return levels.repeat_interleave(num_latents // levels.shape[1], dim=1, output_size=num_latents)


def condition_mask(uniform: Float[Tensor, "b views"], unconditional: Bool[Tensor, " b"]) -> Bool[Tensor, "b views"]:
    """Select the views whose draw is below 1/2, and always the first; none for unconditional elements."""
    shown = uniform < KEEP_CONDITION
    first = torch.arange(uniform.shape[1], device=uniform.device) == 0
    return (shown | first) & ~unconditional[:, None]


def draws_to(draws: Draws, device: torch.device | str) -> Draws:
    # Copies to the GPU may be asynchronous; copies to the CPU must be waited for.
    eager = torch.device(device).type != "cpu"
    return replace(draws, **{f.name: getattr(draws, f.name).to(device, non_blocking=eager) for f in fields(draws)})


def _raw_levels(generator: torch.Generator, shape: tuple[int, ...], weighting: Weighting) -> Tensor:
    return (torch.randn if weighting == "logit_normal" else torch.rand)(
        shape, generator=generator, device=generator.device
    )


def _normal(generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device)


def _bernoulli(generator: torch.Generator, shape: tuple[int, ...], probability: float) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device) < probability
