"""Demo scenes that are rendered on the device while a model trains, in a pool whose scenes are replaced over time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from scenetok_ns.data.demo.render import pixel_rays, pixel_samples
from scenetok_ns.data.demo.rooms import MATERIAL_SLICES, RoomBatch
from scenetok_ns.data.demo.scenes import (
    look_along,
    render_rooms,
    sample_captures,
    sample_orbits,
    sample_rooms,
    sample_walks,
)
from scenetok_ns.data.demo.shading import panorama_color

SCENES_AT_A_TIME = 64
VARIETY = 8
PANORAMA, ORBIT, CAPTURES, EXPOSED = 0, 1, (2, 3), (3, 6, 7)
"""In varied pools, out of VARIETY scenes: the one that turns inside a panorama (if there are photographs), the one that
goes round the middle of the room with a longer lens, those that are taken like photographs of one thing and have
photographs on most surfaces, and those with another exposure."""
SAMPLES = 4
"""Samples in each pixel of a training image."""
TYPICAL_SPREAD = 1.13
"""Mean spread of the cameras of a room's walk in metres: `camera_spread` of the presets. Captures are scaled to it."""

Encode = Callable[[UInt8[Tensor, "b v 3 height width"]], Tensor]


@dataclass(frozen=True)
class PoolBatch:
    """Some frames of `b` scenes, as `encode` returned them, and their cameras: in metres, or scaled for captures."""

    frames: Tensor
    c2w: Float[Tensor, "b v 4 4"]
    intrinsics: Float[Tensor, "b v 3 3"]


