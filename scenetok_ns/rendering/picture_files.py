"""Convert pictures to bytes and files, and join several pictures in a sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from scenetok_ns.tools.atomic_files import write_atomically

JPEG_QUALITY = 92
CAPTION = 11
"""Height of the letters of captions, in pixels."""


def to_bytes(pictures: Float[Tensor, "*n height width"]) -> UInt8[Tensor, "*n height width"]:
    """Round pictures in [0, 1] to 8 bits."""
    return (pictures.float().clamp(0, 1) * 255).round().to(torch.uint8)


def encode_picture(picture: Float[Tensor, "3 h w"] | UInt8[Tensor, "3 h w"], kind: Literal["PNG", "JPEG"]) -> bytes:
    """Encode a picture as an image file. A floating-point picture is in [0, 1]."""
    levels = to_bytes(picture) if picture.is_floating_point() else picture
    data = BytesIO()
    Image.fromarray(levels.permute(1, 2, 0).contiguous().cpu().numpy()).save(data, kind, quality=JPEG_QUALITY)
    return data.getvalue()


def save_picture(path: Path, picture: Float[Tensor, "3 h w"] | UInt8[Tensor, "3 h w"]) -> None:
    """Write a .png or .jpg file, which is complete or absent. Raises OSError."""
    write_atomically(path, encode_picture(picture, "PNG" if path.suffix == ".png" else "JPEG"))


def captioned(picture: UInt8[Tensor, "3 h w"], captions: Mapping[int, str]) -> UInt8[Tensor, "3 h w"]:
    """Return a copy of a picture with small captions at its upper edge: column where a caption begins -> its text."""
    image = Image.fromarray(picture.permute(1, 2, 0).contiguous().cpu().numpy())
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(CAPTION)
    for left, text in captions.items():
        place = (left + 3, 2)
        draw.rectangle((left, 0, draw.textbbox(place, text, font=font)[2] + 2, CAPTION + 4), fill=(0, 0, 0))
        draw.text(place, text, fill=(255, 255, 255), font=font)
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


def sheet(rows: Sequence[Sequence[Tensor] | Tensor]) -> Tensor:
    """Join rows of pictures [3, h, w] to one picture [3, rows * h, columns * w].

    All rows have the same number of pictures, and all pictures the same size and type.
    """
    return torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
