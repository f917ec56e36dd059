"""Demo scenes made on the device while a model trains: a pool that is drawn from and renewed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from scenetok_ns.data.demo.scenes import render_rooms, sample_rooms, sample_walks

SCENES_AT_A_TIME = 64

Encode = Callable[[UInt8[Tensor, "b v 3 height width"]], Tensor]


@dataclass(frozen=True)
class PoolBatch:
    """Some frames of `b` scenes: whatever `encode` made of them, and their cameras."""

    frames: Tensor
    c2w: Float[Tensor, "b v 4 4"]
    intrinsics: Float[Tensor, "b v 3 3"]


class ScenePool:
    """`capacity` scenes of `num_frames` frames, held on the device as what `encode` makes of uint8 images.

    Scene number n comes from the seed `first_seed + n`, so pools with distant first seeds never share a scene.
    `renew` replaces the oldest scenes by new ones. compiled: see `render_rooms`; then renew as many scenes at a time as
    `fill` does, since each other number is compiled anew.
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
    ) -> None:
        self.capacity, self.num_frames, self.image_size = capacity, num_frames, image_size
        self.first_seed, self.device, self.encode, self.compiled = first_seed, device, encode, compiled
        self.made = 0
        self._frames: Tensor | None = None
        self._c2w = torch.empty(capacity, num_frames, 4, 4, device=device)
        self._intrinsics = torch.empty(capacity, num_frames, 3, 3, device=device)

    def fill(self, on_progress: Callable[[int], None] = lambda made: None) -> None:
        """Make scenes until the pool is full."""
        while self.made < self.capacity:
            self.renew(min(SCENES_AT_A_TIME, self.capacity - self.made))
            on_progress(self.made)

    @torch.no_grad()
    def renew(self, count: int) -> None:
        """Make `count` new scenes in the place of the oldest."""
        first = self.first_seed + self.made
        rooms = sample_rooms(list(range(first, first + count)), self.device)
        c2w = sample_walks(rooms, self.num_frames)
        intrinsics = rooms.intrinsics[:, None].expand(-1, self.num_frames, 3, 3)
        shown = render_rooms(rooms, c2w, intrinsics, self.image_size, compiled=self.compiled)
        images = (shown * 255).round().byte()
        frames = self.encode(images)
        if self._frames is None:
            self._frames = frames.new_empty(self.capacity, *frames.shape[1:])
        places = torch.arange(self.made, self.made + count, device=self.device) % self.capacity
        self._frames[places] = frames
        self._c2w[places] = c2w
        self._intrinsics[places] = intrinsics
        self.made += count

    def take(self, scenes: Int[Tensor, " b"], views: Int[Tensor, "b v"]) -> PoolBatch:
        """Frames `views[i]` of scene `scenes[i]`, by place in the pool."""
        assert self._frames is not None, "fill the pool first"
        rows = scenes[:, None]
        return PoolBatch(self._frames[rows, views], self._c2w[rows, views], self._intrinsics[rows, views])


def draw_training_views(
    generator: torch.Generator, batch: int, num_frames: int, num_context: int, num_targets: int, two_clips: float
) -> tuple[Int[Tensor, "b context"], Int[Tensor, "b target"]]:
    """One context view from each of `num_context` equal parts of the walk; targets are one run of frames, or two with
    probability `two_clips`. Made on the generator's device."""
    device = generator.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=device)

    parts = torch.arange(num_context, device=device)
    context = ((parts + uniform(batch, num_context)) * (num_frames / num_context)).long().clamp(max=num_frames - 1)
    half = num_targets // 2
    starts = (uniform(batch, 2) * (num_frames - half + 1)).long()
    two = (starts[:, :, None] + torch.arange(half, device=device)).flatten(1)
    start = (uniform(batch, 1) * (num_frames - num_targets + 1)).long()
    one = start + torch.arange(num_targets, device=device)
    return context, torch.where(uniform(batch, 1) < two_clips, two, one)
