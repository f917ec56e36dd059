"""Read the depth maps of a data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

MILLIMETRES = 1e-3
"""Unit of depth files in metres if their data set states none, as in Nerfstudio."""


def read_depth_map(path: Path, unit: float) -> Float[Tensor, "h w"]:
    """Read a depth map: a 16-bit PNG, or a NumPy array (.npy).

    Args:
        path: The file.
        unit: Factor from the values in the file to the depth that is returned.

    Returns:
        Depth along the optical axis; 0 where it is unknown (0, negative or not finite in the file).

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is not a depth map.
    """
    if path.suffix == ".npy":
        values = np.load(path, allow_pickle=False)
    else:
        with Image.open(path) as image:
            values = np.asarray(image)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if values.ndim != 2 or (values.dtype == np.uint8 and path.suffix != ".npy"):
        raise ValueError(
            f"{path} is not a depth map: expected one channel of 16 bits, got {values.shape} {values.dtype}"
        )
    depth = torch.from_numpy(values.astype(np.float32)) * unit
    return torch.where(depth.isfinite() & (depth > 0), depth, 0.0)


def crop_depth(depth: Float[Tensor, "h w"], size: tuple[int, int]) -> Float[Tensor, "1 height width"]:
    """Rescale and centre-crop a depth map like its photograph (`images.rescale_and_crop`), without mixing depths.

    `size`: (height, width) of the crop.
    """
    height, width = depth.shape
    scale = max(size[0] / height, size[1] / width)
    scaled = (max(round(height * scale), size[0]), max(round(width * scale), size[1]))
    if scaled != (height, width):
        depth = F.interpolate(depth[None, None], size=scaled, mode="nearest-exact")[0, 0]
    top, left = (scaled[0] - size[0]) // 2, (scaled[1] - size[1]) // 2
    return depth[None, top : top + size[0], left : left + size[1]]
