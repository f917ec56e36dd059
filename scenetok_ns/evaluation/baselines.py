"""What a model's figures must be compared with, on the same views: pictures made without it, and wrong tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int64
from rich.progress import track
from torch import Tensor

from scenetok_ns.data.poses import pose_distances
from scenetok_ns.metrics import picture_metrics
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.tokens import SceneTokens

if TYPE_CHECKING:
    from scenetok_ns.scenetok_datamanager import SceneTokDataManager
    from scenetok_ns.scenetok_model import SceneTokModel

BASELINES = ("mean_colour", "nearest_view", "other_tokens", "noise_tokens")


@torch.no_grad()
def compare_with_baselines(
    model: SceneTokModel, datamanager: SceneTokDataManager, scenes: Sequence[int]
) -> dict[str, float]:
    """Metrics of each baseline as `<metric>_<baseline>`, averaged over all target views of `scenes`.

    mean_colour: the mean colour of the scene's context views. nearest_view: the nearest context view
    (`nearest_view`).
    other_tokens: the model given the tokens of the next scene (left out if there is only one scene).
    noise_tokens: the model given the scene's tokens with all their numbers shuffled.
    """
    values: dict[str, list[Tensor]] = {}
    for place, number in enumerate(track(scenes, description="Baselines", transient=True)):
        context, target = datamanager.context_views(number), datamanager.target_views(number)
        truth = target.images.to(model.device).float() / 255
        shown = context.images.to(model.device).float() / 255
        cameras = CameraBatch(target.c2w[None], target.intrinsics[None])
        own = model.tokens_of(number)
        pictures = {
            "mean_colour": shown.mean(dim=(0, 2, 3), keepdim=True).expand_as(truth),
            "nearest_view": shown[nearest_view(context.c2w, target.c2w).to(shown.device)],
            "noise_tokens": model.render_tokens(shuffled(own, seed=number), cameras),
        }
        if len(scenes) > 1:
            other = model.tokens_of(scenes[(place + 1) % len(scenes)])
            pictures["other_tokens"] = model.render_tokens(foreign(other, own), cameras)
        for baseline, pred in pictures.items():
            for metric, value in picture_metrics(pred=pred, target=truth).items():
                values.setdefault(f"{metric}_{baseline}", []).append(value)
    return {name: float(torch.cat(parts).mean()) for name, parts in values.items()}


def nearest_view(context: Float[Tensor, "c 4 4"], target: Float[Tensor, "t 4 4"]) -> Int64[Tensor, " t"]:
    """For each target camera the context camera nearest in position and angle (`pose_distances`).

    Published evaluation indices count context views among the targets: such a target takes the nearest other view,
    since copying it onto itself would say nothing.
    """
    distances = pose_distances(torch.cat([target, context]))[: len(target), len(target) :]
    itself = (target[:, None] == context[None]).all(dim=(2, 3))
    return distances.masked_fill(itself, torch.inf).argmin(dim=1)


def foreign(tokens: SceneTokens, scene: SceneTokens) -> SceneTokens:
    """`tokens` in the place of `scene`'s: rendered from the same cameras relative to the same reference."""
    return replace(scene, mean=tokens.mean, logvar=tokens.logvar)


def shuffled(tokens: SceneTokens, seed: int) -> SceneTokens:
    """The tokens with all their numbers in random places: the same values, no scene."""
    order = torch.randperm(tokens.mean.numel(), generator=torch.Generator().manual_seed(seed))
    mean = tokens.mean.flatten()[order.to(tokens.mean.device)].view_as(tokens.mean)
    return replace(tokens, mean=mean, logvar=None)
