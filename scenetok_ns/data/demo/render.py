"""Ray-casting of procedural rooms: batched, on any device, without a loop over frames, objects or pixels.

Shading is local (no shadow rays): lamps and windows with a soft falloff, light from above and below, darkening towards
corners and near furniture, and one patch of sun through a window. A pixel is the mean of its samples after the tone
curve and before gamma, so that edges are smooth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from scenetok_ns.data.demo.rooms import (
    DECALS_PER_FACE,
    MATERIAL_SLICES,
    NUM_BOXES,
    NUM_CYLINDERS,
    NUM_FACES,
    NUM_OBJECTS,
    RoomBatch,
)

RAYS_PER_CHUNK = {"cpu": 1 << 13, "gpu": 1 << 21}
"""Bounds memory (2.5 GB on a GPU, 1 GB compiled); on a CPU small enough for its caches."""
EXPOSURE = 2.0
CONTRAST = 0.5
NEAR = 0.05
FAR = 1e4


def render_rooms(
    rooms: RoomBatch,
    c2w: Float[Tensor, "b v 4 4"],
    intrinsics: Float[Tensor, "b v 3 3"] | Float[Tensor, "b 3 3"],
    size: int,
    supersample: int = 2,
    compiled: bool = False,
) -> Float[Tensor, "b v 3 size size"]:
    """Pictures of `rooms` in [0, 1] (display values), on the rooms' device.

    c2w: OpenCV camera-to-world in metres. intrinsics: divided by the image size, one for a room or one for each view.
    supersample: samples a side of each pixel. compiled: fuse the ray-caster with torch.compile: half a minute
    at the first call and again at the first other number of views, then eight times the speed on a GPU. A frame's
    values do not depend on the others, up to float rounding.
    """
    side, limit = size * supersample, _ray_limit(c2w.device)
    caster = compiled_trace() if compiled else trace
    chunks = []
    for of_frames, origin, direction in _frame_chunks(rooms, c2w, intrinsics, side):
        shown = torch.cat([caster(of_frames, origin, rays) for rays in direction.split(limit, dim=2)], dim=2)
        samples = shown.unflatten(-1, (size, supersample, size, supersample))
        chunks.append(display(samples.mean(dim=(-3, -1))))
    return torch.cat(chunks).unflatten(0, c2w.shape[:2])


def render_depths(
    rooms: RoomBatch,
    c2w: Float[Tensor, "b v 4 4"],
    intrinsics: Float[Tensor, "b v 3 3"] | Float[Tensor, "b 3 3"],
    size: int,
) -> Float[Tensor, "b v size size"]:
    """Distance in metres along the camera's axis (not along the ray) of the surface at the middle of each pixel.

    A window counts as its pane. Arguments and errors as for `render_rooms`.
    """
    limit = _ray_limit(c2w.device)
    chunks = []
    for of_frames, origin, direction in _frame_chunks(rooms, c2w, intrinsics, size):
        depth = torch.cat([first_hit(of_frames, origin, rays)[1] for rays in direction.split(limit, dim=2)], dim=1)
        chunks.append(depth.unflatten(-1, (size, size)))
    return torch.cat(chunks).unflatten(0, c2w.shape[:2])


def _ray_limit(device: torch.device) -> int:
    return RAYS_PER_CHUNK["cpu" if device.type == "cpu" else "gpu"]


def _frame_chunks(
    rooms: RoomBatch, c2w: Float[Tensor, "b v 4 4"], intrinsics: Tensor, side: int
) -> Iterator[tuple[RoomBatch, Float[Tensor, "n 3 1"], Float[Tensor, "n 3 rays"]]]:
    """Frames in groups that fit into memory: their rooms, and origins and directions of `side` squared rays each."""
    b, v = c2w.shape[:2]
    if len(rooms) != b:
        raise ValueError(f"render_rooms: expected poses of {len(rooms)} rooms, got shape {tuple(c2w.shape)}")
    if intrinsics.ndim == 3:
        intrinsics = intrinsics[:, None].expand(b, v, 3, 3)
    poses, lenses = c2w.reshape(-1, 4, 4).float(), intrinsics.reshape(-1, 3, 3).float()
    room_of_frame = torch.arange(b, device=c2w.device).repeat_interleave(v)
    number = min(-(-len(poses) * side**2 // _ray_limit(c2w.device)), len(poses))
    parts = (x.tensor_split(number) for x in (room_of_frame, poses, lenses))
    for room, pose, lens in zip(*parts, strict=True):
        yield rooms.select(room), *pixel_rays(pose, lens, side)


def display(linear: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Gamma, then the S-shaped contrast curve of a camera."""
    value = linear.clamp(0, 1) ** (1 / 2.2)
    return torch.lerp(value, value * value * (3 - 2 * value), CONTRAST)


