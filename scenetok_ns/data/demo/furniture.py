"""Furniture as tables: every piece is up to four boxes in units of the piece's own width, depth and height."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

PARTS_PER_PIECE = 4
ROLES = ("wood", "wood_dark", "main", "accent", "white", "dark", "books")
"""Roles of a part's colour; every room has one colour for each role."""

GRAINS = {
    "wood": (0.16, 8.0, 0.7, 1.5, 0.0),
    "wood_dark": (0.16, 8.0, 0.7, 1.5, 0.0),
    "main": (0.12, 5.0, 5.0, 0.4, 1.0),
    "accent": (0.14, 4.0, 3.0, 0.8, 1.0),
}
"""Fine pattern of parts of a role: grain, grain_u, grain_v, grain_bend and grain_product of `rooms.MATERIAL_FIELDS`."""


@dataclass(frozen=True)
class Part:
    """A box: middle and half size (along the wall, away from it, up) in units of the piece, and its material."""

    middle: tuple[float, float, float]
    half: tuple[float, float, float]
    color: str
    color_b: str = ""
    cells: tuple[int, int] = (1, 1)
    gap: float = 0.0
    tone: float = 0.0
    gradient: float = 0.0


@dataclass(frozen=True)
class Piece:
    """A piece of furniture.

    size: smallest and largest width (along the wall), depth and height in metres. solid: share of the height that
    casts shadows.
    """

    size: tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
    parts: tuple[Part, ...]
    solid: float = 1.0


PIECES: dict[str, Piece] = {
    "bed": Piece(
        ((1.5, 2.0), (1.9, 2.15), (1.05, 1.3)),
        (
            Part((0, 0.5, 0.12), (0.5, 0.5, 0.12), "wood"),
            Part((0, 0.52, 0.34), (0.49, 0.47, 0.12), "main", "accent", gradient=0.25),
            Part((0, 0.02, 0.5), (0.52, 0.03, 0.5), "wood", "wood_dark", cells=(2, 1), gap=0.05),
            Part((0, 0.15, 0.5), (0.42, 0.09, 0.06), "white", cells=(2, 1), gap=0.05),
        ),
        solid=0.45,
    ),
    "sofa": Piece(
        ((1.8, 2.4), (0.85, 1.0), (0.8, 0.95)),
        (
            Part((0, 0.55, 0.25), (0.5, 0.45, 0.25), "main", cells=(2, 1), gap=0.04),
            Part((0, 0.14, 0.5), (0.5, 0.14, 0.5), "main", cells=(2, 1), gap=0.04),
            Part((-0.46, 0.5, 0.36), (0.05, 0.5, 0.36), "main"),
            Part((0.46, 0.5, 0.36), (0.05, 0.5, 0.36), "main"),
        ),
        solid=0.6,
    ),
    "armchair": Piece(
        ((0.85, 1.05), (0.8, 0.9), (0.8, 0.95)),
        (
            Part((0, 0.55, 0.25), (0.5, 0.45, 0.25), "accent"),
            Part((0, 0.15, 0.5), (0.5, 0.15, 0.5), "accent"),
            Part((-0.42, 0.5, 0.33), (0.09, 0.5, 0.33), "accent"),
            Part((0.42, 0.5, 0.33), (0.09, 0.5, 0.33), "accent"),
        ),
        solid=0.6,
    ),
    "desk": Piece(
        ((1.3, 1.8), (0.6, 0.75), (0.72, 0.78)),
        (
            Part((0, 0.5, 0.95), (0.5, 0.5, 0.05), "wood"),
            Part((-0.45, 0.5, 0.45), (0.04, 0.45, 0.45), "wood_dark"),
            Part((0.33, 0.5, 0.45), (0.15, 0.45, 0.45), "wood", cells=(1, 3), gap=0.04),
            Part((-0.05, 0.25, 1.25), (0.2, 0.04, 0.25), "dark", "main", gradient=0.3),
        ),
    ),
    "dresser": Piece(
        ((1.2, 1.7), (0.45, 0.55), (0.75, 0.95)),
        (
            Part((0, 0.5, 0.48), (0.5, 0.5, 0.48), "wood", "wood_dark", cells=(2, 3), gap=0.04, tone=0.15),
            Part((0, 0.5, 0.98), (0.52, 0.52, 0.03), "wood_dark"),
            Part((-0.3, 0.45, 1.1), (0.1, 0.25, 0.1), "accent"),
            Part((0.3, 0.4, 1.16), (0.05, 0.2, 0.16), "white"),
        ),
    ),
    "television": Piece(
        ((1.6, 2.1), (0.4, 0.5), (0.45, 0.55)),
        (
            Part((0, 0.5, 0.5), (0.5, 0.5, 0.5), "wood", cells=(3, 1), gap=0.04),
            Part((0, 0.3, 1.95), (0.34, 0.06, 0.78), "dark", "main", gradient=0.15),
            Part((-0.42, 0.5, 1.25), (0.05, 0.25, 0.25), "white"),
            Part((0.42, 0.5, 1.35), (0.05, 0.25, 0.35), "accent"),
        ),
    ),
    "wardrobe": Piece(
        ((1.3, 1.9), (0.55, 0.62), (1.95, 2.2)),
        (
            Part((0, 0.5, 0.53), (0.5, 0.48, 0.47), "wood", "wood_dark", cells=(2, 1), gap=0.05, gradient=0.2),
            Part((0, 0.5, 0.03), (0.5, 0.45, 0.03), "dark"),
            Part((-0.06, 1.0, 0.5), (0.012, 0.03, 0.08), "dark"),
            Part((0.06, 1.0, 0.5), (0.012, 0.03, 0.08), "dark"),
        ),
    ),
    "bookshelf": Piece(
        ((1.1, 1.7), (0.32, 0.4), (1.7, 2.1)),
        (
            Part((0, 0.45, 0.5), (0.5, 0.45, 0.5), "books", "accent", cells=(3, 5), gap=0.06, tone=0.7),
            Part((-0.5, 0.5, 0.5), (0.03, 0.52, 0.5), "wood"),
            Part((0.5, 0.5, 0.5), (0.03, 0.52, 0.5), "wood"),
            Part((0, 0.5, 1.0), (0.53, 0.52, 0.02), "wood"),
        ),
    ),
    "low_shelf": Piece(
        ((1.2, 1.8), (0.35, 0.42), (0.75, 1.0)),
        (
            Part((0, 0.45, 0.48), (0.5, 0.45, 0.48), "books", "main", cells=(4, 2), gap=0.06, tone=0.6),
            Part((0, 0.5, 0.98), (0.52, 0.52, 0.03), "wood"),
            Part((-0.3, 0.5, 1.2), (0.08, 0.3, 0.2), "white"),
            Part((0.25, 0.5, 1.12), (0.12, 0.3, 0.12), "accent"),
        ),
    ),
    "bench": Piece(
        ((1.1, 1.6), (0.4, 0.5), (0.42, 0.5)),
        (
            Part((0, 0.5, 0.4), (0.5, 0.5, 0.4), "wood", cells=(2, 1), gap=0.04),
            Part((0, 0.5, 0.9), (0.49, 0.5, 0.12), "accent"),
        ),
    ),
    "kitchen": Piece(
        ((1.6, 2.2), (0.58, 0.65), (2.0, 2.2)),
        (
            Part((0, 0.5, 0.21), (0.5, 0.5, 0.21), "white", cells=(3, 1), gap=0.04),
            Part((0, 0.52, 0.43), (0.52, 0.54, 0.015), "wood_dark"),
            Part((-0.1, 0.28, 0.84), (0.4, 0.28, 0.16), "accent", cells=(3, 1), gap=0.04),
            Part((0.3, 0.4, 0.5), (0.1, 0.2, 0.055), "dark"),
        ),
        solid=0.45,
    ),
    "fireplace": Piece(
        ((1.2, 1.6), (0.4, 0.5), (1.1, 1.25)),
        (
            Part((-0.36, 0.5, 0.46), (0.14, 0.5, 0.46), "white"),
            Part((0.36, 0.5, 0.46), (0.14, 0.5, 0.46), "white"),
            Part((0, 0.3, 0.46), (0.26, 0.3, 0.46), "dark", "accent", gradient=0.3),
            Part((0, 0.5, 0.96), (0.58, 0.56, 0.05), "wood_dark"),
        ),
    ),
    "piano": Piece(
        ((1.35, 1.5), (0.55, 0.65), (1.1, 1.25)),
        (
            Part((0, 0.3, 0.5), (0.5, 0.3, 0.5), "wood_dark", cells=(2, 2), gap=0.03),
            Part((0, 0.75, 0.56), (0.48, 0.25, 0.05), "white", "dark", cells=(18, 1), tone=1.0),
            Part((-0.46, 0.75, 0.3), (0.04, 0.2, 0.3), "wood_dark"),
            Part((0.46, 0.75, 0.3), (0.04, 0.2, 0.3), "wood_dark"),
        ),
        solid=0.9,
    ),
    "nothing": Piece(((1.0, 1.0), (0.3, 0.3), (0.3, 0.3)), (), solid=0.0),
}

