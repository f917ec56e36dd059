"""Errors that released weights were trained with, and therefore need (docs/quirks.md).

Each is a field that is on in the presets of those weights and off everywhere else. The order of the Wan camera features
(`denoiser.camera_channels_last`) belongs to the pose embedding, `networks/pose_embedding.py`; the focal scale is here.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.presets import Preset

DL3DV_SIZE = (2160, 3840)
"""Height and width of DL3DV's original videos in pixels."""


def scale_focal_by_256(
    intrinsics: Float[Tensor, "*batch 3 3"], stored_size: tuple[int, int] = DL3DV_SIZE
) -> Float[Tensor, "*batch 3 3"]:
    """Multiply focal lengths that are already divided by the image size by width / 256 and height / 256 again.

    Training always used DL3DV's own size, so the factors are 15 and 8.4375, whatever size a scene was stored in. The
    published reader of images uses the size in transforms.json, which is the same for DL3DV's scenes (parity c11).
    """
    height, width = stored_size
    scale = torch.ones(3, 3, dtype=torch.float64)
    scale[0, 0], scale[1, 1] = width / 256, height / 256
    return intrinsics * scale.to(intrinsics, non_blocking=True)


def network_cameras(cameras: CameraBatch, role: Literal["context", "target"], preset: Preset) -> CameraBatch:
    """Convert cameras for the networks of `preset`; the only place that applies the focal quirk.

    Condition views and anchors of the scene generator count as context.
    """
    quirk = preset.data.scale_focal_by_256
    if quirk == "all" or quirk == role:
        return CameraBatch(cameras.c2w, scale_focal_by_256(cameras.intrinsics))
    return cameras
