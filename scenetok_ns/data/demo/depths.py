"""Exact depth of the demo rooms' frames, in the form of the rest of the package."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from scenetok_ns.data.demo.render import first_hit
from scenetok_ns.data.demo.rooms import RoomBatch
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.depth_geometry import axis_rays

RAYS_PER_CHUNK = {"cpu": 1 << 14, "cuda": 1 << 20}


@torch.no_grad()
def room_depths(
    rooms: RoomBatch, c2w: Float[Tensor, "b v 4 4"], intrinsics: Float[Tensor, "b v 3 3"], size: int
) -> Float[Tensor, "b v 1 size size"]:
    """Depth along the camera's axis, in metres, of what is at the middle of each pixel; a window counts as its pane."""
    b, v = c2w.shape[:2]
    room_of_frame = torch.arange(b, device=c2w.device).repeat_interleave(v)
    cameras = CameraBatch(c2w.reshape(1, b * v, 4, 4), intrinsics.reshape(1, b * v, 3, 3))
    frames = max(RAYS_PER_CHUNK.get(c2w.device.type, RAYS_PER_CHUNK["cpu"]) // size**2, 1)
    found = []
    for part in torch.arange(b * v, device=c2w.device).split(frames):
        some = cameras.select(part)
        origin = some.c2w[0, :, :3, 3:].float()
        found.append(first_hit(rooms.select(room_of_frame[part]), origin, axis_rays(some, (size, size)).flatten(2))[1])
    return torch.cat(found).reshape(b, v, 1, size, size)
