"""The training losses of SceneTok and SceneGen (parity c10), given the step's random draws (`draws.py`).

These are pure functions of networks, batch and draws. Call them inside one `Module.forward`, so that
DistributedDataParallel sees all of it. Latents are normalised (`LatentSpace.normalize`); poses are absolute.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.flow.draws import SceneGenDraws, SceneTokDraws
from scenetok_ns.models.flow.rectified_flow import interpolate, network_time, velocity_target
from scenetok_ns.models.networks.compressor import Compressor, TokenDistribution
from scenetok_ns.models.networks.denoiser import Denoiser
from scenetok_ns.models.networks.scene_generator import SceneGenerator
from scenetok_ns.models.recipes import TrainingConfig


@dataclass(frozen=True)
class LatentViews:
    """Latents of some views, or clips, of each batch element, with the cameras of their frames."""

    latents: Float[Tensor, "b latents c h w"]
    cameras: CameraBatch

    def relative_to(self, reference_c2w: Float[Tensor, "b 4 4"]) -> LatentViews:
        return LatentViews(self.latents, self.cameras.relative_to(reference_c2w))


@dataclass(frozen=True)
class LossOutput:
    """`loss` carries the gradient; the metrics are detached scalars on the device."""

    loss: Float[Tensor, ""]
    metrics: dict[str, Float[Tensor, ""]]


def scenetok_loss(
    compressor: Compressor,
    denoiser: Denoiser,
    context: LatentViews,
    target: LatentViews,
    draws: SceneTokDraws,
    config: TrainingConfig,
    step: int,
    weight: Float[Tensor, ""] | None = None,
) -> LossOutput:
    """Flow matching on the target latents given the tokens of the context views, and the tokens' KL divergence.

    loss = mean over elements of (mean square of the velocity's error + kl_weight(step) * KL). The KL term is left
    out for unconditional elements and where the compressor is frozen. `weight` replaces kl_weight(step) if a step is
    recorded and replayed with the weights of other steps.

    Raises:
        ValueError: the preset trains an unconditional branch, but its denoiser has no null token.
    """
    reference = context.cameras.select(draws.reference[:, None]).c2w[:, 0]
    context, target = context.relative_to(reference), target.relative_to(reference)
    frozen = compressor_frozen(config, step)
    distribution = encode_tokens(compressor, context, frozen=frozen)
    state = _drop_tokens(denoiser, denoiser.project(distribution.sample(draws.token_noise)), draws, config)

    flow = flow_error(denoiser, state, target, draws)
    kl = distribution.kl()
    factor = 0.0 if frozen else kl_weight(step, config) if weight is None else weight
    loss = (flow + factor * kl.masked_fill(draws.unconditional, 0.0)).mean()
    return LossOutput(loss, {"flow": flow.detach().mean(), "kl": kl.detach().mean()})


def refinement_loss(
    denoiser: Denoiser, tokens: Float[Tensor, "n dim"], target: LatentViews, draws: SceneTokDraws
) -> LossOutput:
    """Flow matching on clips of one scene, with gradients for its tokens. This is the loss of `scenetok_loss` for given
    tokens instead of a compressor. The cameras of `target` are relative to the tokens' reference view."""
    state = denoiser.project(tokens.expand(len(target.latents), -1, -1))
    flow = flow_error(denoiser, state, target, draws)
    return LossOutput(flow.mean(), {"flow": flow.detach().mean()})


def flow_error(
    denoiser: Denoiser, state: Float[Tensor, "b n hidden"], target: LatentViews, draws: SceneTokDraws
) -> Float[Tensor, " b"]:
    """Mean squared error of the velocity, for each element."""
    noisy = interpolate(target.latents, draws.noise, draws.time)
    velocity = denoiser(noisy, target.cameras, network_time(draws.time), state)
    return mean_square(velocity, velocity_target(target.latents, draws.noise))


def scenegen_loss(
    compressor: Compressor,
    generator: SceneGenerator,
    condition: LatentViews,
    context: LatentViews,
    draws: SceneGenDraws,
) -> LossOutput:
    """Flow matching on the scene tokens of the context views, given the condition views and the context poses.

    The compressor is frozen. Poses are taken relative to the first condition view; the context cameras are the
    anchors.
    """
    distribution = encode_tokens(compressor, context.relative_to(condition.cameras.c2w[:, 0]), frozen=True)
    return token_flow_loss(distribution, generator, condition, context.cameras, draws)


def token_flow_loss(
    distribution: TokenDistribution,
    generator: SceneGenerator,
    condition: LatentViews,
    anchors: CameraBatch,
    draws: SceneGenDraws,
) -> LossOutput:
    """`scenegen_loss` for tokens that are already encoded. Poses are relative to the first condition view."""
    reference = condition.cameras.c2w[:, 0]
    condition = condition.relative_to(reference)
    tokens = distribution.sample(draws.token_noise) * generator.config.scale
    time = draws.time[:, None].expand(tokens.shape[:2])
    velocity = generator(
        interpolate(tokens, draws.noise, time),
        network_time(time),
        condition.latents,
        condition.cameras,
        anchors.relative_to(reference),
        draws.condition_mask,
        pose_drop=draws.drop_poses,
        anchor_drop=draws.drop_anchors,
    )
    flow = mean_square(velocity, velocity_target(tokens, draws.noise))
    return LossOutput(flow.mean(), {"flow": flow.detach().mean()})


def encode_tokens(compressor: Compressor, context: LatentViews, *, frozen: bool) -> TokenDistribution:
    """Encode the context views to scene tokens, without gradients if the compressor is frozen."""
    with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
        return compressor(context.latents, context.cameras)


def compressor_frozen(config: TrainingConfig, step: int) -> bool:
    after = config.freeze_compressor_after
    return config.freeze_compressor or (after is not None and step >= after)


def kl_weight(step: int, config: TrainingConfig) -> float:
    """Weight of the KL term: the first weight up to the schedule's first step, then linear to the second weight at its
    second step."""
    (first, second), (begin, end) = config.kl_weights, config.kl_schedule
    if step <= begin:
        return first
    if step > end:
        return second
    along = (step - begin) / (end - begin)
    return (1 - along) * first + along * second


def mean_square(prediction: Float[Tensor, " b *shape"], target: Float[Tensor, " b *shape"]) -> Float[Tensor, " b"]:
    """Mean squared error of each element, in float32."""
    return (prediction.float() - target.float()).square().flatten(1).mean(1)


def _drop_tokens(
    denoiser: Denoiser, state: Float[Tensor, "b n hidden"], draws: SceneTokDraws, config: TrainingConfig
) -> Float[Tensor, "b n hidden"]:
    """Replace the tokens of unconditional elements by the null token, for classifier-free guidance."""
    if not denoiser.config.null_token:
        if config.unconditional_prob > 0:
            raise ValueError(
                "training: unconditional_prob > 0 needs a denoiser with null_token: true; set one of them in the preset"
            )
        return state
    # The null token is used at every step, because data-parallel training expects a gradient for it.
    return torch.where(draws.unconditional[:, None, None], denoiser.null_state(len(state)).to(state.dtype), state)
