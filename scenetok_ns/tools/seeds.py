"""Random numbers from seeds: any integer is a valid seed, and different integers give different numbers.

torch's CPU generator reads only 32 bits of its seed, so -1, 2**32 - 1 and 2**64 - 1 would be the same seed. Here
integers from 0 to 2**32 - 1 are used unchanged, and all others are hashed with SHA-256 first.
"""

from __future__ import annotations

import hashlib

import torch

_MASK_32, _MASK_64 = (1 << 32) - 1, (1 << 64) - 1


def seeded_generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Generator for a seed that a user gave."""
    return torch.Generator(device).manual_seed(word(seed))


def named_generator(*names: object) -> torch.Generator:
    """Generator whose seed depends only on these names: the same in every run and shard, in any order of work."""
    return torch.Generator().manual_seed(named_seed(*names) >> 1)


def named_seed(*names: object) -> int:
    """Seed of 64 bits that depends only on these names."""
    return _digest("/".join(map(str, names)))


def mix(*numbers: int) -> int:
    """Seed of 63 bits from several integers, such as a user's seed, a rank and a step."""
    value = 0x9E3779B97F4A7C15
    for number in numbers:
        value = (value ^ word(number, 64)) * 0xBF58476D1CE4E5B9 & _MASK_64
        value ^= value >> 31
    return value & 0x7FFFFFFFFFFFFFFF


def indexed_seed(seed: int, index: int) -> int:
    """Seed of 32 bits for item `index` of a series. Different indices below 2**32 never give the same seed.

    The reason: multiplying the index by an odd number and `_scramble` are both one-to-one on 32 bits.
    """
    return _scramble((_scramble(word(seed)) + index * 0x9E3779B1) & _MASK_32)


def word(seed: int, bits: int = 32) -> int:
    """Return the seed itself if it is an unsigned number of `bits` bits, else `bits` bits of its digest."""
    return seed if 0 <= seed < 1 << bits else _digest(f"seed {seed}") >> (64 - bits)


def _digest(text: str) -> int:
    """First 64 bits of the SHA-256 of a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def _scramble(x: int) -> int:
    """Finaliser of MurmurHash3: one-to-one on 32 bits, and close inputs give very different outputs."""
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & _MASK_32
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & _MASK_32
    return x ^ (x >> 16)
