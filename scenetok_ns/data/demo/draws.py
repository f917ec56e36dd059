"""Random numbers and colours of procedural rooms."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

DRAWS_PER_ROOM = 420


def linear_rgb(*codes: str) -> Float[Tensor, "colors 3"]:
    """Convert hexadecimal display colours to linear RGB."""
    display = [[int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)] for code in codes]
    return torch.tensor(display, dtype=torch.float64) ** 2.2


PALETTES = {
    "wall": linear_rgb(
        "e9e2d3", "dfe3e4", "c4cfb8", "aebfcb", "d8bfa6", "cf9f86", "8ea18b", "7a93a8", "e6d4a0", "b7a3a8"
    ),
    "accent_wall": linear_rgb("3f5d73", "7c4a42", "4f6a52", "b0793a", "8d8f95", "5b4a63", "c96f4a", "2f4858"),
    "ceiling": linear_rgb("f6f4ee", "eeeeee", "f3eadb"),
    "floor": linear_rgb("b5895b", "6b4630", "cdb48f", "8e8f8c", "40322a", "a4623f", "b3a48e", "66727e"),
    "wood": linear_rgb("8b5a35", "c89f6b", "4b3327", "e4dccd", "a6743c", "5d4a3f"),
    "textile": linear_rgb(
        "31465f", "7b2f33", "c9a13b", "4e6b4a", "d8d0c2", "85888c", "b3563b", "2c696f", "cf9298", "4b3b57", "2b2d31"
    ),
    "rug": linear_rgb("8c3f3a", "3f5573", "d6c7a8", "5b6b55", "c08a4e", "4a4448", "b7b2aa"),
    "curtain": linear_rgb("e6dfd0", "a8463f", "4d6a80", "7d8a62", "c9b08a", "8a7f8f"),
    "ground": linear_rgb("5e7446", "8a8577", "6f6a60", "94a070"),
    "front": linear_rgb("4f6b3c", "7d6a55", "9a8f80", "56705a", "a2765c", "6b7684"),
    "sky": linear_rgb("8fb8e0", "b9cfe2", "d6dde2", "7fa6d6"),
}
"""Colours of paint, floors and upholstery."""


class Draws:
    """Uniform random numbers for b rooms, handed out in order. Each room's numbers come from its own seed."""

    def __init__(self, seeds: Sequence[int]) -> None:
        streams = [np.random.Generator(np.random.PCG64(seed)).random(DRAWS_PER_ROOM) for seed in seeds]
        self._values = torch.from_numpy(np.stack(streams))
        self._used = 0

    def uniform(self, low: float | Tensor, high: float | Tensor, *shape: int) -> Float[Tensor, " b *shape"]:
        count = math.prod(shape)
        if self._used + count > DRAWS_PER_ROOM:
            raise RuntimeError(f"a room needs more than {DRAWS_PER_ROOM} numbers: raise DRAWS_PER_ROOM")
        values = self._values[:, self._used : self._used + count].reshape(-1, *shape)
        self._used += count
        return low + (high - low) * values

    def chance(self, probability: float) -> Bool[Tensor, " b"]:
        return self.uniform(0, 1) < probability

    def sign(self) -> Float[Tensor, " b"]:
        return self.chance(0.5) * 2.0 - 1.0

    def choice(self, table: Tensor) -> Tensor:
        """Draw one row of `table` for each room."""
        return table[(self.uniform(0, 1) * len(table)).long()]

    def color(self, palette: str) -> Float[Tensor, "b 3"]:
        """Draw a colour near one of a palette."""
        color = self.choice(PALETTES[palette])
        color = torch.lerp(color, color.mean(dim=1, keepdim=True), 0.15)
        return (color * self.uniform(0.85, 1.15)[:, None] * self.uniform(0.94, 1.06, 3)).clamp(0.01, 0.95)