def pixel_rays(
    c2w: Float[Tensor, "n 4 4"], intrinsics: Float[Tensor, "n 3 3"], side: int
) -> tuple[Float[Tensor, "n 3 1"], Float[Tensor, "n 3 rays"]]:
    """Origins, and directions (camera depth 1, not unit length) through the middles of pixels, row-major."""
    ticks = (torch.arange(side, device=c2w.device, dtype=c2w.dtype) + 0.5) / side
    x = (ticks - intrinsics[:, 0, 2, None]) / intrinsics[:, 0, 0, None]
    y = (ticks - intrinsics[:, 1, 2, None]) / intrinsics[:, 1, 1, None]
    right, down, forward, origin = c2w[:, :3, :, None, None].unbind(dim=2)
    direction = right * x[:, None, None, :] + down * y[:, None, :, None] + forward
    return origin.flatten(2), direction.flatten(2)


def trace(
    rooms: RoomBatch, origin: Float[Tensor, "n 3 1"], direction: Float[Tensor, "n 3 rays"]
) -> Float[Tensor, "n 3 rays"]:
    """Light along rays after the tone curve, in [0, 1); room i belongs to rays i."""
    surface, depth = first_hit(rooms, origin, direction)
    point = origin + depth[:, None] * direction
    center, half = surface_geometry(rooms, surface)
    local = (point - center) / half
    axis = largest_axis(local)
    normal = surface_normal(local, half, axis, surface)
    u = torch.where(axis == 0, point[:, 1], point[:, 0])
    v = torch.where(axis == 2, point[:, 1], point[:, 2])
    u_middle = torch.where(axis == 0, center[:, 1], center[:, 0])
    v_low = torch.where(axis == 2, center[:, 1] - half[:, 1], center[:, 2] - half[:, 2])
    surface, u_middle, v_low = covering_decal(rooms, surface, u, v, u_middle, v_low)
    look = look_up(rooms.materials, surface)
    albedo, in_gap = surface_color(look, u - u_middle, v - v_low, horizontal=axis == 2)
    light = incoming_light(rooms, point, normal, surface)
    emission, sky = field(look, "emission"), field(look, "sky")
    radiance = torch.where((emission > 0) & ~in_gap, emission, light) * albedo
    radiance = torch.where((sky > 0) & ~in_gap, outside_color(rooms, direction), radiance)
    return 1 - torch.exp(-EXPOSURE * radiance)


@cache
def compiled_trace() -> Callable[..., Tensor]:
    return torch.compile(trace)


def look_up(table: Float[Tensor, "n rows columns"], row: Int[Tensor, "n rays"]) -> Float[Tensor, "n columns rays"]:
    """Rows of a table, one for each ray, laid out so that every column is contiguous."""
    columns = table.shape[-1]
    return table.transpose(1, 2).gather(2, row[:, None].expand(-1, columns, -1))


def field(look: Float[Tensor, "n material rays"], name: str) -> Float[Tensor, "n width rays"]:
    return look[:, MATERIAL_SLICES[name]]


