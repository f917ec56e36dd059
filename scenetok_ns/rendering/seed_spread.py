"""Uncertainty of models that are made to render in a single step: how much pictures of different seeds differ.

In other models, the last change of the latents shows where several pictures fit the tokens. A single step changes
everything, so its map is noise; models that were finished for one step also give noise with more steps. Over 12
held-out views of three rooms, the rank correlation with the true error (over 5 x 5 pixels) was, for the bundled model
with 1, 3 and 8 steps:

    last change of the latents    0.09   -0.04   -0.10
    doubt of the depth head       0.24    0.24    0.25
    spread of three seeds         0.56    0.62    0.62
    spread of six seeds           0.63    0.68    0.69
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.flow.sampling import OnStep
from scenetok_ns.models.presets import Preset, SamplerConfig
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.models.tokens import SceneTokens

SEEDS = 4
"""Number of seeds: the picture's own and the following ones."""
FULL_SPREAD = 0.05
"""Standard deviation of colours in [0, 1] that counts as an uncertainty of 1."""


def is_by_seeds(preset: Preset, sampler: SamplerConfig) -> bool:
    """Whether the uncertainty of pictures is the spread of seeds instead of the last change of the latents."""
    return min(preset.sampler.steps, sampler.steps) == 1


def spread(pictures: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "h w"]:
    """Compute the spread of pictures of one view: their standard deviation, averaged over the colours, divided by
    `FULL_SPREAD`. The result is about 0 to 1."""
    return pictures.float().clamp(0, 1).std(dim=0).mean(dim=0) / FULL_SPREAD


@torch.no_grad()
def render_spread(
    networks: SceneTok,
    tokens: SceneTokens,
    camera: CameraBatch,
    *,
    seed: int,
    sampler: SamplerConfig,
    count: int = SEEDS,
    on_step: OnStep | None = None,
) -> Float[Tensor, "side side"]:
    """Render one camera with several seeds, each alone, and return the spread of the pictures.

    Args:
        networks: Model that renders.
        tokens: Tokens of the scene.
        camera: A batch of one camera, in units of the capture.
        seed: First of `count` consecutive seeds.
        sampler: Sampler for the pictures.
        count: Number of seeds, at least 2.
        on_step: Progress; an exception ends the rendering.
    """
    here = camera.to(networks.device)
    seeds = range(seed, seed + count)
    windows = networks.render_many(
        [tokens] * count, [here] * count, seeds=list(seeds), sampler=sampler, on_step=on_step
    )
    return spread(next(windows).frames[:, 0])
