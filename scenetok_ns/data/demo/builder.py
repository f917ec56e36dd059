"""Build furnished rooms from uniform random numbers: the shell, furniture, and small objects such as lamps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from scenetok_ns.data.demo.draws import Draws
from scenetok_ns.data.demo.furniture import ROLES, furniture_tables, piece_number, spot_choices
from scenetok_ns.data.demo.rooms import material

GRAIN_FIELDS = ("grain", "grain_u", "grain_v", "grain_bend", "grain_product")
ABSENT_Z = -50.0
ABSENT_HALF = 0.01
OBJECT_GROUP = (0,) * 4 + (1,) * 4 + (2,) * 4 + (3,) * 4 + (4, 4) + (5, 5, 6, 4, 4, 8) + (6, -1, 7, 8)
"""Occluder of each object: four pieces of furniture, table, floor lamp, plant, pouf, side table. -1: the ceiling lamp,
which casts no shadow."""


@dataclass(frozen=True)
class Shell:
    """The empty room, and which wall each spot is at: spot k (see SPOTS) is at wall `wall_of_spot[:, k]`."""

    extent: Float[Tensor, "b 3"]
    wall_of_spot: Int[Tensor, "b 4"]
    length: Float[Tensor, "b 4"]
    """Length of each spot's wall."""

    def place(self, spot: int, along: Tensor, away: Tensor, up: Tensor) -> Float[Tensor, "b *parts 3"]:
        """World points from distances along a spot's wall (from its middle), away from the wall and above the floor."""
        wall = self.wall_of_spot[:, spot]
        on_x = wall < 2
        depth = torch.where(on_x, self.extent[:, 0], self.extent[:, 1]) / 2
        upper = (wall % 2) * 2.0 - 1
        extra = (slice(None),) + (None,) * (along.ndim - 1)
        inward = upper[extra] * (depth[extra] - away)
        x, y = torch.where(on_x[extra], inward, along), torch.where(on_x[extra], along, inward)
        return torch.stack([x, y, up.expand_as(x)], dim=-1)

    def turn(self, spot: int, along: Tensor, away: Tensor, up: Tensor) -> Float[Tensor, "b *parts 3"]:
        """Half sizes in world axes, from half sizes along a spot's wall, away from it and upwards."""
        on_x = (self.wall_of_spot[:, spot] < 2)[(slice(None),) + (None,) * (along.ndim - 1)]
        return torch.stack(
            [torch.where(on_x, away, along), torch.where(on_x, along, away), up.expand_as(along)], dim=-1
        )


@dataclass(frozen=True)
class Furniture:
    """The four pieces of furniture along the walls."""

    boxes: Things
    occluder: Float[Tensor, "b 4 6"]
    size: Float[Tensor, "b 4 3"]
    along: Float[Tensor, "b 4"]
    """Position of each piece on its wall."""
    is_bed: Bool[Tensor, " b"]


@dataclass(frozen=True)
class Lamp:
    center: Float[Tensor, "b 1 3"]
    exists: Bool[Tensor, " b"]


@dataclass(frozen=True)
class SmallThings:
    """Table, lamps, plant and pouf, which follow the four pieces of furniture in the list of objects, and the rug."""

    objects: Things
    occluder: Float[Tensor, "b 5 6"]
    lamps: tuple[Lamp, Lamp, Lamp]
    rug: tuple[Float[Tensor, "b 3"], Float[Tensor, "b 3"]]


@dataclass(frozen=True)
class Things:
    """Some objects with their materials."""

    center: Float[Tensor, "b n 3"]
    half: Float[Tensor, "b n 3"]
    look: Float[Tensor, "b n material"]


def draw_shell(draws: Draws) -> Shell:
    extent = torch.cat([draws.uniform(4.1, 5.4, 2), draws.uniform(2.45, 2.9, 1)], dim=1)
    wall_of_spot = draws.uniform(0, 1, 4).argsort(dim=1)
    sides = torch.stack([extent[:, 1], extent[:, 1], extent[:, 0], extent[:, 0]], dim=1)
    return Shell(extent, wall_of_spot, sides.gather(1, wall_of_spot))


def draw_roles(draws: Draws) -> dict[str, Float[Tensor, "b 3"]]:
    """The room's palette: one colour for each role that a part of a piece of furniture can have."""
    wood, main, accent = draws.color("wood"), draws.color("textile"), draws.color("textile")
    paint = draws.uniform(0.55, 0.8)[:, None] * torch.ones(3, dtype=torch.float64)
    roles = {"wood": wood, "wood_dark": wood * 0.55, "main": main, "accent": accent, "white": paint}
    roles["dark"] = draws.uniform(0.015, 0.05)[:, None].expand(-1, 3)
    roles["books"] = 0.5 * wood + 0.25 * main
    return roles


