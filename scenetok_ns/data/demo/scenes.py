"""Procedural indoor scenes with exact poses: rooms and walks drawn from seeds, in batches, for CPU or GPU.

    rooms = sample_rooms([scene_seed(0, "train", i) for i in range(8)], device)
    c2w = sample_walks(rooms, num_frames=48)
    images = render_rooms(rooms, c2w, rooms.intrinsics, size=64)  # [8, 48, 3, 64, 64]

A room depends on its seed alone, not on the batch it is drawn in, nor on the device: all parameters are drawn and
computed on the CPU in double precision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from scenetok_ns.data.demo.builder import OBJECT_GROUP, draw_furniture, draw_roles, draw_shell, draw_small_things
from scenetok_ns.data.demo.draws import Draws
from scenetok_ns.data.demo.lights import draw_lights
from scenetok_ns.data.demo.render import render_depths, render_rooms
from scenetok_ns.data.demo.rooms import RoomBatch
from scenetok_ns.data.demo.walls import draw_faces

__all__ = ["RoomBatch", "render_depths", "render_rooms", "sample_rooms", "sample_walks", "scene_seed"]

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")
CAMERA_MARGIN = 1.05
"""Minimum distance between the camera and a wall in metres. Tall furniture at the walls is less deep than this."""
CAPTURE_MARGIN = 0.35
"""Minimum distance between the camera and walls, floor and ceiling in `sample_captures`, in metres."""
OBJECT_MARGIN = 0.08
"""Minimum distance between the camera and the box around an object in `sample_captures`, in metres."""
WALK_FIELDS = ("yaw", "turn", "reach_x", "reach_y", "lag", "height", "pitch", "phase", "unevenness")


def scene_seed(seed: int, split: Split, index: int) -> int:
    """Return the seed of scene `index` of a data set, different for every (seed, split, index). Raises ValueError."""
    if seed < 0 or not 0 <= index < 1 << 32:
        raise ValueError(f"scene_seed: expected seed >= 0 and 0 <= index < 2**32, got {seed} and {index}")
    return (seed << 33) + (SPLITS.index(split) << 32) + index


def sample_rooms(seeds: Sequence[int], device: torch.device | str = "cpu") -> RoomBatch:
    """Create one furnished room for each seed. Seeds are integers of at least 0."""
    if not seeds:
        raise ValueError("sample_rooms: expected at least one seed, got none")
    draws = Draws(seeds)
    shell = draw_shell(draws)
    roles = draw_roles(draws)
    furniture = draw_furniture(draws, shell, roles)
    things = draw_small_things(draws, shell, roles, furniture)
    faces = draw_faces(draws, shell, roles, furniture.along, things.rug)
    lights = draw_lights(draws, shell, faces, things)
    focal = 0.5 / torch.tan(torch.deg2rad(draws.uniform(70, 80)) / 2)
    one, zero, half = torch.ones_like(focal), torch.zeros_like(focal), torch.full_like(focal, 0.5)
    intrinsics = torch.stack([focal, zero, half, zero, focal, half, zero, zero, one], dim=1).unflatten(1, (3, 3))
    rooms = RoomBatch(
        extent=shell.extent,
        center=torch.cat([furniture.boxes.center, things.objects.center], dim=1),
        half=torch.cat([furniture.boxes.half, things.objects.half], dim=1),
        decal_rect=faces.decal_rect,
        materials=torch.cat(
            [furniture.boxes.look, things.objects.look, faces.look, faces.decal_look.flatten(1, 2)], dim=1
        ),
        occluder=torch.cat([furniture.occluder, things.occluder], dim=1),
        object_group=torch.tensor(OBJECT_GROUP, dtype=torch.float64).expand(len(seeds), -1),
        walk=draw_walk(draws, shell.extent),
        intrinsics=intrinsics,
        **lights,
    )
    return RoomBatch(**{name: value.float().contiguous().to(device) for name, value in rooms.tensors()})


def draw_walk(draws: Draws, extent: Float[Tensor, "b 3"]) -> Float[Tensor, "b walk"]:
    space = extent[:, :2] / 2 - CAMERA_MARGIN
    values = {
        "yaw": draws.uniform(0, 2 * math.pi),
        "turn": torch.deg2rad(draws.uniform(300, 420)) * draws.sign(),
        "reach_x": space[:, 0] * draws.uniform(0.7, 1.0),
        "reach_y": space[:, 1] * draws.uniform(0.7, 1.0),
        "lag": torch.deg2rad(draws.uniform(-35, 35)),
        "height": draws.uniform(1.3, 1.6),
        "pitch": torch.deg2rad(draws.uniform(-16, -6)),
        "phase": draws.uniform(0, 2 * math.pi),
        "unevenness": draws.uniform(0.0, 0.04),
    }
    return torch.stack([values[name] for name in WALK_FIELDS], dim=1)


def sample_walks(rooms: RoomBatch, num_frames: int) -> Float[Tensor, "b v 4 4"]:
    """Compute each room's walk: OpenCV camera-to-world poses in metres.

    The camera goes around the middle of the room and looks across it, so it turns by 300 to 420 degrees in all. It is
    at head height, looks slightly down, sways slightly like a person, and is never nearer to a wall than CAMERA_MARGIN.
    """
    if num_frames < 2:
        raise ValueError(f"sample_walks: expected at least 2 frames, got {num_frames}")
    w = dict(zip(WALK_FIELDS, rooms.walk.double()[..., None].unbind(dim=1), strict=True))
    s = torch.linspace(0, 1, num_frames, dtype=torch.float64, device=rooms.walk.device)
    progress = s + w["unevenness"] * (torch.sin(2 * math.pi * s + w["phase"]) - torch.sin(w["phase"]))
    yaw = w["yaw"] + w["turn"] * progress
    pitch = w["pitch"] + 0.1 * torch.sin(4 * math.pi * s + 2 * w["phase"])
    roll = 0.015 * torch.sin(4 * math.pi * s + w["phase"])
    x = -w["reach_x"] * torch.cos(yaw + w["lag"])
    y = -w["reach_y"] * torch.sin(yaw + w["lag"])
    z = w["height"] + 0.03 * torch.sin(6 * math.pi * s + w["phase"])

    return look_along(torch.stack([x, y, z], dim=-1), yaw, pitch, roll)


def sample_orbits(rooms: RoomBatch, num_frames: int) -> Float[Tensor, "b v 4 4"]:
    """Compute walks around an object in the room, as a photographer does: OpenCV camera-to-world poses in metres.

    The camera looks at a point near the middle of the room from up to 1.6 metres, stays CAMERA_MARGIN away from the
    walls, and turns by 40 to 100 % of the angle of the room's walk.
    """
    if num_frames < 2:
        raise ValueError(f"sample_orbits: expected at least 2 frames, got {num_frames}")
    w = dict(zip(WALK_FIELDS, rooms.walk.double()[..., None].unbind(dim=1), strict=True))
    s = torch.linspace(0, 1, num_frames, dtype=torch.float64, device=rooms.walk.device)
    angle = w["yaw"] + w["turn"] * (0.4 + 0.6 * (w["phase"] / (2 * math.pi))) * s
    radius = torch.minimum(w["reach_x"], w["reach_y"]) * (0.85 + 0.15 * torch.sin(2 * math.pi * s + w["phase"]))
    aside = radius * 0.3
    middle_x, middle_y = aside * torch.cos(3 * w["phase"]), aside * torch.sin(3 * w["phase"])
    space = (rooms.extent[:, :2].double() / 2 - CAMERA_MARGIN)[..., None]
    x = torch.minimum(torch.maximum(middle_x + radius * torch.cos(angle), -space[:, 0]), space[:, 0])
    y = torch.minimum(torch.maximum(middle_y + radius * torch.sin(angle), -space[:, 1]), space[:, 1])
    z = w["height"] + 0.2 * torch.sin(2 * math.pi * s * 1.5 + w["phase"])
    ahead_x, ahead_y, ahead_z = middle_x - x, middle_y - y, 0.75 - z
    yaw = torch.atan2(ahead_y, ahead_x)
    pitch = torch.atan2(ahead_z, torch.hypot(ahead_x, ahead_y).clamp_min(0.6))
    return look_along(torch.stack([x, y, z], dim=-1), yaw, pitch, 0.03 * torch.sin(5 * s + w["phase"]))


def sample_captures(rooms: RoomBatch, num_frames: int) -> Float[Tensor, "b v 4 4"]:
    """Compute views of one piece of furniture, as a person takes photographs of a thing: OpenCV poses in metres.

    The camera sweeps to and fro on an arc of 60 to 200 degrees around the piece, once to three times, and rises on its
    way. It is 0.6 to 2.2 metres away where the room allows it. It aims beside the middle of the piece, stays
    CAPTURE_MARGIN away from walls, floor and ceiling, and moves nearer or farther where an object is in its place.
    """
    if num_frames < 2:
        raise ValueError(f"sample_captures: expected at least 2 frames, got {num_frames}")
    phase = rooms.walk[:, WALK_FIELDS.index("phase")].double()

    def drawn(number: int) -> Float[Tensor, "b 1"]:  # the room's own numbers from 0 to 1, unrelated to one another
        mixed = torch.sin(12.9898 * phase + 78.233 * number) * 43758.5453
        return (mixed - mixed.floor())[:, None]

    s = torch.linspace(0, 1, num_frames, dtype=torch.float64, device=phase.device)
    piece = rooms.occluder.double()
    groups = torch.arange(piece.shape[1], device=phase.device)
    rank = torch.where(piece[..., 2] > 0, torch.frac(drawn(0) + 0.618 * groups), -1.0)
    of_room = torch.arange(len(rooms), device=phase.device)
    middle = piece[of_room, rank.argmax(dim=1), :3]
    toward = torch.atan2(-middle[:, 1:2], -middle[:, :1])
    sweeps = 1 + (3 * drawn(1)).floor()
    across = 2 * (torch.frac(sweeps * s / 2) * 2 - 1).abs() - 1
    azimuth = toward + torch.deg2rad(30 + 70 * drawn(2)) * across
    low = -10 + 30 * drawn(3)
    elevation = torch.deg2rad(low + 45 * drawn(4) * s + 5 * torch.sin(7 * s + 6 * drawn(5)))
    radius = (0.7 + 1.1 * drawn(6)) * (1 + 0.2 * torch.sin(2 * math.pi * (1.5 * s + drawn(7))))
    out = torch.stack([azimuth.cos() * elevation.cos(), azimuth.sin() * elevation.cos(), elevation.sin()], dim=-1)
    position = _free_position(rooms, middle[:, None], out, radius)
    turns = 2 * math.pi * torch.stack([2.5 * s + drawn(8), 1.7 * s + drawn(9), 3.3 * s + drawn(10)], dim=-1)
    ahead = middle[:, None] + 0.2 * radius[..., None] * torch.sin(turns) - position
    yaw = torch.atan2(ahead[..., 1], ahead[..., 0])
    pitch = torch.atan2(ahead[..., 2], torch.hypot(ahead[..., 0], ahead[..., 1]).clamp_min(0.2))
    return look_along(position, yaw, pitch, 0.05 * torch.sin(5 * s + phase[:, None]))


def _free_position(
    rooms: RoomBatch, middle: Float[Tensor, "b 1 3"], out: Float[Tensor, "b v 3"], radius: Float[Tensor, "b v"]
) -> Float[Tensor, "b v 3"]:
    """Return the point outside of all objects on each ray from `middle` whose distance is nearest to `radius`.

    Points are clamped to the room. If no point of a ray is free, the one at `radius` is returned.
    """
    limit = (rooms.extent.double() / 2 - CAPTURE_MARGIN)[:, None, None]
    room_middle = limit.new_tensor([0.0, 0.0, 0.5]) * rooms.extent.double()[:, None, None]
    steps = torch.linspace(-1.2, 1.2, 25, dtype=torch.float64, device=out.device)
    distance = (radius[..., None] + steps).clamp_min(0.3)  # [b, v, steps]
    points = middle[:, :, None] + distance[..., None] * out[:, :, None]
    points = room_middle + torch.minimum(torch.maximum(points - room_middle, -limit), limit)
    taken = torch.zeros_like(distance, dtype=torch.bool)
    for number in range(rooms.center.shape[1]):  # one object at a time: all at once would take gigabytes
        center, half = (x[:, number].double()[:, None, None] for x in (rooms.center, rooms.half))
        taken |= ((points - center).abs() < half + OBJECT_MARGIN).all(dim=-1)
    best = (steps.abs() + 10.0 * taken).argmin(dim=-1, keepdim=True)
    return points.gather(2, best[..., None].expand(-1, -1, 1, 3))[:, :, 0]


def look_along(
    position: Float[Tensor, "b v 3"], yaw: Float[Tensor, "b v"], pitch: Float[Tensor, "b v"], roll: Float[Tensor, "b v"]
) -> Float[Tensor, "b v 4 4"]:
    """Compute OpenCV camera-to-world poses from heading, pitch (up is positive) and roll, in radians."""
    forward = torch.stack([yaw.cos() * pitch.cos(), yaw.sin() * pitch.cos(), pitch.sin()], dim=-1)
    level = torch.stack([yaw.sin(), -yaw.cos(), torch.zeros_like(yaw)], dim=-1)
    below = torch.linalg.cross(forward, level)
    right = level * roll.cos()[..., None] + below * roll.sin()[..., None]
    down = below * roll.cos()[..., None] - level * roll.sin()[..., None]
    top = torch.stack([right, down, forward, position], dim=-1)
    bottom = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=top.dtype, device=top.device).expand(*top.shape[:2], 1, 4)
    return torch.cat([top, bottom], dim=-2).float()
