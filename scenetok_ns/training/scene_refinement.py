"""Refinement of one scene's tokens on its photographs: any number of them, in any order."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy, deepcopy
from dataclasses import dataclass, replace

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from scenetok_ns.data.training_batches import Clips
from scenetok_ns.models.autoencoders.registry import latent_space
from scenetok_ns.models.cameras import CameraBatch, scaled_poses
from scenetok_ns.models.flow.draws import draw_scenetok
from scenetok_ns.models.flow.losses import refinement_loss
from scenetok_ns.models.networks.adapters import LowRankAdapters
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.models.tokens import SceneTokens
from scenetok_ns.tools.seeds import seeded_generator
from scenetok_ns.training.loss import TrainingLoss


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
    bfloat = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
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
            found = refinement_loss(denoiser, learned, target, drawn).loss
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