def first_hit(
    rooms: RoomBatch, origin: Float[Tensor, "n 3 1"], direction: Float[Tensor, "n 3 rays"]
) -> tuple[Int[Tensor, "n rays"], Float[Tensor, "n rays"]]:
    """Number of the nearest surface (object, or NUM_OBJECTS + face of the room) and its depth along the ray."""
    small = direction.abs().clamp_min(1e-7)
    safe = torch.where(direction < 0, -small, small)
    inverse = 1 / safe
    to_center = (rooms.center - origin.transpose(1, 2)).unbind(-1)  # each [n, objects]
    half = rooms.half.unbind(-1)

    # Every object is convex: a ray is inside it between `near` and `far`, which come from slabs and from quadrics.
    slab = [_slab(to_center[i], half[i], inverse[:, i], slice(0, NUM_BOXES)) for i in range(3)]
    box_near = torch.maximum(torch.maximum(slab[0][0], slab[1][0]), slab[2][0])
    box_far = torch.minimum(torch.minimum(slab[0][1], slab[1][1]), slab[2][1])
    cylinders = slice(NUM_BOXES, NUM_BOXES + NUM_CYLINDERS)
    ends = _slab(to_center[2], half[2], inverse[:, 2], cylinders)
    mantle = _quadric(to_center, half, direction, cylinders, axes=2)
    ball_near, ball_far = _quadric(to_center, half, direction, slice(NUM_BOXES + NUM_CYLINDERS, None), axes=3)
    near = torch.cat([box_near, torch.maximum(ends[0], mantle[0]), ball_near], dim=1)
    far = torch.cat([box_far, torch.minimum(ends[1], mantle[1]), ball_far], dim=1)
    near = near.masked_fill((near >= far) | (near < NEAR), FAR)
    depth = near.amin(dim=1)
    number = torch.arange(NUM_OBJECTS, device=near.device, dtype=near.dtype)[None, :, None]
    surface = ((near == depth[:, None]) * number).amax(dim=1).long()

    # The camera is inside the room: the wall it sees is where the ray leaves the first of the three slabs.
    middle = torch.cat([torch.zeros_like(rooms.extent[:, :2]), rooms.extent[:, 2:] / 2], dim=1)[..., None]
    leave = (middle - origin) * inverse + rooms.extent[..., None] / 2 * inverse.abs()
    wall_depth = leave.amin(dim=1)
    faces = torch.arange(0, NUM_FACES, 2, device=near.device)[None, :, None] + (direction > 0)
    face = torch.where(leave == wall_depth[:, None], faces, 0).amax(dim=1)
    return torch.where(depth < wall_depth, surface, NUM_OBJECTS + face), torch.minimum(depth, wall_depth)


def _slab(
    to_center: Float[Tensor, "n objects"],
    half: Float[Tensor, "n objects"],
    inverse: Float[Tensor, "n rays"],
    part: slice,
) -> tuple[Float[Tensor, "n part rays"], Float[Tensor, "n part rays"]]:
    """Depths at which rays enter and leave the space between two parallel planes."""
    middle = to_center[:, part, None] * inverse[:, None]
    reach = half[:, part, None] * inverse.abs()[:, None]
    return middle - reach, middle + reach


def _quadric(
    to_center: tuple[Tensor, ...],
    half: tuple[Tensor, ...],
    direction: Float[Tensor, "n 3 rays"],
    part: slice,
    axes: int,
) -> tuple[Float[Tensor, "n part rays"], Float[Tensor, "n part rays"]]:
    """Depths at which rays enter and leave an ellipsoid (3 axes) or an endless upright elliptic cylinder (2 axes)."""
    scaled = torch.stack([direction[:, i, None] / half[i][:, part, None] for i in range(axes)])
    offset = torch.stack([(to_center[i] / half[i])[:, part, None] for i in range(axes)])
    a = scaled.square().sum(dim=0)
    middle = (scaled * offset).sum(dim=0) / a
    discriminant = middle.square() - (offset.square().sum(dim=0) - 1) / a
    reach = discriminant.clamp_min(0).sqrt()
    miss = discriminant <= 0
    return (middle - reach).masked_fill(miss, FAR), (middle + reach).masked_fill(miss, -FAR)


def surface_geometry(
    rooms: RoomBatch, surface: Int[Tensor, "n rays"]
) -> tuple[Float[Tensor, "n 3 rays"], Float[Tensor, "n 3 rays"]]:
    """Middle and half size of what was hit; the six faces of the room have those of the room."""
    room_half = rooms.extent[:, None] / 2
    room_center = room_half * torch.tensor([0.0, 0.0, 1.0], device=room_half.device)
    whole = torch.cat([room_center, room_half], dim=-1)
    table = torch.cat([torch.cat([rooms.center, rooms.half], dim=-1), whole], dim=1)
    return tuple(look_up(table, surface.clamp_max(NUM_OBJECTS)).split(3, dim=1))


