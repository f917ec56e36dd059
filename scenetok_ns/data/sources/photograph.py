"""One photograph as a scene to generate from: any image file as upright RGB bytes, its field of view, and a path."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps
from torch import Tensor

from scenetok_ns.data.scenes import DataError, OneScene, Scene, ViewIndices, Views

DEFAULT_FOV = 58.0
"""Degrees along the shorter side where EXIF has no focal length: about that of RealEstate10K's videos."""
PLAUSIBLE_FOV = (5.0, 150.0)
"""Degrees along the shorter side; EXIF data outside of it is not believed."""
FARTHEST_REACH = 30.0
"""Units of the training data; its rooms are a few wide. Paths that lead farther are most likely in other units."""
FULL_FRAME_DIAGONAL_MM = math.hypot(36.0, 24.0)
"""Equivalent focal lengths are for a film of this diagonal (CIPA DCG-001)."""

_EXIF_IFD = 0x8769
_ORIENTATION = 0x0112
_FOCAL_LENGTH, _FOCAL_LENGTH_35MM = 0x920A, 0xA405
_PLANE_RESOLUTION, _PLANE_UNIT = 0xA20E, 0xA210
_PIXELS_X, _PIXELS_Y = 0xA002, 0xA003
_UNIT_MM = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}


@dataclass(frozen=True, eq=False)
class Photograph:
    """Pixels as they are meant to be looked at, and what the camera wrote beside them."""

    image: UInt8[Tensor, "3 h w"]
    fov: float | None
    """Field of view along the shorter side in degrees, from EXIF; None: missing or not plausible."""
    notes: tuple[str, ...]
    """What was done to make it a picture of three channels of bytes."""

    def field_of_view(self, fov: float | None = None) -> tuple[float, str]:
        """Field of view along the shorter side in degrees: as given, from EXIF, or `DEFAULT_FOV`; and which it is.

        Raises DataError for one that is not plausible.
        """
        if fov is not None:
            low, high = PLAUSIBLE_FOV
            if not low <= fov <= high:
                raise DataError(f"a field of view of {fov:g} degrees was given; expected {low:g} to {high:g}")
            return fov, "as given"
        if self.fov is not None:
            return self.fov, "from EXIF"
        return DEFAULT_FOV, "assumed, as EXIF does not tell; give --fov if you know it"

    def intrinsics(self, fov: float) -> Float[Tensor, "3 3"]:
        """Intrinsics divided by the image size, principal point in the middle; `fov` along the shorter side."""
        height, width = self.image.shape[1:]
        focal = 0.5 * min(height, width) / math.tan(math.radians(fov) / 2)
        return torch.tensor([[focal / width, 0.0, 0.5], [0.0, focal / height, 0.5], [0.0, 0.0, 1.0]])


def read_photograph(path: Path) -> Photograph:
    """Read an image file of any kind that Pillow knows.

    EXIF rotation is applied, transparency is laid on white, 16-bit values are taken to bytes, other colour spaces to
    RGB without their profile. The last photograph is remembered: a command checks it before the model reads it.
    Raises DataError, in one line, for files that are not images, are damaged, or hold no picture.
    """
    if not path.is_file():
        raise DataError(f"no image at {path}")
    status = path.stat()
    return _read_photograph(path, (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino))


@lru_cache(maxsize=1)
def _read_photograph(path: Path, state: tuple[int, ...]) -> Photograph:
    """`state`: what changes with the content of the file."""
    try:
        with Image.open(path) as stored:
            stored.load()
            tags = _exif(stored)
            count = getattr(stored, "n_frames", 1)
            fov = _fov(tags, stored.size)
            upright = ImageOps.exif_transpose(stored)
            notes = ["turned upright as EXIF says"] if tags.get(_ORIENTATION, 1) not in (0, 1) else []
            # Telephones put previews after the photograph (MPO).
            notes += [f"the first of its {count} pictures"] if count > 1 and stored.format != "MPO" else []
            pixels, note = _to_rgb(upright)
    except Image.DecompressionBombError as error:
        raise DataError(f"{path} is too large to be read: {error}") from error
    # Pillow reports damaged files as OSError, SyntaxError (PNG), ValueError or EOFError.
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} cannot be read as an image: {reason}") from error
    return Photograph(torch.from_numpy(pixels).permute(2, 0, 1).contiguous(), fov, tuple(notes + note))


