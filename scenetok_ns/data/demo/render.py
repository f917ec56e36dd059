"""Ray-casting of procedural rooms: batched, on any device, without a loop over frames, objects or pixels.

This module finds the surfaces that rays hit; `surfaces` computes their colour, `shading` their light. A pixel is the
mean of its samples after the tone curve and before gamma. Pixels at edges get more samples, so that edges are smooth
and do not flicker. Depth is exact at the middle of each pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from scenetok_ns.data.demo.rooms import NUM_BOXES, NUM_CYLINDERS, NUM_FACES, NUM_OBJECTS, RoomBatch
from scenetok_ns.data.demo.shading import incoming_light, outside_color, photograph_on_surface
from scenetok_ns.data.demo.surfaces import covering_decal, field, length, look_up, surface_color

RAYS_PER_CHUNK = {"cpu": 1 << 12, "gpu": 1 << 21}
"""Maximum number of rays at a time. It bounds memory on a GPU (2.5 GB, 1 GB compiled) and fits the caches of a CPU."""
EXPOSURE = 2.0
CONTRAST = 0.5
EDGE = 0.1
"""Range of 3 x 3 pixels, or of a pixel's samples, before gamma, above which a pixel counts as an edge."""
NEAR = 0.05
FAR = 1e4


def render_rooms(
    rooms: RoomBatch,
    c2w: Float[Tensor, "b v 4 4"],
    intrinsics: Float[Tensor, "b v 3 3"] | Float[Tensor, "b 3 3"],
    size: int,
    samples: int = 2,
    edge_samples: int = 6,
    compiled: bool = False,
    photographs: Float[Tensor, "p 3 height width"] | None = None,
) -> Float[Tensor, "b v 3 size size"]:
    """Render pictures of rooms on the rooms' device.

    The values of a frame do not depend on the other frames, up to float rounding.

    Args:
        rooms: b rooms.
        c2w: Poses, OpenCV camera-to-world in metres.
        intrinsics: Intrinsics divided by the image size, one matrix for each room or for each view.
        size: Side of the pictures in pixels.
        samples: Number of samples in each pixel. No two of them share a row or a column.
        edge_samples: Number of further samples in pixels at edges: the range of their samples, or of the 3 x 3 pixels
            around them, is above EDGE. They are never compiled. 0: none.
        compiled: Fuse the ray-caster with torch.compile. This takes half a minute at the first call, and again at the
            first call with another number of views, and then is eight times as fast on a GPU.
        photographs: Panoramas in linear RGB, longitude along the width. They are seen through windows and in picture
            frames.

    Returns:
        Display values in [0, 1].

    Raises:
        ValueError: The number of rooms and of pose sequences differ.
    """
    b, v = c2w.shape[:2]
    caster = compiled_trace() if compiled else trace
    offsets = pixel_samples(samples)
    chunks = []
    for of_frames, pose, lens in _frame_chunks(rooms, c2w, intrinsics, size * size * samples):
        origin, direction = pixel_rays(pose, lens, size, offsets)
        parts = direction.split(_ray_limit(c2w.device), 2)
        shown = torch.cat([caster(of_frames, origin, part, photographs) for part in parts], dim=2)
        shown = shown.unflatten(-1, (samples, size * size))
        mean = shown.mean(dim=2)
        if edge_samples:
            mean = _with_smooth_edges(of_frames, pose, lens, photographs, shown, mean, edge_samples)
        chunks.append(display(mean.unflatten(-1, (size, size))))
    return torch.cat(chunks).unflatten(0, (b, v))


