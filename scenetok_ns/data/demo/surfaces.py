"""Albedo of surfaces in procedural rooms: cells, lines between them, fine patterns of waves."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from scenetok_ns.data.demo.rooms import DECALS_PER_FACE, MATERIAL_SLICES, NUM_FACES, NUM_OBJECTS, RoomBatch

FINEST_WAVE = 0.4
"""Waves per pixel at which a fine pattern has faded away; fading starts at half of this."""
PIXEL = 0.01
"""Assumed width of a pixel at a depth of one metre, in metres, for the fading of patterns (128 pixels across)."""


def look_up(table: Float[Tensor, "n rows columns"], row: Int[Tensor, "n rays"]) -> Float[Tensor, "n columns rays"]:
    """Look up a row of a table for each ray; every column of the result is contiguous."""
    columns = table.shape[-1]
    return table.transpose(1, 2).gather(2, row[:, None].expand(-1, columns, -1))


def field(look: Float[Tensor, "n material rays"], name: str) -> Float[Tensor, "n width rays"]:
    return look[:, MATERIAL_SLICES[name]]


def length(vector: Float[Tensor, "n 3 rays"]) -> Float[Tensor, "n rays"]:
    """Norm over dim -2. For a dimension that is not the last, this is much faster than torch's norm."""
    x, y, z = vector.unbind(dim=-2)
    return (x * x + y * y + z * z).sqrt()


def covering_decal(
    rooms: RoomBatch,
    surface: Int[Tensor, "n rays"],
    u: Float[Tensor, "n rays"],
    v: Float[Tensor, "n rays"],
    u_middle: Float[Tensor, "n rays"],
    v_low: Float[Tensor, "n rays"],
) -> tuple[Int[Tensor, "n rays"], Float[Tensor, "n rays"], Float[Tensor, "n rays"]]:
    """Replace faces of the room with the last decal on them that covers (u, v).

    Returns the surfaces, and the middle along u and lower edge along v of each.
    """
    face = (surface - NUM_OBJECTS).clamp_min(0)
    rects = look_up(rooms.decal_rect.flatten(2), face).unflatten(1, (DECALS_PER_FACE, 4))
    inside = (u[:, None] - rects[:, :, 0]).abs() < rects[:, :, 2]
    inside &= (v[:, None] - rects[:, :, 1]).abs() < rects[:, :, 3]
    inside &= (surface >= NUM_OBJECTS)[:, None]
    number = torch.arange(1, DECALS_PER_FACE + 1, device=u.device)[None, :, None]
    top = (inside * number).amax(dim=1)  # 0: none
    covered = top > 0
    rect = rects.gather(1, (top - 1).clamp_min(0)[:, None, None].expand(-1, 1, 4, -1))[:, 0]
    decal = NUM_OBJECTS + NUM_FACES + face * DECALS_PER_FACE + top - 1
    return (
        torch.where(covered, decal, surface),
        torch.where(covered, rect[:, 0], u_middle),
        torch.where(covered, rect[:, 1] - rect[:, 3], v_low),
    )


def surface_color(
    look: Float[Tensor, "n material rays"],
    u: Float[Tensor, "n rays"],
    v: Float[Tensor, "n rays"],
    depth: Float[Tensor, "n rays"],
    horizontal: Bool[Tensor, "n rays"],
) -> tuple[Float[Tensor, "n 3 rays"], Bool[Tensor, "n 1 rays"], Float[Tensor, "n rays"], Float[Tensor, "n rays"]]:
    """Albedo of a material at a point of its surface.

    Args:
        look: Materials.
        u: Distance from the middle of the surface in metres.
        v: Distance from its lower edge in metres.
        depth: Distance from the camera in metres; fine patterns fade with it.
        horizontal: Whether the surface is horizontal.

    Returns:
        Albedo, whether the point is on a line between two cells, and the place (x, y) in the cell, from 0 to 1.
    """
    cell_u, cell_v = field(look, "cell_u")[:, 0], field(look, "cell_v")[:, 0]
    row = torch.floor(v / cell_v)
    across = u / cell_u + field(look, "shift_u")[:, 0]
    column = torch.floor(across)
    x, y = across - column, v / cell_v - row
    number = 2.4 * column + 4.1 * row
    tone = 0.5 + 0.5 * torch.sin(number)
    disc = (1.5 - 4.5 * ((x - 0.5).square() + (y - 0.5).square()).sqrt()).clamp(0, 1)
    mix = field(look, "tone")[:, 0] * tone + field(look, "gradient")[:, 0] * y + field(look, "disc")[:, 0] * disc
    pattern = ~(horizontal & (field(look, "sides_only")[:, 0] > 0))
    mix = (mix.clamp(0, 1) * pattern)[:, None]
    color = torch.lerp(field(look, "color_a"), field(look, "color_b"), mix)
    color = (color * waves(look, u, v, depth, number)[:, None]).clamp(0, 1)
    half_gap = field(look, "gap")[:, 0] / 2
    edge = torch.minimum(torch.minimum(x, 1 - x) * cell_u, torch.minimum(y, 1 - y) * cell_v)
    in_gap = ((edge < half_gap) & pattern)[:, None]
    return torch.where(in_gap, field(look, "color_gap"), color), in_gap, x, y


def waves(
    look: Float[Tensor, "n material rays"],
    u: Float[Tensor, "n rays"],
    v: Float[Tensor, "n rays"],
    depth: Float[Tensor, "n rays"],
    number: Float[Tensor, "n rays"],
) -> Float[Tensor, "n rays"]:
    """Brightness factor of the fine pattern; exactly 1 where its waves are too fine for the camera.

    number: phase in radians, which differs between neighbouring cells (planks, tiles).
    """
    share, per_u, per_v, bend, product = (
        field(look, name)[:, 0] for name in ("grain", "grain_u", "grain_v", "grain_bend", "grain_product")
    )
    along = torch.sin(2 * torch.pi * per_v * v + number)
    across = torch.sin(2 * torch.pi * per_u * u + bend * along + number)
    finest = torch.maximum(per_u, per_v) * depth * PIXEL
    shown = ((FINEST_WAVE - finest) / (0.5 * FINEST_WAVE)).clamp(0, 1)
    return 1 + share * shown * torch.lerp(across, across * along, product)