def present(things_center: Tensor, things_half: Tensor, exists: Tensor) -> tuple[Tensor, Tensor]:
    """Move objects that don't exist out of sight."""
    exists = exists[..., None]
    hidden = torch.tensor([0.0, 0.0, ABSENT_Z], dtype=things_center.dtype)
    return torch.where(exists, things_center, hidden), torch.where(exists, things_half, ABSENT_HALF)


def draw_furniture(draws: Draws, shell: Shell, roles: dict[str, Tensor]) -> Furniture:
    tables, colors = furniture_tables(), torch.stack([roles[name] for name in ROLES], dim=1)
    # Each room scales the strength and frequency of its fine patterns; bend and product are not scaled.
    strength, width = draws.uniform(0.3, 1.6), draws.uniform(0.6, 1.2)
    one = torch.ones_like(width)
    grain_scale = torch.stack([strength, width, width, one, one], dim=-1)[:, None]
    boxes, occluders, sizes, positions, pieces = [], [], [], [], []
    for spot in range(4):
        piece = draws.choice(spot_choices(spot))
        low, high = tables["size"][piece].unbind(-1)
        size = draws.uniform(low, high, 3)
        slack = (shell.length[:, spot] - size[:, 0]) / 2 - 0.8
        if spot == 2:  # leaves room for the door on one side
            along = draws.sign() * slack.clamp_min(0.1)
        else:
            along = draws.uniform(-1, 1) * slack.clamp(0, 0.5)
        middle, half = tables["middle"][piece] * size[:, None], tables["half"][piece] * size[:, None]
        center = shell.place(spot, middle[..., 0] + along[:, None], middle[..., 1], middle[..., 2])
        extent = shell.turn(spot, half[..., 0], half[..., 1], half[..., 2])
        center, extent = present(center, extent, tables["half"][piece].sum(-1) > 0)
        cells = tables["cells"][piece]
        index = torch.arange(len(piece))[:, None]
        look = material(
            colors[index, tables["color"][piece]],
            color_b=colors[index, tables["color_b"][piece]],
            color_gap=colors[index, tables["color"][piece]] * 0.35,
            cell_u=(2 * half[..., 0] / cells[..., 0]).clamp_min(0.01),
            cell_v=(2 * half[..., 2] / cells[..., 1]).clamp_min(0.01),
            shift_u=cells[..., 0] / 2,
            gap=tables["gap"][piece],
            tone=tables["tone"][piece],
            gradient=tables["gradient"][piece],
            sides_only=1.0,
            **dict(zip(GRAIN_FIELDS, (tables["grain"][piece] * grain_scale).unbind(-1), strict=True)),
        )
        solid = size * torch.stack([torch.ones_like(along), torch.ones_like(along), tables["solid"][piece]], dim=1)
        whole = shell.place(spot, along, solid[:, 1] / 2, solid[:, 2] / 2)
        reach = shell.turn(spot, solid[:, 0] / 2, solid[:, 1] / 2, solid[:, 2] / 2)
        boxes.append(Things(center, extent, look))
        occluders.append(torch.cat(present(whole, reach, tables["solid"][piece] > 0), dim=1))
        sizes.append(size)
        positions.append(along)
        pieces.append(piece)
    occluder, size, position = (torch.stack(column, dim=1) for column in (occluders, sizes, positions))
    return Furniture(join(boxes), occluder, size, position, is_bed=pieces[0] == piece_number("bed"))


def join(things: list[Things]) -> Things:
    return Things(*(torch.cat([getattr(t, name) for t in things], dim=1) for name in ("center", "half", "look")))


def thing(center: Tensor, half: Tensor, look: Tensor, exists: Tensor | None = None) -> Things:
    """One object in each room."""
    if exists is not None:
        center, half = present(center, half, exists)
    return Things(center[:, None], half[:, None], look[:, None])


def ellipse(radius: Tensor, height: Tensor) -> Float[Tensor, "b 3"]:
    return torch.stack([radius, radius, height], dim=-1)


