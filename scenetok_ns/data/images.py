"""Decode, rescale and centre-crop photographs, and adjust their intrinsics."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from scenetok_ns.data.pixels import WHITE, to_rgb


def decode_image(file: bytes | Path, background: tuple[int, int, int] = WHITE) -> UInt8[Tensor, "3 h w"]:
    """Read a picture, from its bytes or its file, as RGB; transparency is laid on `background`.

    EXIF rotation is ignored, because poses refer to the pixels as they are stored. Raises OSError, SyntaxError or
    ValueError, as Pillow does, if the picture is damaged, cut short or absurdly large.
    """
    try:
        with Image.open(BytesIO(file) if isinstance(file, bytes) else file) as image:
            pixels, _ = to_rgb(image, background)
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def scaled_size(stored: tuple[int, int], crop: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the smallest image with the proportions of `stored` that contains `crop`.

    Halves round to even, as in the published code, because the weights were trained on crops of these images.
    """
    scale = max(crop[0] / stored[0], crop[1] / stored[1])
    return round(stored[0] * scale), round(stored[1] * scale)


def rescale_and_crop(image: UInt8[Tensor, "3 h_in w_in"], crop: tuple[int, int]) -> UInt8[Tensor, "3 h w"]:
    """Rescale with Pillow's Lanczos filter so that `crop` = (height, width) just fits, then cut out the centre.

    The result equals the published code's training images, byte for byte (parity c11_rescale_crop). An odd margin
    leaves the larger half at the bottom and right.
    """
    height, width = scaled_size((image.shape[1], image.shape[2]), crop)
    pixels = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
    resized = torch.from_numpy(np.array(pixels.resize((width, height), Image.Resampling.LANCZOS)))
    top, left = (height - crop[0]) // 2, (width - crop[1]) // 2
    return resized[top : top + crop[0], left : left + crop[1]].permute(2, 0, 1).contiguous()


def crop_intrinsics(
    intrinsics: Float[Tensor, "*v 3 3"], stored: tuple[int, int], crop: tuple[int, int]
) -> Float[Tensor, "*v 3 3"]:
    """Intrinsics, divided by the image size, of `rescale_and_crop(image, crop)` for images of size `stored`.

    The normalised principal point is not changed, so for odd margins it is off by up to half a pixel, as in the
    published code (parity c11_rescale_crop).
    """
    height, width = scaled_size(stored, crop)
    scale = intrinsics.new_tensor([[width / crop[1], 1.0, 1.0], [1.0, height / crop[0], 1.0], [1.0, 1.0, 1.0]])
    return intrinsics * scale