class ScenePool:
    """A pool of `capacity` scenes with `num_frames` frames each, stored on the device as `encode` returns them.

    Scene number n comes from the seed `first_seed + n`, so pools with distant first seeds never share a scene.
    `renew` replaces the oldest scenes with new ones.

    Args:
        capacity: Number of scenes.
        num_frames: Number of frames of each scene.
        image_size: Side of the frames in pixels.
        first_seed: Seed of the first scene.
        device: Device on which frames are rendered and stored.
        encode: Called with images as bytes; its result is stored.
        compiled: See `render_rooms`. Renew as many scenes at a time as `fill` does, because the code is compiled again
            for every other number.
        keep_images: Store the images as well, for `images`.
        varied: Vary the scenes for training (see CAPTURES): some are orbits or captures with a longer lens, and
            exposures differ.
        photographs: Panoramas in linear RGB. In varied pools five of eight rooms show them, and some scenes are only
            photographs; other pools show none, but share the compiled code.
    """

    def __init__(
        self,
        *,
        capacity: int,
        num_frames: int,
        image_size: int,
        first_seed: int,
        device: torch.device,
        encode: Encode = lambda images: images,
        compiled: bool = False,
        keep_images: bool = False,
        varied: bool = False,
        photographs: Float[Tensor, "p 3 height width"] | None = None,
    ) -> None:
        self.capacity, self.num_frames, self.image_size = capacity, num_frames, image_size
        self.first_seed, self.device, self.encode, self.compiled = first_seed, device, encode, compiled
        self.varied, self.photographs = varied, photographs
        self.made = 0
        self._frames: Tensor | None = None
        self._images: Tensor | None = None
        if keep_images:
            shape = (capacity, num_frames, 3, image_size, image_size)
            self._images = torch.empty(shape, dtype=torch.uint8, device=device)
        self._c2w = torch.empty(capacity, num_frames, 4, 4, device=device)
        self._intrinsics = torch.empty(capacity, num_frames, 3, 3, device=device)
        self._unit = torch.ones(capacity, device=device)

    def fill(self, on_progress: Callable[[int], None] = lambda made: None) -> None:
        """Render scenes until the pool is full."""
        while self.made < self.capacity:
            self.renew(min(SCENES_AT_A_TIME, self.capacity - self.made))
            on_progress(self.made)

    @torch.no_grad()
    def renew(self, count: int) -> None:
        """Replace the `count` oldest scenes with new ones."""
        numbers = range(self.made, self.made + count)
        images, c2w, intrinsics, unit = self._make(numbers)
        frames = self.encode(images)
        if self._frames is None:
            self._frames = frames.new_empty(self.capacity, *frames.shape[1:])
        places = torch.arange(self.made, self.made + count, device=self.device) % self.capacity
        self._frames[places] = frames
        if self._images is not None:
            self._images[places] = images
        self._c2w[places] = c2w
        self._intrinsics[places] = intrinsics
        self._unit[places] = unit
        self.made += count

    def _make(
        self, numbers: range
    ) -> tuple[UInt8[Tensor, "b v 3 h w"], Float[Tensor, "b v 4 4"], Tensor, Float[Tensor, " b"]]:
        """Render scenes. Returns images, poses, intrinsics, and the length of a metre in the unit of the poses."""
        rooms = sample_rooms([self.first_seed + n for n in numbers], self.device)
        c2w = sample_walks(rooms, self.num_frames)
        lens = rooms.intrinsics
        kind = torch.tensor([n % VARIETY for n in numbers], device=self.device)
        photographs = self.photographs
        capture = torch.isin(kind, kind.new_tensor(CAPTURES)) & self.varied
        if not self.varied and photographs is not None:
            rooms = without_photographs(rooms, kind >= 0)
        if self.varied:
            orbit = kind == ORBIT
            c2w = torch.where(orbit[:, None, None, None], sample_orbits(rooms, self.num_frames), c2w)
            c2w = torch.where(capture[:, None, None, None], sample_captures(rooms, self.num_frames), c2w)
            lens = torch.where(orbit[:, None, None], longer_lens(rooms, 0.7), lens)
            lens = torch.where(capture[:, None, None], longer_lens(rooms, 1.2), lens)
            rooms = without_photographs(rooms, (kind % 2 == 1) & ~capture)
            if photographs is not None:
                rooms = with_photographs(rooms, capture)
        intrinsics = lens[:, None].expand(-1, self.num_frames, 3, 3)
        shown = render_rooms(
            rooms,
            c2w,
            intrinsics,
            self.image_size,
            samples=SAMPLES,
            edge_samples=0,
            compiled=self.compiled,
            photographs=photographs,
        )
        if self.varied and photographs is not None:
            inside = (kind == PANORAMA).nonzero()[:, 0]
            some = rooms.select(inside)
            c2w[inside], shown[inside] = panorama_views(some, photographs, c2w[inside], lens[inside], self.image_size)
        if self.varied:
            exposed = torch.isin(kind, kind.new_tensor(EXPOSED))
            exposure = torch.where(exposed, rooms.photo[:, 1] * 0.9 + 0.6, 1.0)
            shown = shown ** exposure[:, None, None, None, None]
        middle = c2w[:, :, :3, 3].mean(dim=1, keepdim=True)
        spread = (c2w[:, :, :3, 3] - middle).square().sum(dim=-1).mean(dim=1).sqrt()
        varied = 0.8 + 0.5 * torch.frac(17 * rooms.photo[:, 1])
        unit = torch.where(capture, varied * TYPICAL_SPREAD / spread.clamp_min(0.1), 1.0)
        c2w[:, :, :3, 3] *= unit[:, None, None]
        return (shown * 255).round().byte(), c2w, intrinsics, unit

    def take(self, scenes: Int[Tensor, " b"], views: Int[Tensor, "b v"]) -> PoolBatch:
        """Return frames `views[i]` of scene `scenes[i]`, which is a place in the pool."""
        assert self._frames is not None, "fill the pool first"
        rows = scenes[:, None]
        return PoolBatch(self._frames[rows, views], self._c2w[rows, views], self._intrinsics[rows, views])

    def images(self, scenes: Int[Tensor, " b"], views: Int[Tensor, "b v"]) -> UInt8[Tensor, "b v 3 height width"]:
        """Return the images of these frames. Only pools with `keep_images` have them."""
        assert self._images is not None, "make the pool with keep_images"
        return self._images[scenes[:, None], views]


def without_photographs(rooms: RoomBatch, where: Tensor) -> RoomBatch:
    """Rooms that show painted pictures and scenery, not photographs, where `where` is true."""
    materials, photo = rooms.materials.clone(), rooms.photo.clone()
    materials[..., MATERIAL_SLICES["photo"]] *= ~where[:, None, None]
    photo[:, 2] *= ~where
    return replace(rooms, materials=materials, photo=photo)


def with_photographs(rooms: RoomBatch, where: Tensor) -> RoomBatch:
    """Rooms with parts of their photograph on half to all of the surfaces that are not windows, where `where` is true.

    The parts, and the sizes of the pictures from 0.8 to 3.4 metres, differ from surface to surface.
    """
    materials = rooms.materials.clone()
    count = materials.shape[1]
    number = torch.arange(count, device=materials.device) + 31 * rooms.photo[:, 1, None]
    chosen = torch.frac(0.755 * number) < 0.5 + 0.5 * rooms.photo[:, :1]
    chosen &= where[:, None] & (materials[..., MATERIAL_SLICES["sky"]][..., 0] == 0)
    side = 0.8 + 2.6 * torch.frac(0.618 * number)
    new = {"photo": 0.01 + 0.99 * torch.frac(0.57 * number), "cell_u": side, "cell_v": side}
    new |= dict.fromkeys(("gap", "sides_only", "emission"), torch.zeros_like(side))
    for name, value in new.items():
        part = MATERIAL_SLICES[name]
        materials[..., part] = torch.where(chosen[..., None], value[..., None], materials[..., part])
    return replace(rooms, materials=materials)