def largest_axis(local: Float[Tensor, "n 3 rays"]) -> Int[Tensor, "n rays"]:
    x, y, z = local.abs().unbind(dim=1)
    return torch.where(z >= torch.maximum(x, y), 2, torch.where(y > x, 1, 0))


def length(vector: Float[Tensor, "n 3 rays"]) -> Float[Tensor, "n rays"]:
    """Norm over dim -2; much faster than torch's over a dimension that isn't the last."""
    x, y, z = vector.unbind(dim=-2)
    return (x * x + y * y + z * z).sqrt()


def surface_normal(
    local: Float[Tensor, "n 3 rays"],
    half: Float[Tensor, "n 3 rays"],
    axis: Int[Tensor, "n rays"],
    surface: Int[Tensor, "n rays"],
) -> Float[Tensor, "n 3 rays"]:
    """Unit normals towards the camera's side; local: point in units of the half sizes; axis: its largest component."""
    components = torch.arange(3, device=local.device)[None, :, None]
    flat = torch.where(components == axis[:, None], local.sign(), 0.0)
    flat = torch.where((surface >= NUM_OBJECTS)[:, None], -flat, flat)
    round_ = local / half
    is_cylinder = (surface >= NUM_BOXES) & (surface < NUM_BOXES + NUM_CYLINDERS)
    is_ball = (surface >= NUM_BOXES + NUM_CYLINDERS) & (surface < NUM_OBJECTS)
    on_end = local[:, 2].abs() >= local[:, :2].square().sum(dim=1).sqrt()
    mantle = torch.where(components < 2, round_, 0.0)
    curved = torch.where(is_ball[:, None], round_, mantle)
    curved = curved / length(curved).clamp_min(1e-6)[:, None]
    end = torch.where(components == 2, local.sign(), 0.0)
    curved = torch.where((is_cylinder & on_end)[:, None], end, curved)
    return torch.where((is_cylinder | is_ball)[:, None], curved, flat)


def covering_decal(
    rooms: RoomBatch,
    surface: Int[Tensor, "n rays"],
    u: Float[Tensor, "n rays"],
    v: Float[Tensor, "n rays"],
    u_middle: Float[Tensor, "n rays"],
    v_low: Float[Tensor, "n rays"],
) -> tuple[Int[Tensor, "n rays"], Float[Tensor, "n rays"], Float[Tensor, "n rays"]]:
    """Replace faces of the room by the last rectangle on them that covers (u, v), with that one's origin."""
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
    horizontal: Bool[Tensor, "n rays"],
) -> tuple[Float[Tensor, "n 3 rays"], Bool[Tensor, "n 1 rays"]]:
    """Albedo at (u, v) metres from the middle and lower edge, and where it is the line between two cells."""
    cell_u, cell_v = field(look, "cell_u")[:, 0], field(look, "cell_v")[:, 0]
    row = torch.floor(v / cell_v)
    across = u / cell_u + field(look, "shift_u")[:, 0]
    column = torch.floor(across)
    x, y = across - column, v / cell_v - row
    tone = 0.5 + 0.5 * torch.sin(2.4 * column + 4.1 * row)
    disc = (1.5 - 4.5 * ((x - 0.5).square() + (y - 0.5).square()).sqrt()).clamp(0, 1)
    mix = field(look, "tone")[:, 0] * tone + field(look, "gradient")[:, 0] * y + field(look, "disc")[:, 0] * disc
    pattern = ~(horizontal & (field(look, "sides_only")[:, 0] > 0))
    mix = (mix.clamp(0, 1) * pattern)[:, None]
    color = torch.lerp(field(look, "color_a"), field(look, "color_b"), mix)
    half_gap = field(look, "gap")[:, 0] / 2
    edge = torch.minimum(torch.minimum(x, 1 - x) * cell_u, torch.minimum(y, 1 - y) * cell_v)
    in_gap = ((edge < half_gap) & pattern)[:, None]
    return torch.where(in_gap, field(look, "color_gap"), color), in_gap


