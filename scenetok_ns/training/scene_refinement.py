"""Refinement of one scene's tokens on its photographs: any number of them, in any order."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy, deepcopy
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from scenetok_ns.data.training_batches import Clips
from scenetok_ns.models.autoencoders.registry import latent_space
from scenetok_ns.models.cameras import CameraBatch, scaled_poses
from scenetok_ns.models.flow.draws import SceneTokDraws, draw_scenetok
from scenetok_ns.models.flow.losses import LatentViews, LossOutput, refinement_loss
from scenetok_ns.models.flow.rectified_flow import interpolate, network_time, velocity_target
from scenetok_ns.models.networks.adapters import LowRankAdapters
from scenetok_ns.models.networks.denoiser import Denoiser
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.models.tokens import SceneTokens
from scenetok_ns.tools.seeds import seeded_generator
from scenetok_ns.training.loss import TrainingLoss
from scenetok_ns.training.picture_losses import codec_loss

PICTURE_WEIGHT = 2.0
"""Weight of the error of decoded pictures, relative to the error of velocities."""


@dataclass(frozen=True)
class RefineOptions:
    """How a scene is refined. Learning rates are those of `ns-train scenetok-refine`."""

    steps: int = 100
    batch_size: int = 4
    """Number of clips of a step."""
    rank: int = 16
    """Rank of the denoiser's adapters."""
    tokens_rate: float = 0.03
    adapters_rate: float = 2e-3
    seed: int = 0


def renders_in_one_step(model: SceneTok) -> bool:
    """Whether the model renders in one step and decodes each latent on its own."""
    layout = latent_space(model.preset.target_autoencoder).layout
    return model.preset.sampler.steps == 1 and layout.frames_per_chunk == 1


def scene_loss(
    model: SceneTok,
    denoiser: Denoiser,
    tokens: Float[Tensor, "n dim"],
    target: LatentViews,
    images: UInt8[Tensor, "b f 3 h w"],
    draws: SceneTokDraws,
    generator: torch.Generator,
) -> LossOutput:
    """Loss of one step of refinement, with gradients for `tokens` and for the adapters of `denoiser`.

    For models that render in many steps, it is the flow-matching loss of training (`refinement_loss`). A model that
    renders in one step is trained for exactly that step: from pure noise, with or without clean views before it. One
    picture of each clip is decoded and compared with the photograph, because small errors of latents can be large in
    pictures.

    Args:
        model: Model with the autoencoder and the preset.
        denoiser: The model's denoiser, or a copy of it with adapters.
        tokens: Tokens of the scene.
        target: Latents and cameras of the clips, relative to the reference view of the tokens.
        images: Photographs of the clips.
        draws: Random numbers of the step. Elements without pure noise continue from clean views.
        generator: Random generator on the device, for the choice of the pictures.
    """
    if not renders_in_one_step(model):
        return refinement_loss(denoiser, tokens, target, draws)
    latents, clean = target.latents, model.preset.sampler.clean_targets
    batch, count = latents.shape[:2]
    behind = (draws.time[:, :1] < 1) & (torch.arange(count, device=latents.device) < clean)
    time = torch.ones_like(draws.time).masked_fill(behind, 0.0)
    noisy = interpolate(latents, draws.noise, time)
    state = denoiser.project(tokens.expand(batch, -1, -1))
    velocity = denoiser(noisy, target.cameras, network_time(time), state)
    error = (velocity.float() - velocity_target(latents, draws.noise).float()).square().mean(dim=(2, 3, 4))
    flow = error.masked_fill(behind, 0.0).sum() / (~behind).sum()
    place = clean + torch.randint(count - clean, (batch,), generator=generator, device=generator.device)
    rows = torch.arange(batch, device=latents.device)
    estimate = (noisy - velocity.float())[rows, place]
    decoded = model.target_autoencoder.decode(estimate[:, None])[:, 0]
    picture = codec_loss(decoded * 2 - 1, images[rows, place].float() / 127.5 - 1)
    return LossOutput(flow + PICTURE_WEIGHT * picture, {"flow": flow.detach(), "picture": picture.detach()})


def refine_scene(
    model: SceneTok,
    tokens: SceneTokens,
    images: UInt8[Tensor, "v 3 side side"],
    cameras: CameraBatch,
    options: RefineOptions = RefineOptions(),
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[SceneTok, SceneTokens]:
    """Optimise tokens, and low-rank adapters of the denoiser, with the flow-matching loss on a scene's photographs.

    A target clip is as many photographs as a window has latents, drawn at random; each fills all frames of its latent.

    Args:
        model: Its weights stay as they are.
        tokens: The scene, encoded by `model`.
        images, cameras: Photographs and their cameras: a batch of one, in units of the capture.
        on_step: Progress, called as on_step(done, total).

    Returns:
        A model that shares all but the denoiser with `model`, and its tokens of the scene.
    """
    preset, device = model.preset, model.device
    layout, views = latent_space(preset.target_autoencoder).layout, preset.data.views
    latent_of = [layout.latent_of(frame) for frame in range(layout.num_frames(views.num_target_latents))]
    scaled = scaled_poses(cameras.c2w[0].float(), tokens.pose_scale)
    clips = Clips(images.to(device), scaled.to(device), cameras.intrinsics[0].to(device))
    reference = scaled_poses(tokens.reference_c2w[None].to(device), tokens.pose_scale)
    denoiser = deepcopy(model.denoiser).requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        adapters = LowRankAdapters(denoiser, options.rank).to(device)
    adapters.enabled = True
    learned = nn.Parameter(tokens.mean.detach().float().clone().to(device))
    optimizer = torch.optim.AdamW(
        [
            {"params": [learned], "lr": options.tokens_rate},
            {"params": list(adapters.parameters()), "lr": options.adapters_rate},
        ],
        weight_decay=0.0,
    )
    loss = TrainingLoss(model, options.seed)
    draws = seeded_generator(options.seed)
    noise = torch.Generator(device).manual_seed(options.seed)
    # Without the cache of casts: inside another autocast (a trainer's, even a disabled one), it would outlive a
    # step, and all steps would run with the first step's adapters.
    bfloat = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda", cache_enabled=False)
    for step in range(options.steps):
        shape = options.batch_size, views.num_target_latents
        chosen = torch.randint(len(images), shape, generator=draws)[:, latent_of].to(device)
        with bfloat:
            target = loss.latents(clips.map(lambda values, chosen=chosen: values[chosen]), 1, role="target")  # type: ignore[misc]
            target = target.relative_to(reference.expand(len(chosen), 4, 4))
            drawn = draw_scenetok(
                noise,
                preset.training,
                num_context=1,
                tokens=(1, *learned.shape),
                latents=tuple(target.latents.shape),  # type: ignore[arg-type]
                splits=1,
                device=device,
            )
            found = scene_loss(model, denoiser, learned, target, clips.images[chosen], drawn, noise).loss  # type: ignore[index]
        optimizer.zero_grad(set_to_none=True)
        found.backward()
        nn.utils.clip_grad_norm_([learned, *adapters.parameters()], 1.0)
        for group in optimizer.param_groups:
            group["lr"] *= 0.2 if step == options.steps * 2 // 3 else 1.0
        optimizer.step()
        on_step(step + 1, options.steps)
    refined = copy(model)
    refined._modules = {**model._modules, "denoiser": adapters.merged(denoiser)}
    return refined, replace(tokens, mean=learned.detach(), logvar=None)
