"""Walls, floor and ceiling of procedural rooms: paint, planks, skirting, windows, curtains, doors, pictures, rugs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from scenetok_ns.data.demo.builder import Shell
from scenetok_ns.data.demo.draws import Draws
from scenetok_ns.data.demo.rooms import DECALS_PER_FACE, material

WOOD = {"grain": 0.12, "grain_u": 7.0, "grain_v": 0.6, "grain_bend": 1.4}
"""Pattern of painted or bare boards."""

NOTHING = -1.0
"""Half size of a rectangle that covers nothing."""


@dataclass(frozen=True)
class Window:
    """A window. rect: rectangle in its wall's coordinates, see RoomBatch.decal_rect."""

    spot: int
    rect: Float[Tensor, "b 4"]
    exists: Bool[Tensor, " b"]


@dataclass(frozen=True)
class Decal:
    rect: Float[Tensor, "b 4"]
    look: Float[Tensor, "b material"]


@dataclass(frozen=True)
class Faces:
    """Appearance of the six faces of the rooms, in the order -x, +x, -y, +y, floor, ceiling."""

    look: Float[Tensor, "b 6 material"]
    decal_rect: Float[Tensor, "b 6 decals 4"]
    decal_look: Float[Tensor, "b 6 decals material"]
    floor_color: Float[Tensor, "b 3"]
    windows: tuple[Window, Window]


def draw_faces(
    draws: Draws,
    shell: Shell,
    roles: dict[str, Tensor],
    positions: Float[Tensor, "b 4"],
    rug: tuple[Float[Tensor, "b 3"], Float[Tensor, "b 3"]],
) -> Faces:
    """Draw the appearance of walls, floor and ceiling.

    Args:
        draws: Random numbers.
        shell: The empty rooms.
        roles: The rooms' palettes, from `draw_roles`.
        positions: Position of each of the four pieces of furniture along its wall.
        rug: Middle and half size of the rug in the world.
    """
    paint = draw_paint(draws)
    boards = draw_skirting(draws, shell)
    small = draw_window(draws, shell, 1, (0.45, 0.7), probability=0.4)
    large = draw_window(draws, shell, 3, (0.7, 1.2), probability=0.92)
    pictures = [draw_picture(draws, shell, 0, positions[:, 0]), draw_picture(draws, shell, 1, positions[:, 1])]
    pictures[1] = Decal(torch.where(small.exists[:, None], NOTHING, pictures[1].rect), pictures[1].look)
    door = draw_door(draws, shell, roles, positions[:, 2])
    panes = [draw_panes(draws, roles, window) for window in (small, large)]
    curtains = [draw_curtains(draws, window) for window in (small, large)]
    on_walls = [
        [boards[0], pictures[0]],
        [boards[1], curtains[0], panes[0], pictures[1]],
        [boards[2], door],
        [boards[3], curtains[1], panes[1]],
    ]
    wall_rect, wall_look = stack_decals(on_walls)
    floor, floor_color = draw_floor(draws)
    ceiling = material(draws.color("ceiling"))
    flat_rect, flat_look = stack_decals([[draw_rug(draws, *rug)], []])
    spot_of_wall = shell.wall_of_spot.argsort(dim=1)
    room = torch.arange(len(paint))[:, None]
    return Faces(
        look=torch.cat([paint[room, spot_of_wall], floor[:, None], ceiling[:, None]], dim=1),
        decal_rect=torch.cat([wall_rect[room, spot_of_wall], flat_rect], dim=1),
        decal_look=torch.cat([wall_look[room, spot_of_wall], flat_look], dim=1),
        floor_color=floor_color,
        windows=(small, large),
    )


def stack_decals(
    faces: list[list[Decal]],
) -> tuple[Float[Tensor, "b faces decals 4"], Float[Tensor, "b faces decals material"]]:
    """Rectangles and materials of the decals of some faces, each face padded with decals that cover nothing."""
    first = next(decal for face in faces for decal in face)
    blank = Decal(torch.full_like(first.rect, NOTHING), torch.zeros_like(first.look))
    full = [face + [blank] * (DECALS_PER_FACE - len(face)) for face in faces]
    rect = torch.stack([torch.stack([decal.rect for decal in face], dim=1) for face in full], dim=1)
    look = torch.stack([torch.stack([decal.look for decal in face], dim=1) for face in full], dim=1)
    return rect, look