def incoming_light(
    rooms: RoomBatch,
    point: Float[Tensor, "n 3 rays"],
    normal: Float[Tensor, "n 3 rays"],
    surface: Int[Tensor, "n rays"],
) -> Float[Tensor, "n 3 rays"]:
    """Light that a surface gets, in RGB."""
    up = (0.5 + 0.5 * normal[:, 2:]).clamp(0, 1)
    ambient = torch.lerp(rooms.ambient[:, 0, :, None], rooms.ambient[:, 1, :, None], up)
    light = ambient * ambient_occlusion(rooms, point, surface)[:, None]

    to_light = rooms.light_position[..., None] - point[:, None]  # [n, lights, 3, rays]
    distance = length(to_light).clamp_min(1e-3)
    facing = (to_light * normal[:, None]).sum(dim=2) / distance
    area = rooms.light_normal[..., None]
    towards = -(to_light * area).sum(dim=2) / distance + 1 - area.square().sum(dim=2)
    falloff = (0.3 + 0.7 * facing).clamp_min(0) * towards.clamp_min(0) / (1 + 0.6 * distance.square())
    lamps = (falloff[:, :, None] * rooms.light_color[..., None]).sum(dim=1)
    return light + lamps + sun_patch(rooms, point, normal)


def ambient_occlusion(
    rooms: RoomBatch, point: Float[Tensor, "n 3 rays"], surface: Int[Tensor, "n rays"]
) -> Float[Tensor, "n rays"]:
    """A stand-in for shadows of ambient light: below 1 near the room's edges and next to furniture."""
    half = rooms.extent[:, :2, None] / 2
    sides = half - point[:, :2].abs()
    low, high = point[:, 2:], rooms.extent[:, 2, None, None] - point[:, 2:]
    planes = torch.cat([sides, low, high], dim=1).clamp_min(0)
    edges = (1 - 0.45 * torch.exp(-planes / 0.35)).prod(dim=1)

    away = (point[:, None] - rooms.occluder[:, :, :3, None]).abs() - rooms.occluder[:, :, 3:, None]
    distance = length(away.clamp_min(0))  # [n, groups, rays]
    own = look_up(rooms.object_group[..., None], surface.clamp_max(NUM_OBJECTS - 1))[:, 0]
    own = torch.where(surface < NUM_OBJECTS, own, -1.0)
    groups = torch.arange(rooms.occluder.shape[1], device=point.device)[None, :, None]
    shade = 0.5 * torch.exp(-distance / 0.25)
    return edges * (1 - torch.where(groups == own[:, None], 0.0, shade)).prod(dim=1)


def sun_patch(
    rooms: RoomBatch, point: Float[Tensor, "n 3 rays"], normal: Float[Tensor, "n 3 rays"]
) -> Float[Tensor, "n 3 rays"]:
    """Sunlight of the points that see the sun through its window."""
    towards = rooms.sun_direction[..., None]
    middle, half = rooms.sun_window[:, :3, None], rooms.sun_window[:, 3:, None]
    in_wall = half == 0
    to_wall = torch.where(in_wall, middle - point, 0.0).sum(dim=1) / torch.where(in_wall, towards, 0.0).sum(dim=1)
    away = (point + to_wall[:, None] * towards - middle).abs()
    margin = torch.where(in_wall, 1.0, (half - away) / 0.08).clamp(0, 1).prod(dim=1)
    strength = (normal * towards).sum(dim=1).clamp_min(0) * margin * (to_wall > 0)
    return strength[:, None] * rooms.sun_color[..., None]


def outside_color(rooms: RoomBatch, direction: Float[Tensor, "n 3 rays"]) -> Float[Tensor, "n 3 rays"]:
    """What windows show: ground, a soft horizon and sky, at infinity."""
    height = (direction[:, 2:] / length(direction)[:, None] + 0.06) / 0.12
    ground, horizon, sky = rooms.outside[..., None].unbind(dim=1)
    below = torch.lerp(horizon, ground, (-height).clamp(0, 1))
    return torch.lerp(below, sky, (height / 4).clamp(0, 1))
