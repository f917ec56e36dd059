"""Baselines on the same views: pictures created without the model, and the model with wrong tokens."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from scenetok_ns.data.scenes import Views
from scenetok_ns.models.cameras import pose_distances, scaled_poses
from scenetok_ns.models.metrics import Pictures
from scenetok_ns.models.tokens import SceneTokens
from scenetok_ns.tools.seeds import seeded_generator

BASELINES = ("mean_colour", "nearest_view", "other_tokens", "noise_tokens")
"""Names of the baselines. mean_colour: the mean colour of the scene's context views. nearest_view: the nearest context
view (see the function `nearest_view`). other_tokens: the model with the tokens of the next scene (left out if there is
only one scene). noise_tokens: the model with the scene's tokens after shuffling all their numbers."""


def copied_pictures(context: Views, target: Views, device: torch.device, pose_scale: float) -> dict[str, Pictures]:
    """Create the pictures of the baselines that need no model. See `nearest_view` for `pose_scale`."""
    shown = context.images.to(device).float() / 255
    return {
        "mean_colour": mean_colour(shown, len(target.images)),
        "nearest_view": shown[nearest_view(context.c2w, target.c2w, pose_scale).to(device)],
    }


def mean_colour(context: Float[Tensor, "*b v 3 h w"], count: int) -> Float[Tensor, "*b n 3 h w"]:
    """Create `count` pictures in the mean colour of each scene's context views."""
    mean = context.mean(dim=(-4, -2, -1), keepdim=True)
    return mean.expand(*context.shape[:-4], count, *context.shape[-3:])


def nearest_view(
    context: Float[Tensor, "c 4 4"], target: Float[Tensor, "t 4 4"], pose_scale: float
) -> Int64[Tensor, " t"]:
    """Find for each target camera the context camera nearest in position and angle (`pose_distances`).

    Distances are weighed against angles. Positions are therefore multiplied by `pose_scale`, the factor from capture
    units to training units, so that the same capture in other units has the same nearest views.

    Published evaluation indices also have context views among the targets. For such a target, the nearest other view is
    used, because copying a view onto itself is meaningless.
    """
    poses = scaled_poses(torch.cat([target, context]), pose_scale)
    distances = pose_distances(poses)[: len(target), len(target) :]
    itself = (target[:, None] == context[None]).all(dim=(2, 3))
    return distances.masked_fill(itself, torch.inf).argmin(dim=1)


def swap_tokens(tokens: SceneTokens, scene: SceneTokens) -> SceneTokens:
    """Return `scene` with the tokens of `tokens`, to render them from the same cameras and the same reference."""
    return replace(scene, mean=tokens.mean, logvar=tokens.logvar)


def shuffled(tokens: SceneTokens, seed: int) -> SceneTokens:
    """Return tokens with the same numbers in random places, which represent no scene."""
    order = torch.randperm(tokens.mean.numel(), generator=seeded_generator(seed))
    mean = tokens.mean.flatten()[order.to(tokens.mean.device)].view_as(tokens.mean)
    return replace(tokens, mean=mean, logvar=None)
