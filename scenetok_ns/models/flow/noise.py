"""Seeded starting noise: the same on every device, and for every latent on its own.

The noise of latent i depends on the seed and on i alone, so a path that is rendered again with more cameras, or from
a cache, starts its old latents where they started before.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

_MASK = 0xFFFFFFFF
_TOKEN_STREAM = 1 << 31
"""Latents count from 0, so a scene's token noise has a number that no latent reaches."""


def latent_noise(
    seed: int | Sequence[int], num_latents: int, shape: tuple[int, ...], *, first: int = 0
) -> Float[Tensor, "b num_latents *shape"]:
    """Standard normal noise of the latents first ... first + num_latents - 1, float32 on the CPU.

    Args:
        seed: one for each batch element; a single number is a batch of one.
        shape: of one latent, [c, h, w].
    """
    seeds = [seed] if isinstance(seed, int) else seed
    indices = range(first, first + num_latents)
    return torch.stack([torch.stack([_normal(s, i, shape) for i in indices]) for s in seeds])


def token_noise(seed: int | Sequence[int], num_tokens: int, dim: int) -> Float[Tensor, "b num_tokens dim"]:
    """Standard normal noise for scene tokens, float32 on the CPU; unrelated to the latents' noise of the same seed."""
    seeds = [seed] if isinstance(seed, int) else seed
    return torch.stack([_normal(s, _TOKEN_STREAM, (num_tokens, dim)) for s in seeds])


def _normal(seed: int, index: int, shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(_mix(seed, index))
    return torch.randn(shape, generator=generator)


def _mix(seed: int, index: int) -> int:
    """32 bits from a seed and an index; different indices of one seed never collide.

    torch's CPU generator takes 32 bits of its seed. Multiplying the index by an odd number and `_scramble` are both
    one-to-one on 32 bits.
    """
    start = _scramble((seed ^ (seed >> 32)) & _MASK)
    return _scramble((start + index * 0x9E3779B1) & _MASK)


def _scramble(x: int) -> int:
    """The finaliser of MurmurHash3: one-to-one, and close inputs give unlike outputs."""
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & _MASK
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & _MASK
    return x ^ (x >> 16)
