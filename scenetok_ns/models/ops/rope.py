"""Rotary position embedding over image grids (2D) and windows of latents (3D), on interleaved pairs of dimensions."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

THETA = 10_000.0

RotaryTable = tuple[Float[Tensor, "length d"], Float[Tensor, "length d"]]
"""Cosine and sine for each position and head dimension, float32; dimensions 2i and 2i+1 hold the same angle."""


def apply_rotary(x: Float[Tensor, "b heads length d"], table: RotaryTable) -> Float[Tensor, "b heads length d"]:
    """Rotate each pair (x[2i], x[2i+1]) by its position's angle. Computes in float32, returns the dtype of `x`."""
    cos, sin = table
    pairs = x.float().unflatten(-1, (-1, 2))
    quarter_turn = torch.stack((-pairs[..., 1], pairs[..., 0]), dim=-1).flatten(-2)
    return (pairs.flatten(-2) * cos + quarter_turn * sin).to(x.dtype)


def axis_angles(length: int, dim: int, device: torch.device | str | None = None) -> Float[Tensor, "length dim"]:
    """Angles of one axis: position * 10000^(-2i/dim) for both dimensions of pair i, with positions from 0."""
    frequencies = 1.0 / THETA ** (torch.arange(0, dim, 2, device=device, dtype=torch.float32) / dim)
    angles = torch.arange(length, device=device, dtype=torch.float32)[:, None] * frequencies
    return angles.repeat_interleave(2, dim=-1)


def grid_angles(
    sizes: tuple[int, ...], dims: tuple[int, ...], device: torch.device | str | None = None
) -> Float[Tensor, "positions dim"]:
    """Angles of a row-major grid of `sizes`; axis k owns `dims[k]` consecutive head dimensions."""
    parts = []
    for axis, (size, dim) in enumerate(zip(sizes, dims, strict=True)):
        shape = [1] * len(sizes) + [dim]
        shape[axis] = size
        parts.append(axis_angles(size, dim, device).view(shape).expand(*sizes, dim))
    return torch.cat(parts, dim=-1).flatten(0, -2)


def split_head_dim(head_dim: int) -> tuple[int, int, int]:
    """Split head dimensions among the axes (time, row, column), as evenly as whole pairs allow.

    Rows and columns get the same number: 64 -> 20, 22, 22; 48 -> 16, 16, 16 (parity README, c03).
    """
    pairs = _pairs(head_dim, 2)
    third, rest = divmod(pairs, 3)
    spatial = third + (rest == 2)
    return 2 * (third + (rest == 1)), 2 * spatial, 2 * spatial


def angles_2d(
    head_dim: int, grid: tuple[int, int], device: torch.device | str | None = None
) -> Float[Tensor, "positions d"]:
    """Angles of a grid: the first half of the head dimensions from the row, the second half from the column."""
    half = _pairs(head_dim, 4) * 2
    return grid_angles(grid, (half, half), device)


def angles_3d(
    head_dim: int, num_latents: int, grid: tuple[int, int], device: torch.device | str | None = None
) -> Float[Tensor, "positions d"]:
    """Angles of `num_latents` grids, latent by latent."""
    return grid_angles((num_latents, *grid), split_head_dim(head_dim), device)


def rotary_table(angles: Float[Tensor, "length d"], repeats: int = 1) -> RotaryTable:
    """Cosine and sine of a table of angles, repeated `repeats` times for equal consecutive parts of a sequence."""
    angles = angles.repeat(repeats, 1)
    return angles.cos(), angles.sin()


class Float32Tables(nn.Module):
    """A module with constant buffers that stay float32 when the model is cast: rounded angles would shift rotations."""

    def fill_tables(self) -> None:
        """Recompute the buffers in place, for a model that was moved from the meta device without weights."""
        raise NotImplementedError

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        exact = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, moved in self._buffers.items():
            before = exact[name]
            if moved is not None and before is not None and moved.dtype != before.dtype:
                self._buffers[name] = before.to(moved.device)
        return self


class GridRotary(Float32Tables):
    """2D table of a view's grid. It is persistent, because the released compressors have it in their state dict."""

    freqs_cos: Tensor
    freqs_sin: Tensor

    def __init__(self, head_dim: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.head_dim, self.grid = head_dim, grid
        cos, sin = rotary_table(angles_2d(head_dim, grid))
        self.register_buffer("freqs_cos", cos)
        self.register_buffer("freqs_sin", sin)

    def fill_tables(self) -> None:
        cos, sin = rotary_table(angles_2d(self.head_dim, self.grid, self.freqs_cos.device))
        self.freqs_cos.copy_(cos)
        self.freqs_sin.copy_(sin)

    def forward(self, num_views: int) -> RotaryTable:
        """Return the same table for every view, because views have no order."""
        return self.freqs_cos.repeat(num_views, 1), self.freqs_sin.repeat(num_views, 1)


def _pairs(head_dim: int, multiple: int) -> int:
    if head_dim % multiple:
        raise ValueError(f"rotary embedding: head dimension {head_dim} is not a multiple of {multiple}")
    return head_dim // multiple
