"""Seeded starting noise: the same on every device, and for every latent on its own.

The noise of latent i depends only on the seed and on i. A path that is rendered again with more cameras, or from a
cache, therefore starts its earlier latents from the same noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from scenetok_ns.tools.seeds import indexed_seed

_TOKEN_STREAM = 1 << 31
"""Latents count from 0, so a scene's token noise has a number that no latent reaches."""


def latent_noise(
    seed: int | Sequence[int], num_latents: int, shape: tuple[int, ...], *, first: int = 0
) -> Float[Tensor, "b num_latents *shape"]:
    """Draw standard normal noise for the latents first ... first + num_latents - 1, float32 on the CPU.

    Args:
        seed: Any integer for each batch element; a single integer is a batch of one.
        shape: Shape [c, h, w] of one latent.
    """
    seeds = [seed] if isinstance(seed, int) else seed
    indices = range(first, first + num_latents)
    return torch.stack([torch.stack([_normal(s, i, shape) for i in indices]) for s in seeds])


def token_noise(seed: int | Sequence[int], num_tokens: int, dim: int) -> Float[Tensor, "b num_tokens dim"]:
    """Standard normal noise for scene tokens, float32 on the CPU; unrelated to the latents' noise of the same seed."""
    seeds = [seed] if isinstance(seed, int) else seed
    return torch.stack([_normal(s, _TOKEN_STREAM, (num_tokens, dim)) for s in seeds])


def _normal(seed: int, index: int, shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(indexed_seed(seed, index))
    return torch.randn(shape, generator=generator)