def longer_lens(rooms: RoomBatch, most: float) -> Float[Tensor, "b 3 3"]:
    """Intrinsics with focal lengths of 1 to 1 + `most` times the room's; the factor depends on the room alone."""
    lens = rooms.intrinsics.clone()
    lens[:, :2, :2] *= (1 + most * rooms.photo[:, 1])[:, None, None]
    return lens


def panorama_views(
    rooms: RoomBatch,
    photographs: Float[Tensor, "p 3 height width"],
    c2w: Float[Tensor, "b v 4 4"],
    lens: Float[Tensor, "b 3 3"],
    size: int,
) -> tuple[Float[Tensor, "b v 4 4"], Float[Tensor, "b v 3 size size"]]:
    """Views of each room's panorama.

    Returns poses that stay in the first camera's place and turn as the given ones do, and the pictures seen there.
    """
    forward = c2w[..., :3, 2].double()
    yaw = torch.atan2(forward[..., 1], forward[..., 0])
    pitch = torch.asin(forward[..., 2].clamp(-1, 1)) + 0.2 + 0.15 * torch.sin(2 * yaw + 6 * rooms.photo[:, :1])
    turned = look_along(c2w[:, :1, :3, 3].double().expand(*yaw.shape, 3), yaw, pitch, torch.zeros_like(yaw))
    b, v = yaw.shape
    lenses = lens[:, None].expand(b, v, 3, 3).flatten(0, 1)
    _, direction = pixel_rays(turned.flatten(0, 1), lenses, size, pixel_samples(1))
    by_room = direction.unflatten(0, (b, v)).transpose(1, 2).flatten(2)
    bright = replace(rooms, photo=torch.cat([rooms.photo[:, :3], 0.7 + 0.6 * rooms.photo[:, 1:2]], dim=1))
    color = panorama_color(bright, photographs, by_room).clamp(0, 1) ** (1 / 2.2)
    return turned, color.unflatten(2, (v, size, size)).transpose(1, 2)


def draw_training_views(
    generator: torch.Generator,
    batch: int,
    num_frames: int,
    num_context: int,
    num_targets: int,
    two_clips: float,
    partial: float = 0.0,
    strides: bool = False,
) -> tuple[Int[Tensor, "b context"], Int[Tensor, "b target"]]:
    """Draw the views of training samples on the generator's device.

    Context views come one from each of `num_context` equal parts of the walk. Targets are one run of frames, or two
    with probability `two_clips`.

    Args:
        generator: Source of the random numbers.
        batch: Number of samples.
        num_frames: Number of frames of a walk.
        num_context: Number of context views.
        num_targets: Number of targets.
        two_clips: Probability that targets are two runs of half the length.
        partial: Probability that the context comes from a stretch of only 3/10 to 7/10 of the walk, so that most
            targets show parts that no context view has seen.
        strides: Let runs also repeat one frame (1 of 12) or take every second frame (2 of 12), or let targets be frames
            from anywhere (1 of 12).

    Returns:
        Frame numbers of context views and targets.
    """
    device = generator.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=device)

    parts = torch.arange(num_context, device=device)
    along = (parts + uniform(batch, num_context)) / num_context
    share = torch.where(uniform(batch, 1) < partial, 0.3 + 0.4 * uniform(batch, 1), 1.0)
    first = (1 - share) * uniform(batch, 1)
    context = ((first + share * along) * num_frames).long().clamp(max=num_frames - 1)
    half = num_targets // 2
    step = torch.ones(batch, 1, dtype=torch.int64, device=device)
    kind = uniform(batch, 1) * 12 if strides else torch.full((batch, 1), 2.0, device=device)
    if strides:
        step = torch.where(kind < 1, 0, torch.where(kind < 9, 1, 2))
    starts = (uniform(batch, 2) * (num_frames - step * (half - 1))).long()
    two = (starts[:, :, None] + step[:, :, None] * torch.arange(half, device=device)).flatten(1)
    start = (uniform(batch, 1) * (num_frames - step * (num_targets - 1))).long()
    one = start + step * torch.arange(num_targets, device=device)
    target = torch.where(uniform(batch, 1) < two_clips, two, one)
    anywhere = (uniform(batch, num_targets) * num_frames).long() if strides else target
    return context, torch.where(kind >= 11, anywhere, target)
