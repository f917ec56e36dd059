"""Convert pictures of any mode to RGB bytes, and read the focal length from EXIF."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

EXIF_IFD = 0x8769
ORIENTATION = 0x0112
FOCAL_LENGTH, FOCAL_LENGTH_35MM = 0x920A, 0xA405
PLANE_RESOLUTION, PLANE_UNIT = 0xA20E, 0xA210
PIXELS_X, PIXELS_Y = 0xA002, 0xA003
FULL_FRAME_DIAGONAL_MM = math.hypot(36.0, 24.0)
"""Equivalent focal lengths refer to a film of this diagonal (CIPA DCG-001)."""

_UNIT_MM = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}


WHITE = (255, 255, 255)


def has_alpha(image: Image.Image) -> bool:
    """Whether some pixels may be transparent."""
    return "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info


def is_invisible(image: Image.Image) -> bool:
    """Whether all pixels are transparent."""
    return has_alpha(image) and not np.asarray(image.convert("RGBA"))[:, :, 3].any()


def to_rgb(image: Image.Image, background: tuple[int, int, int] = WHITE) -> tuple[np.ndarray, list[str]]:
    """Convert an opened picture of any mode to RGB.

    Transparency is laid on `background`, 16 bits are rounded to 8, other colour spaces lose their profile.

    Returns:
        Pixels [h, w, 3] as uint8, and a note for each conversion.

    Raises:
        ValueError: The pixels are floating-point numbers, or exceed 16 bits.
    """
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers without a known range; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError(f"its values go from {values.min()} to {values.max()}; expected 16 bits, 0 to 65535")
        grey = ((values + 128) // 257).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2), ["16 bits reduced to 8"]
    if has_alpha(image):
        layer = image.convert("RGBA")
        behind = Image.new("RGBA", layer.size, (*background, 255))
        note = "transparency laid on white" if background == WHITE else f"transparency laid on {background}"
        return np.array(Image.alpha_composite(behind, layer).convert("RGB")), [note]
    notes = (
        [f"{image.mode} converted to RGB without its colour profile"] if image.mode in ("CMYK", "YCbCr", "LAB") else []
    )
    return np.array(image.convert("RGB")), notes


def exif_tags(image: Image.Image) -> dict[int, Any]:
    """Read all EXIF tags of the main and the Exif directory; an empty dictionary if they are missing or damaged."""
    try:
        tags = image.getexif()
        return {**tags, **tags.get_ifd(EXIF_IFD)}
    except Exception:  # damaged EXIF raises almost anything, and a photograph without EXIF is usable
        return {}


def focal_pixels(tags: Mapping[int, Any], size: tuple[int, int]) -> float | None:
    """Focal length in pixels of a picture of `size` = (width, height); None if EXIF does not say."""
    equivalent = _positive(tags.get(FOCAL_LENGTH_35MM))
    if equivalent is not None:
        return equivalent / FULL_FRAME_DIAGONAL_MM * math.hypot(*size)
    length, resolution = _positive(tags.get(FOCAL_LENGTH)), _positive(tags.get(PLANE_RESOLUTION))
    if length is None or resolution is None:
        return None
    pixels = length * resolution / _UNIT_MM.get(tags.get(PLANE_UNIT, 2), 25.4)
    # The resolution refers to the picture as it was taken; it may have been reduced since.
    taken = max(_positive(tags.get(tag)) or 0.0 for tag in (PIXELS_X, PIXELS_Y))
    return pixels * (max(size) / taken if taken else 1.0)


def _positive(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) and number > 0 else None
