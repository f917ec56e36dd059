"""Seeds from numbers and names"""

from __future__ import annotations

import hashlib

import torch


def mix(*numbers: int) -> int:
    """A seed of 63 bits from whole numbers; unlike numbers give unlike seeds."""
    value = 0x9E3779B97F4A7C15
    for number in numbers:
        value = (value ^ (number & 0xFFFFFFFFFFFFFFFF)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        value ^= value >> 31
    return value & 0x7FFFFFFFFFFFFFFF


def named_generator(*names: object) -> torch.Generator:
    """Random numbers that follow from these names alone: the same in every run, shard and order of work."""
    digest = hashlib.sha256("/".join(map(str, names)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