SPOTS: tuple[tuple[str, ...], ...] = (
    ("bed", "bed", "sofa", "sofa", "sofa"),
    ("desk", "dresser", "television", "low_shelf", "fireplace", "piano"),
    ("wardrobe", "bookshelf", "bookshelf", "dresser", "kitchen"),
    ("nothing", "bench", "low_shelf", "armchair", "desk"),
)
"""Pieces that can stand at each of the four walls of a room (in random order); the last one has the largest window."""


@cache
def furniture_tables() -> dict[str, Tensor]:
    """PIECES as float64 tensors with the piece as first dimension."""
    absent = Part((0, 0, 0), (0, 0, 0), "dark")
    rows = [piece.parts + (absent,) * (PARTS_PER_PIECE - len(piece.parts)) for piece in PIECES.values()]

    def table(get) -> Tensor:
        return torch.tensor([[get(part) for part in row] for row in rows], dtype=torch.float64)

    return {
        "size": torch.tensor([piece.size for piece in PIECES.values()], dtype=torch.float64),
        "solid": torch.tensor([piece.solid for piece in PIECES.values()], dtype=torch.float64),
        "middle": table(lambda part: part.middle),
        "half": table(lambda part: part.half),
        "color": table(lambda part: ROLES.index(part.color)).long(),
        "color_b": table(lambda part: ROLES.index(part.color_b or part.color)).long(),
        "cells": table(lambda part: part.cells),
        "gap": table(lambda part: part.gap),
        "tone": table(lambda part: part.tone),
        "gradient": table(lambda part: part.gradient),
        "grain": table(lambda part: GRAINS.get(part.color, (0.0, 1.0, 1.0, 0.0, 0.0))),
    }


def spot_choices(spot: int) -> Tensor:
    names = list(PIECES)
    return torch.tensor([names.index(name) for name in SPOTS[spot]])


def piece_number(name: str) -> int:
    return list(PIECES).index(name)