def rectangle(along: Tensor, middle: Tensor, half_width: Tensor, half_height: Tensor) -> Float[Tensor, "b 4"]:
    return torch.stack(torch.broadcast_tensors(along, middle, half_width, half_height), dim=-1)


def draw_paint(draws: Draws) -> Float[Tensor, "b 4 material"]:
    """Paint for the walls: all alike, except sometimes the first spot's wall; some rooms have broad stripes."""
    common, accent = draws.color("wall"), draws.color("accent_wall")
    colors = common[:, None].repeat(1, 4, 1)
    colors[:, 0] = torch.where(draws.chance(0.6)[:, None], accent, common)
    tone = torch.where(draws.chance(0.25), draws.uniform(0.4, 0.9), 0.0)
    stripe = draws.uniform(0.35, 0.7)[:, None]
    papered, wave = draws.chance(0.45)[:, None], draws.uniform(2.0, 4.0)[:, None]
    return material(
        colors,
        color_b=colors * 0.8,
        cell_u=stripe,
        cell_v=10.0,
        tone=tone[:, None],
        grain=torch.where(papered, draws.uniform(0.05, 0.15)[:, None], 0.03),
        grain_u=torch.where(papered, wave, 0.7),
        grain_v=torch.where(papered, wave * draws.uniform(0.6, 1.0)[:, None], 0.9),
        grain_bend=draws.uniform(0.0, 1.6)[:, None],
        grain_product=1.0,
    )


def draw_skirting(draws: Draws, shell: Shell) -> list[Decal]:
    """A low board, or panelling up to the hip, along the four walls."""
    panelled = draws.chance(0.3)
    height = torch.where(panelled, draws.uniform(0.75, 1.05), draws.uniform(0.1, 0.16))
    white, wood = draws.uniform(0.6, 0.8)[:, None].expand(-1, 3), draws.color("wood")
    color = torch.where(draws.chance(0.65)[:, None], white, wood)
    look = material(
        color,
        color_gap=color * 0.65,
        cell_u=draws.uniform(0.6, 0.9),
        cell_v=height,
        gap=torch.where(panelled, 0.06, 0.0),
        **WOOD,
    )
    return [
        Decal(rectangle(torch.zeros_like(height), height / 2, shell.length[:, k], height / 2), look) for k in range(4)
    ]


def draw_window(draws: Draws, shell: Shell, spot: int, half_width: tuple[float, float], probability: float) -> Window:
    half = draws.uniform(*half_width)
    low, high = draws.uniform(0.75, 1.0), draws.uniform(2.0, 2.25)
    along = draws.uniform(-0.8, 0.8) * (shell.length[:, spot] / 2 - half - 0.5).clamp(0, 1)
    exists = draws.chance(probability)
    rect = rectangle(along, (low + high) / 2, half, (high - low) / 2)
    return Window(spot, torch.where(exists[:, None], rect, NOTHING), exists)


def draw_panes(draws: Draws, roles: dict[str, Tensor], window: Window) -> Decal:
    """The panes of a window, which show the outside, with a frame and one to three glazing bars."""
    frame = torch.where(draws.chance(0.7)[:, None], roles["white"], roles["wood_dark"])
    columns = draws.choice(torch.tensor([2.0, 2.0, 3.0]))
    rows = draws.choice(torch.tensor([1.0, 2.0]))
    width, height = (2 * window.rect[:, 2:].abs()).unbind(-1)
    look = material(
        frame, cell_u=width / columns, cell_v=height / rows, shift_u=columns / 2, gap=0.1, color_gap=frame, sky=1.0
    )
    return Decal(window.rect, look)


def draw_curtains(draws: Draws, window: Window) -> Decal:
    """Drawn-back curtains: a rectangle wider than the window, which covers all but its left and right ends."""
    color = draws.color("curtain")
    look = material(
        color,
        color_b=color * 0.6,
        cell_u=draws.uniform(0.13, 0.2),
        cell_v=10.0,
        tone=draws.uniform(0.3, 1.0),
        grain=draws.uniform(0.0, 0.25),
        grain_u=3.0,
        grain_v=draws.uniform(1.5, 4.0),
        grain_product=1.0,
    )
    along, middle, half_width, half_height = window.rect.unbind(-1)
    top = middle + half_height + 0.12
    low = torch.where(draws.chance(0.6), 0.1, middle - half_height - 0.15)
    rect = rectangle(along, (top + low) / 2, half_width + draws.uniform(0.2, 0.4), (top - low) / 2)
    return Decal(torch.where((window.exists & draws.chance(0.7))[:, None], rect, NOTHING), look)