def _with_smooth_edges(
    rooms: RoomBatch,
    c2w: Float[Tensor, "n 4 4"],
    intrinsics: Float[Tensor, "n 3 3"],
    photographs: Float[Tensor, "p 3 height width"] | None,
    shown: Float[Tensor, "n 3 samples pixels"],
    mean: Float[Tensor, "n 3 pixels"],
    more: int,
) -> Float[Tensor, "n 3 pixels"]:
    """Average the samples in `shown`; in pixels at edges, add `more` samples."""
    size = math.isqrt(mean.shape[-1])
    grid = mean.unflatten(-1, (size, size))
    between = F.max_pool2d(grid, 3, 1, 1) + F.max_pool2d(-grid, 3, 1, 1)  # highest minus lowest of 3 x 3 pixels
    within = shown.amax(dim=2) - shown.amin(dim=2)
    edge = torch.maximum(between.flatten(2), within).amax(dim=1) > EDGE  # [n, pixels]
    count = int(edge.sum(dim=1).amax())
    if count == 0:
        return mean
    place = edge.float().topk(count, dim=1).indices[:, None]  # frames with fewer edges get other pixels beside them
    origin, rays = pixel_rays(c2w, intrinsics, size, pixel_samples(more))
    rays = rays.unflatten(-1, (more, -1)).gather(3, place[:, :, None].expand(-1, 3, more, -1)).flatten(2)
    limit = max(_ray_limit(c2w.device) // len(rays), 1)
    added = torch.cat([trace(rooms, origin, part, photographs) for part in rays.split(limit, 2)], dim=2)
    place = place.expand(-1, 3, -1)
    old, samples = mean.gather(2, place), shown.shape[2]
    new = (samples * old + added.unflatten(-1, (more, count)).sum(dim=2)) / (samples + more)
    is_edge = edge[:, None].expand(-1, 3, -1).gather(2, place)
    return mean.scatter(2, place, torch.where(is_edge, new, old))


def render_depths(
    rooms: RoomBatch,
    c2w: Float[Tensor, "b v 4 4"],
    intrinsics: Float[Tensor, "b v 3 3"] | Float[Tensor, "b 3 3"],
    size: int,
) -> Float[Tensor, "b v size size"]:
    """Compute the distance in metres along the camera's axis (not the ray) to the surface at the middle of each pixel.

    In windows this is the distance of the pane. Arguments and errors are those of `render_rooms`.
    """
    b, v = c2w.shape[:2]
    chunks = []
    for of_frames, pose, lens in _frame_chunks(rooms, c2w, intrinsics, size * size):
        origin, direction = pixel_rays(pose, lens, size, ((0.5, 0.5),))
        limit = _ray_limit(c2w.device)
        depth = torch.cat([first_hit(of_frames, origin, rays)[1] for rays in direction.split(limit, 2)], dim=1)
        chunks.append(depth.unflatten(-1, (size, size)))
    return torch.cat(chunks).unflatten(0, (b, v))


def _ray_limit(device: torch.device) -> int:
    return RAYS_PER_CHUNK["cpu" if device.type == "cpu" else "gpu"]


def _frame_chunks(
    rooms: RoomBatch, c2w: Float[Tensor, "b v 4 4"], intrinsics: Tensor, rays: int
) -> Iterator[tuple[RoomBatch, Tensor, Tensor]]:
    """Yield rooms, poses and intrinsics of the frames in groups that fit into memory; a frame has `rays` rays."""
    b, v = c2w.shape[:2]
    if len(rooms) != b:
        raise ValueError(f"render_rooms: expected poses of {len(rooms)} rooms, got shape {tuple(c2w.shape)}")
    if intrinsics.ndim == 3:
        intrinsics = intrinsics[:, None].expand(b, v, 3, 3)
    poses, lenses = c2w.reshape(-1, 4, 4).float(), intrinsics.reshape(-1, 3, 3).float()
    room_of_frame = torch.arange(b, device=c2w.device).repeat_interleave(v)
    number = min(-(-len(poses) * rays // _ray_limit(c2w.device)), len(poses))
    parts = (x.tensor_split(number) for x in (room_of_frame, poses, lenses))
    for room, pose, lens in zip(*parts, strict=True):
        yield rooms.select(room), pose, lens


def pixel_samples(count: int) -> tuple[tuple[float, float], ...]:
    """Offsets (x, y) of samples inside a pixel, each in its own row and column of the pixel."""
    step = 1 if count < 4 else 2
    return tuple(
        ((i + 0.5) / count, ((i * step + i * step // count + (count < 4)) % count + 0.5) / count) for i in range(count)
    )


def display(linear: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Apply gamma, then the S-shaped contrast curve of a camera."""
    value = linear.clamp(0, 1) ** (1 / 2.2)
    return torch.lerp(value, value * value * (3 - 2 * value), CONTRAST)


def pixel_rays(
    c2w: Float[Tensor, "n 4 4"],
    intrinsics: Float[Tensor, "n 3 3"],
    size: int,
    offsets: Sequence[tuple[float, float]],
) -> tuple[Float[Tensor, "n 3 1"], Float[Tensor, "n 3 rays"]]:
    """Origins, and directions (scaled to depth 1 along the camera's axis, not to unit length) through the pixels.

    The rays go through all pixels row by row at the first offset, then at the next one.
    """
    x, y = (
        (torch.arange(size, device=c2w.device) + torch.tensor([o[k] for o in offsets], device=c2w.device)[:, None])
        / size
        for k in (0, 1)
    )
    x = (x - intrinsics[:, 0, 2, None, None]) / intrinsics[:, 0, 0, None, None]
    y = (y - intrinsics[:, 1, 2, None, None]) / intrinsics[:, 1, 1, None, None]
    right, down, forward, origin = c2w[:, :3, :, None, None, None].unbind(dim=2)
    direction = right * x[:, None, :, None, :] + down * y[:, None, :, :, None] + forward
    return origin.flatten(2), direction.flatten(2)


def trace(
    rooms: RoomBatch,
    origin: Float[Tensor, "n 3 1"],
    direction: Float[Tensor, "n 3 rays"],
    photographs: Float[Tensor, "p 3 height width"] | None = None,
) -> Float[Tensor, "n 3 rays"]:
    """Light along rays after the tone curve, in [0, 1). Row i of the rays is in room i."""
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
    albedo, in_gap, x, y = surface_color(look, u - u_middle, v - v_low, depth, horizontal=axis == 2)
    if photographs is not None:
        part = field(look, "photo")
        picture = photograph_on_surface(rooms, photographs, x, y, part[:, 0])
        albedo = torch.where((part > 0) & ~in_gap, picture, albedo)
    light = incoming_light(rooms, point, normal, surface)
    emission, sky = field(look, "emission"), field(look, "sky")
    radiance = torch.where((emission > 0) & ~in_gap, emission, light) * albedo
    radiance = torch.where((sky > 0) & ~in_gap, outside_color(rooms, direction, photographs), radiance)
    return 1 - torch.exp(-EXPOSURE * radiance)


@cache
def compiled_trace() -> Callable[..., Tensor]:
    return torch.compile(trace)


def first_hit(
    rooms: RoomBatch, origin: Float[Tensor, "n 3 1"], direction: Float[Tensor, "n 3 rays"]
) -> tuple[Int[Tensor, "n rays"], Float[Tensor, "n rays"]]:
    """Find the nearest surface on each ray: its number (object, or NUM_OBJECTS + face of the room) and its depth."""
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
    """Depths at which rays enter and leave an ellipsoid (3 axes) or an infinite upright elliptic cylinder (2 axes)."""
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
    """Middle and half size of the surfaces that rays hit; for a face of the room, those of the whole room."""
    room_half = rooms.extent[:, None] / 2
    room_center = room_half * torch.tensor([0.0, 0.0, 1.0], device=room_half.device)
    whole = torch.cat([room_center, room_half], dim=-1)
    table = torch.cat([torch.cat([rooms.center, rooms.half], dim=-1), whole], dim=1)
    return tuple(look_up(table, surface.clamp_max(NUM_OBJECTS)).split(3, dim=1))


def largest_axis(local: Float[Tensor, "n 3 rays"]) -> Int[Tensor, "n rays"]:
    x, y, z = local.abs().unbind(dim=1)
    return torch.where(z >= torch.maximum(x, y), 2, torch.where(y > x, 1, 0))


def surface_normal(
    local: Float[Tensor, "n 3 rays"],
    half: Float[Tensor, "n 3 rays"],
    axis: Int[Tensor, "n rays"],
    surface: Int[Tensor, "n rays"],
) -> Float[Tensor, "n 3 rays"]:
    """Unit normals on the camera's side.

    local: point relative to the middle, in units of the half sizes. axis: number of its largest component.
    """
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
