"""Light in procedural rooms: lamps and windows, soft shadows of furniture, sun, and the scenery outside.

Shading is local: lamps and windows with a soft falloff, light from above and below, darkening towards corners and near
furniture. In addition, one light casts shadows, and one patch of sun comes through a window.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from scenetok_ns.data.demo.rooms import NUM_OBJECTS, RoomBatch
from scenetok_ns.data.demo.surfaces import length, look_up

SHADOW_REACH = 0.85
"""Share of the distance to the light within which objects cast shadows: objects around the light itself cast none."""
NARROWEST_SHADOW, SHADOW_GROWTH = 0.06, 0.25
"""Width of a shadow's edge in metres where the object touches the surface, and its growth per metre of distance."""
PICTURE_HEIGHT, PICTURE_WIDTH = 0.4, 0.25
"""Share of a panorama's height and width that a picture on a wall shows."""


def incoming_light(
    rooms: RoomBatch,
    point: Float[Tensor, "n 3 rays"],
    normal: Float[Tensor, "n 3 rays"],
    surface: Int[Tensor, "n rays"],
) -> Float[Tensor, "n 3 rays"]:
    """Light that reaches a surface, in linear RGB."""
    own = own_group(rooms, surface)
    up = (0.5 + 0.5 * normal[:, 2:]).clamp(0, 1)
    ambient = torch.lerp(rooms.ambient[:, 0, :, None], rooms.ambient[:, 1, :, None], up)
    light = ambient * ambient_occlusion(rooms, point, own)[:, None]

    to_light = rooms.light_position[..., None] - point[:, None]  # [n, lights, 3, rays]
    distance = length(to_light).clamp_min(1e-3)
    facing = (to_light * normal[:, None]).sum(dim=2) / distance
    area = rooms.light_normal[..., None]
    towards = -(to_light * area).sum(dim=2) / distance + 1 - area.square().sum(dim=2)
    falloff = (0.3 + 0.7 * facing).clamp_min(0) * towards.clamp_min(0) / (1 + 0.6 * distance.square())
    lamps = (falloff[:, :, None] * rooms.light_color[..., None]).sum(dim=1)
    shadow = occlusion(rooms, point, rooms.key_light[..., None] - point, own, SHADOW_REACH)
    lamps = lamps * (1 - rooms.key_shadow[:, None] * shadow)[:, None]
    return light + lamps + sun_patch(rooms, point, normal)


def own_group(rooms: RoomBatch, surface: Int[Tensor, "n rays"]) -> Float[Tensor, "n rays"]:
    """Number of the occluder that a surface belongs to, -1 for none."""
    own = look_up(rooms.object_group[..., None], surface.clamp_max(NUM_OBJECTS - 1))[:, 0]
    return torch.where(surface < NUM_OBJECTS, own, -1.0)


def ambient_occlusion(
    rooms: RoomBatch, point: Float[Tensor, "n 3 rays"], own: Float[Tensor, "n rays"]
) -> Float[Tensor, "n rays"]:
    """Approximate ambient occlusion: a factor below 1 near the room's edges and next to furniture."""
    half = rooms.extent[:, :2, None] / 2
    sides = half - point[:, :2].abs()
    low, high = point[:, 2:], rooms.extent[:, 2, None, None] - point[:, 2:]
    planes = torch.cat([sides, low, high], dim=1).clamp_min(0)
    edges = (1 - 0.45 * torch.exp(-planes / 0.35)).prod(dim=1)

    away = (point[:, None] - rooms.occluder[:, :, :3, None]).abs() - rooms.occluder[:, :, 3:, None]
    distance = length(away.clamp_min(0))  # [n, groups, rays]
    groups = torch.arange(rooms.occluder.shape[1], device=point.device)[None, :, None]
    shade = 0.5 * torch.exp(-distance / 0.25)
    return edges * (1 - torch.where(groups == own[:, None], 0.0, shade)).prod(dim=1)


def occlusion(
    rooms: RoomBatch,
    point: Float[Tensor, "n 3 rays"],
    towards: Float[Tensor, "n 3 rays"],
    own: Float[Tensor, "n rays"],
    reach: float,
) -> Float[Tensor, "n rays"]:
    """Share of a light that furniture hides, from 0 to 1, with edges that soften with the distance.

    Each occluder is a box. The shadow depends on how deep in the box the ray is halfway between entering and leaving.

    Args:
        rooms: One room for each row of rays.
        point: Points on surfaces.
        towards: Vector from each point to the light.
        own: Occluder that casts no shadow on the point.
        reach: Share of that vector within which occluders count.
    """
    small = towards.abs().clamp_min(1e-4)
    inverse = (1 / torch.where(towards < 0, -small, small))[:, None]  # [n, 1, 3, rays]
    half = rooms.occluder[:, :, 3:, None]
    middle = (rooms.occluder[:, :, :3, None] - point[:, None]) * inverse  # [n, groups, 3, rays]
    extent = half * inverse.abs()
    near, far = (middle - extent).amax(dim=2), (middle + extent).amin(dim=2)
    way = ((near.clamp_min(0) + far.clamp_max(reach)) / 2).clamp(0, reach)
    away = (point[:, None] + way[:, :, None] * towards[:, None] - rooms.occluder[:, :, :3, None]).abs() - half
    width = NARROWEST_SHADOW + SHADOW_GROWTH * way * length(towards)[:, None]
    hidden = (0.5 - away.amax(dim=2) / width).clamp(0, 1)
    groups = torch.arange(rooms.occluder.shape[1], device=point.device)[None, :, None]
    return 1 - (1 - torch.where(groups == own[:, None], 0.0, hidden)).prod(dim=1)