def draw_small_things(draws: Draws, shell: Shell, roles: dict[str, Tensor], furniture: Furniture) -> SmallThings:
    """Draw table, lamps, plant, pouf and rug.

    Table, rug, floor lamp and side table are placed in front of or beside the piece of furniture at spot 0; the plant
    stands in a corner of the wall of spot 3, which has the large window.
    """
    is_bed, along = furniture.is_bed, furniture.along[:, 0]
    beside = furniture.size[:, 0, 0] / 2 + 0.38
    side = draws.sign()

    ahead = torch.where(is_bed, 1.7, furniture.size[:, 0, 1] + draws.uniform(0.7, 0.95))
    has_table, is_round = draws.chance(0.8) & ~is_bed, draws.chance(0.5)
    half_width, half_depth, height = draws.uniform(0.4, 0.65), draws.uniform(0.28, 0.4), draws.uniform(0.35, 0.48)
    zero = torch.zeros_like(along)
    top, block = (shell.place(0, along, ahead, z) for z in (height - 0.04, height / 2 - 0.04))
    flat = shell.turn(0, half_width, half_depth, zero + 0.04)
    boxed = has_table & ~is_round
    top_look, leg_look = material(roles["wood"]), material(roles["wood_dark"])
    table_boxes = [
        thing(top, flat, top_look, boxed),
        thing(block, flat * 0.75 + torch.stack([zero, zero, height / 2 - 0.07], dim=1), leg_look, boxed),
    ]
    disc = ellipse(half_width, zero + 0.04)
    table_cylinders = [
        thing(top, disc, top_look, has_table & is_round),
        thing(block, ellipse(half_width * 0.35, height / 2 - 0.04), leg_look, has_table & is_round),
    ]

    lamp_height = draws.uniform(1.45, 1.7)
    has_lamp, has_side = draws.chance(0.7), draws.chance(0.7)
    lamp_at = along + side * beside
    shade_radius, shade_half = draws.uniform(0.18, 0.26), draws.uniform(0.13, 0.18)
    glow = draws.uniform(0.9, 1.5)
    warm = torch.tensor([0.95, 0.8, 0.55], dtype=torch.float64).expand(len(along), 3)
    shade = material(warm, emission=glow)
    pole = shell.place(0, lamp_at, zero + 0.35, lamp_height / 2)
    lamp_center = shell.place(0, lamp_at, zero + 0.35, lamp_height)
    lamp = [
        thing(pole, ellipse(zero + 0.03, lamp_height / 2), material(roles["dark"]), has_lamp),
        thing(lamp_center, ellipse(shade_radius, shade_half), shade, has_lamp),
    ]
    side_at, side_height = along - side * beside, draws.uniform(0.45, 0.6)
    side_table = shell.place(0, side_at, zero + 0.35, side_height / 2)
    small_lamp = shell.place(0, side_at, zero + 0.35, side_height + 0.15)
    globe_radius, drop = draws.uniform(0.16, 0.24), draws.uniform(0.3, 0.5)
    globe = torch.stack([draws.uniform(-0.3, 0.3), draws.uniform(-0.3, 0.3), shell.extent[:, 2] - drop], dim=1)

    plant_at = draws.sign() * (shell.length[:, 3] / 2 - 0.45)
    has_plant, pot_height, leaves = draws.chance(0.75), draws.uniform(0.35, 0.5), draws.uniform(0.28, 0.38)
    leaves_height = draws.uniform(0.3, 0.45)
    pot = shell.place(3, plant_at, zero + 0.45, pot_height / 2)
    foliage = shell.place(3, plant_at, zero + 0.45, pot_height + leaves_height * 0.85)
    green = torch.tensor([0.07, 0.16, 0.05], dtype=torch.float64) * draws.uniform(0.7, 1.6)[:, None]
    has_pouf, pouf_radius, pouf_height = draws.chance(0.6), draws.uniform(0.26, 0.36), draws.uniform(0.17, 0.24)
    pouf = shell.place(0, draws.uniform(-1.2, 1.2), draws.uniform(2.3, 2.7), pouf_height)

    objects = join(
        [
            *table_boxes,
            *lamp,
            thing(pot, ellipse(leaves * 0.6, pot_height / 2), material(draws.color("textile")), has_plant),
            *table_cylinders,
            thing(side_table, ellipse(zero + 0.22, side_height / 2), material(roles["wood"]), has_side),
            thing(foliage, ellipse(leaves, leaves_height), material(green), has_plant),
            thing(globe, ellipse(globe_radius, globe_radius), shade),
            thing(pouf, ellipse(pouf_radius, pouf_height), material(roles["accent"]), has_pouf),
            thing(small_lamp, ellipse(zero + 0.15, zero + 0.15), shade, has_side),
        ]
    )
    down = torch.stack([zero, zero, height / 2], dim=1)
    occluder = [
        occluding(top - down, flat + down, has_table),
        occluding(pole, ellipse(zero + 0.03, zero + 0.1), has_lamp),
        occluding(pot, ellipse(leaves * 0.6, pot_height / 2), has_plant),
        occluding(pouf, ellipse(pouf_radius * 0.7, pouf_height), has_pouf),
        occluding(side_table, ellipse(zero + 0.2, side_height / 2), has_side),
    ]
    rug_half = shell.turn(0, draws.uniform(1.1, 1.6), draws.uniform(0.8, 1.1), zero)
    return SmallThings(
        objects,
        torch.stack(occluder, dim=1),
        (
            Lamp(globe[:, None], torch.ones_like(has_lamp)),
            Lamp(lamp_center[:, None], has_lamp),
            Lamp(small_lamp[:, None], has_side),
        ),
        (shell.place(0, along, ahead, zero), rug_half),
    )


def occluding(center: Tensor, half: Tensor, exists: Tensor) -> Float[Tensor, "b 6"]:
    return torch.cat(present(center, half, exists), dim=-1)
