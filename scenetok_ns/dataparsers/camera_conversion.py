"""Convert Nerfstudio's cameras to this package's cameras and back. All such conversions are in this module.

Nerfstudio: OpenGL axes (x right, y up, looking along -z), camera-to-world 3 x 4, focal length and centre in pixels.
SceneTok: OpenCV axes (x right, y down, looking along +z), camera-to-world 4 x 4, intrinsics divided by the image size.
The world is the same in both.
"""

from __future__ import annotations

from typing import Any

import torch
from nerfstudio.cameras.cameras import Cameras, CameraType

from scenetok_ns.data.poses import flip_axes
from scenetok_ns.models.cameras import CameraBatch


def nerfstudio_to_camera_batch(cameras: Cameras) -> CameraBatch:
    """Convert N perspective cameras to a batch of one element with N views, float32, on the cameras' device.

    Lens distortion is ignored, as everywhere in SceneTok. Raises ValueError for other camera types.
    """
    require_perspective(cameras)
    cameras = cameras.reshape((-1,))
    c2w_gl = cameras.camera_to_worlds.float()
    bottom = c2w_gl.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(len(c2w_gl), 1, 4)
    width, height = cameras.width.float(), cameras.height.float()
    zero, one = torch.zeros_like(width), torch.ones_like(width)
    rows = [
        torch.cat([cameras.fx.float() / width, zero, cameras.cx.float() / width], dim=-1),
        torch.cat([zero, cameras.fy.float() / height, cameras.cy.float() / height], dim=-1),
        torch.cat([zero, zero, one], dim=-1),
    ]
    c2w = flip_axes(torch.cat([c2w_gl, bottom], dim=1))
    return CameraBatch(c2w=c2w[None], intrinsics=torch.stack(rows, dim=1)[None])


def camera_batch_to_nerfstudio(
    batch: CameraBatch, height: int, width: int, metadata: dict[str, Any] | None = None
) -> Cameras:
    """Convert a batch of one element with N views to N perspective cameras of `height` x `width` pixels."""
    if batch.c2w.shape[0] != 1:
        raise ValueError(f"camera_batch_to_nerfstudio: expected a batch of one element, got {batch.c2w.shape[0]}")
    intrinsics = batch.intrinsics[0]
    return Cameras(
        camera_to_worlds=flip_axes(batch.c2w[0])[:, :3],
        fx=(intrinsics[:, 0, 0] * width)[:, None],
        fy=(intrinsics[:, 1, 1] * height)[:, None],
        cx=(intrinsics[:, 0, 2] * width)[:, None],
        cy=(intrinsics[:, 1, 2] * height)[:, None],
        width=width,
        height=height,
        camera_type=CameraType.PERSPECTIVE,
        metadata=metadata,
    )


def require_perspective(cameras: Cameras) -> None:
    """Raise ValueError unless all cameras are perspective cameras."""
    kinds = set(cameras.camera_type.flatten().tolist()) - {CameraType.PERSPECTIVE.value}
    if kinds:
        names = ", ".join(sorted(CameraType(kind).name.lower() for kind in kinds))
        raise ValueError(
            f"SceneTok renders perspective cameras only, got {names}; choose the perspective camera type for this path"
        )