def sun_patch(
    rooms: RoomBatch, point: Float[Tensor, "n 3 rays"], normal: Float[Tensor, "n 3 rays"]
) -> Float[Tensor, "n 3 rays"]:
    """Sunlight on the points that see the sun through its window."""
    towards = rooms.sun_direction[..., None]
    middle, half = rooms.sun_window[:, :3, None], rooms.sun_window[:, 3:, None]
    in_wall = half == 0
    to_wall = torch.where(in_wall, middle - point, 0.0).sum(dim=1) / torch.where(in_wall, towards, 0.0).sum(dim=1)
    away = (point + to_wall[:, None] * towards - middle).abs()
    margin = torch.where(in_wall, 1.0, (half - away) / 0.08).clamp(0, 1).prod(dim=1)
    strength = (normal * towards).sum(dim=1).clamp_min(0) * margin * (to_wall > 0)
    return strength[:, None] * rooms.sun_color[..., None]


def outside_color(
    rooms: RoomBatch,
    direction: Float[Tensor, "n 3 rays"],
    photographs: Float[Tensor, "p 3 height width"] | None = None,
) -> Float[Tensor, "n 3 rays"]:
    """Scenery outside at infinity: ground, hills or buildings in front of a soft horizon, and sky; or a photograph."""
    slope = direction[:, 2:] / length(direction)[:, None]
    height = (slope + 0.06) / 0.12
    ground, horizon, sky, front = rooms.outside[..., None].unbind(dim=1)
    below = torch.lerp(horizon, ground, (-height).clamp(0, 1))
    color = torch.lerp(below, sky, (height / 4).clamp(0, 1))
    top = skyline_height(rooms, direction)[:, None]
    before = ((top - slope) / 0.02).clamp(0, 1) * ((slope + 0.03) / 0.02).clamp(0, 1)
    color = torch.lerp(color, front, before)
    if photographs is None:
        return color
    return torch.where(rooms.photo[:, 2, None, None] > 0, panorama_color(rooms, photographs, direction), color)


def skyline_height(rooms: RoomBatch, direction: Float[Tensor, "n 3 rays"]) -> Float[Tensor, "n rays"]:
    """Height, as a slope, of the hills (two waves) or buildings (blocks of several heights) in front of the horizon."""
    buildings, height, count, phase = rooms.skyline[..., None].unbind(dim=1)
    turn = torch.atan2(direction[:, 1], direction[:, 0])
    hills = 0.6 + 0.3 * torch.sin(count * turn + phase) + 0.1 * torch.sin(2 * count * turn + 2.3 * phase)
    block = torch.floor((turn / (2 * torch.pi) + 0.5) * 3 * count)
    blocks = 0.5 + 0.5 * torch.sin(2.7 * block + phase)
    return height * torch.where(buildings > 0, blocks, hills)


def panorama_color(
    rooms: RoomBatch, photographs: Float[Tensor, "p 3 height width"], direction: Float[Tensor, "n 3 rays"]
) -> Float[Tensor, "n 3 rays"]:
    """The room's panorama seen along rays, in linear RGB, at the room's brightness."""
    turn = torch.atan2(direction[:, 1], direction[:, 0]) / (2 * torch.pi) + rooms.photo[:, 1, None]
    rise = torch.asin((direction[:, 2] / length(direction)).clamp(-1, 1)) / torch.pi
    return _sample(rooms, photographs, -turn, 0.5 - rise) * rooms.photo[:, 3, None, None]


def photograph_on_surface(
    rooms: RoomBatch,
    photographs: Float[Tensor, "p 3 height width"],
    x: Float[Tensor, "n rays"],
    y: Float[Tensor, "n rays"],
    part: Float[Tensor, "n rays"],
) -> Float[Tensor, "n 3 rays"]:
    """Albedo of a picture at (x, y), each from 0 to 1, y upwards. It shows a part of the room's panorama: `part`, in
    full turns from the part in the middle."""
    turn = rooms.photo[:, 1, None] + part + PICTURE_WIDTH * (x - 0.5)
    return _sample(rooms, photographs, turn, 0.5 - PICTURE_HEIGHT * (y - 0.5)).clamp(0, 1)


def _sample(
    rooms: RoomBatch,
    photographs: Float[Tensor, "p 3 height width"],
    turn: Float[Tensor, "n rays"],
    down: Float[Tensor, "n rays"],
) -> Float[Tensor, "n 3 rays"]:
    """Bilinear samples of each room's photograph: turn in full turns (it repeats), down from 0 (top) to 1."""
    number, _, height, width = photographs.shape
    which = (rooms.photo[:, 0, None] * number).long().clamp(0, number - 1)
    column, row = turn * width - 0.5, (down * height - 0.5).clamp(0, height - 1)
    left, top = column.floor(), row.floor()
    across, along = (column - left)[None], (row - top)[None]
    table = photographs.transpose(0, 1).flatten(1)

    def at(x: Float[Tensor, "n rays"], y: Float[Tensor, "n rays"]) -> Float[Tensor, "3 n rays"]:
        place = (which * height + y.long().clamp(0, height - 1)) * width + torch.remainder(x, width).long()
        return table[:, place.clamp(0, table.shape[1] - 1)]

    upper = torch.lerp(at(left, top), at(left + 1, top), across)
    lower = torch.lerp(at(left, top + 1), at(left + 1, top + 1), across)
    return torch.lerp(upper, lower, along).transpose(0, 1)