def draw_picture(draws: Draws, shell: Shell, spot: int, along: Float[Tensor, " b"]) -> Decal:
    """A framed picture of two colours: a vertical gradient, or a disc of one on the other."""
    half_width, half_height = draws.uniform(0.3, 0.7), draws.uniform(0.25, 0.4)
    rect = rectangle(along, draws.uniform(1.6, 1.75), half_width, half_height)
    is_disc = draws.chance(0.5) * 1.0
    look = material(
        draws.color("textile"),
        color_b=draws.color("wall"),
        color_gap=torch.where(draws.chance(0.5)[:, None], 0.03, 0.7) * torch.ones(3, dtype=rect.dtype),
        cell_u=2 * half_width,
        cell_v=2 * half_height,
        shift_u=0.5,
        gap=0.12,
        disc=is_disc,
        gradient=1 - is_disc,
        photo=1.0,
    )
    return Decal(torch.where(draws.chance(0.85)[:, None], rect, NOTHING), look)


def draw_door(draws: Draws, shell: Shell, roles: dict[str, Tensor], furniture: Float[Tensor, " b"]) -> Decal:
    """A door beside the furniture at spot 2, on the side that it leaves free."""
    half_width, height = draws.uniform(0.42, 0.5), draws.uniform(2.0, 2.12)
    along = -furniture.sign() * (shell.length[:, 2] / 2 - half_width - draws.uniform(0.3, 0.5))
    color = torch.where(draws.chance(0.5)[:, None], roles["wood"], roles["white"])
    look = material(
        color,
        color_b=color * 0.75,
        color_gap=torch.where(draws.chance(0.5)[:, None], roles["white"], color * 0.5),
        cell_u=2 * half_width,
        cell_v=height / 2,
        shift_u=0.5,
        gap=0.14,
        gradient=0.5,
        **WOOD,
    )
    return Decal(rectangle(along, height / 2, half_width, height / 2), look)


def draw_floor(draws: Draws) -> tuple[Float[Tensor, "b material"], Float[Tensor, "b 3"]]:
    """Planks, tiles or a carpet, all of low contrast."""
    color = draws.color("floor")
    kind = draws.uniform(0, 3).long()
    planks, tiles = kind == 0, kind == 1
    width = torch.where(planks, draws.uniform(0.18, 0.3), draws.uniform(0.45, 0.75))
    look = material(
        color,
        color_b=color * draws.uniform(0.7, 0.85)[:, None],
        color_gap=color * 0.6,
        cell_u=width,
        cell_v=torch.where(planks, 10.0, width),
        gap=torch.where(tiles, 0.03, 0.0),
        tone=torch.where(planks, 0.8, torch.where(tiles, 0.5, 0.0)),
        grain=torch.where(planks, draws.uniform(0.08, 0.2), draws.uniform(0.02, 0.1)),
        grain_u=torch.where(planks, 2 / width, draws.uniform(1.0, 3.0)),
        grain_v=torch.where(planks, draws.uniform(0.3, 0.7), draws.uniform(1.0, 3.0)),
        grain_bend=torch.where(planks, 1.6, 1.0),
        grain_product=torch.where(planks, 0.0, 1.0),
    )
    return look, color


def draw_rug(draws: Draws, middle: Float[Tensor, "b 3"], half: Float[Tensor, "b 3"]) -> Decal:
    color, border = draws.color("rug"), draws.color("rug")
    wave = draws.uniform(2.0, 5.0)
    look = material(
        color,
        color_b=border,
        color_gap=border,
        cell_u=2 * half[:, 0],
        cell_v=2 * half[:, 1],
        shift_u=0.5,
        gap=draws.uniform(0.2, 0.5),
        disc=torch.where(draws.chance(0.4), draws.uniform(0.3, 0.8), 0.0),
        grain=draws.uniform(0.05, 0.3),
        grain_u=wave,
        grain_v=wave * draws.uniform(0.5, 1.0),
        grain_bend=draws.uniform(0.0, 2.0),
        grain_product=draws.chance(0.7) * 1.0,
    )
    rect = torch.cat([middle[:, :2], half[:, :2]], dim=1)
    return Decal(torch.where(draws.chance(0.8)[:, None], rect, NOTHING), look)
