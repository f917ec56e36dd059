"""Seeded starting noise: the same on every device, and for every latent on its own.

The noise of latent i depends on the seed and on i alone, so a path that is rendered again with more cameras, or from
a cache, starts its old latents where they started before.
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
    """Standard normal noise of the latents first ... first + num_latents - 1, float32 on the CPU.

    Args:
        seed: any integer for each batch element; a single one is a batch of one.
        shape: [c, h, w] of one latent.
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