def _to_rgb(image: Image.Image) -> tuple[np.ndarray, list[str]]:
    """Pixels [h, w, 3] as bytes, and what was done. Raises ValueError where that makes no sense."""
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers without a known range; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError(f"its values go from {values.min()} to {values.max()}; expected 16 bits, 0 to 65535")
        grey = ((values + 128) // 257).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2), ["16 bits taken to 8"]
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        layer = image.convert("RGBA")
        if not np.asarray(layer)[:, :, 3].any():
            raise ValueError("it is transparent everywhere")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return np.array(Image.alpha_composite(white, layer).convert("RGB")), ["transparency laid on white"]
    notes = [f"{image.mode} taken to RGB without its colour profile"] if image.mode in ("CMYK", "YCbCr", "LAB") else []
    return np.array(image.convert("RGB")), notes


def _exif(image: Image.Image) -> dict[int, Any]:
    """All tags, main and photographic; none where they are damaged."""
    try:
        tags = image.getexif()
        return {**tags, **tags.get_ifd(_EXIF_IFD)}
    except Exception:  # damaged EXIF raises almost anything, and a photograph without is as good
        return {}


def _fov(tags: Mapping[int, Any], size: tuple[int, int]) -> float | None:
    """Field of view along the shorter side in degrees; None if the tags lack it or are not plausible."""
    focal = _focal_pixels(tags, size)
    if focal is None:
        return None
    fov = math.degrees(2 * math.atan(0.5 * min(size) / focal))
    low, high = PLAUSIBLE_FOV
    return fov if low <= fov <= high else None


def _focal_pixels(tags: Mapping[int, Any], size: tuple[int, int]) -> float | None:
    equivalent = _positive(tags.get(_FOCAL_LENGTH_35MM))
    if equivalent is not None:
        return equivalent / FULL_FRAME_DIAGONAL_MM * math.hypot(*size)
    length, resolution = _positive(tags.get(_FOCAL_LENGTH)), _positive(tags.get(_PLANE_RESOLUTION))
    if length is None or resolution is None:
        return None
    pixels = length * resolution / _UNIT_MM.get(tags.get(_PLANE_UNIT, 2), 25.4)
    # The resolution is that of the picture as it was taken; it may have been made smaller since.
    taken = max(_positive(tags.get(tag)) or 0.0 for tag in (_PIXELS_X, _PIXELS_Y))
    return pixels * (max(size) / taken if taken else 1.0)


def _positive(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) and number > 0 else None


@dataclass(frozen=True, eq=False)
class GenerationInputs:
    """What a scene is generated from."""

    views: Views
    """One to a few photographs; the first one's camera is the reference."""
    anchors: Float[Tensor, "a 4 4"]
    """Poses at which the scene is meant to be seen; camera-to-world, OpenCV axes."""
    pose_scale: float = 1.0
    """Units of the poses -> units of the training data."""


class PhotographSource(OneScene):
    """One scene of one frame, the photograph, at the first pose of `path`.

    Raises DataError for a file that is not an image.
    """

    anchors_path: Float[Tensor, "k 4 4"]

    def __init__(
        self, file: Path, path: Float[Tensor, "k 4 4"], *, fov: float | None = None, pose_scale: float = 1.0
    ) -> None:
        """`path`: camera-to-world, OpenCV axes. `fov`: along the shorter side in degrees; None: from EXIF, else
        assumed. `pose_scale`: see `GenerationInputs`."""
        if not 0 < pose_scale < float("inf"):
            raise DataError(f"expected a pose scale above 0, got {pose_scale:g}")
        super().__init__(file.stem)
        self.file = file
        self.anchors_path, self.pose_scale = path, pose_scale
        self.photograph: Photograph = read_photograph(file)
        self.fov, source = self.photograph.field_of_view(fov)
        self.focal_note = f"field of view {self.fov:.1f} degrees along the shorter side ({source})"

    def read(self) -> Scene:
        return Scene(
            key=self.key,
            c2w=self.anchors_path[:1],
            intrinsics=self.photograph.intrinsics(self.fov)[None],
            frame_names=("photograph",),
            read_frame=self._read,
        )

    def fixed_views(self, count: int, *, fewer: bool = False) -> ViewIndices:
        """The photograph, for any `count`; a render from its place is compared with it, too."""
        return ViewIndices(context=torch.zeros(1, dtype=torch.int64), target=torch.zeros(1, dtype=torch.int64))

    def path_note(self) -> str:
        """How large the path is in the units that the model knows: a path has no scale of its own."""
        advice = "another --pose-scale makes the scene larger or smaller"
        if self.reach > FARTHEST_REACH:
            advice = "scenes in training reach a few units: make --pose-scale smaller"
        size = f"up to {self.reach:.2g} units of the training data away"
        return f"the path of {len(self.anchors_path)} cameras leads {size}; {advice}"

    @property
    def reach(self) -> float:
        """Distance of the farthest camera of the path from the first, in units of the training data."""
        positions = self.anchors_path[:, :3, 3]
        return float((positions - positions[:1]).norm(dim=1).max()) * self.pose_scale

    def check_size(self, side: int) -> None:
        """Raise DataError unless the photograph holds a square of `side` pixels."""
        height, width = self.photograph.image.shape[1:]
        if min(height, width) < side:
            raise DataError(
                f"the photograph {self.file.name} has {width} x {height} pixels, but this model sees {side} x {side}: "
                f"give one whose shorter side has at least {side}"
            )

    def _read(self, index: int) -> UInt8[Tensor, "3 h w"]:
        return self.photograph.image
