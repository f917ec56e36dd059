"""Read one photograph to generate a scene from: upright RGB bytes, its field of view, and a path."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps
from torch import Tensor

from scenetok_ns.data.pixels import ORIENTATION, exif_tags, focal_pixels, is_invisible, to_rgb
from scenetok_ns.data.scenes import DataError, OneScene, Scene, ViewIndices, Views

DEFAULT_FOV = 58.0
"""Field of view along the shorter side in degrees if EXIF has no focal length: about that of RealEstate10K's videos."""
PLAUSIBLE_FOV = (5.0, 150.0)
"""Range of fields of view along the shorter side in degrees. EXIF data outside this range is ignored."""
FARTHEST_REACH = 30.0
"""Reach above which a path is most likely in other units than the training data, whose rooms are a few units wide."""


@dataclass(frozen=True, eq=False)
class Photograph:
    """Upright pixels, and the EXIF data of the camera."""

    image: UInt8[Tensor, "3 h w"]
    fov: float | None
    """Field of view along the shorter side in degrees, from EXIF; None: missing or not plausible."""
    notes: tuple[str, ...]
    """Conversions that were needed to get three channels of bytes."""

    def field_of_view(self, fov: float | None = None) -> tuple[float, str]:
        """Choose the field of view: `fov` if given, else that of EXIF, else `DEFAULT_FOV`.

        Returns:
            Field of view along the shorter side in degrees, and its source in words.

        Raises:
            DataError: `fov` is not plausible.
        """
        if fov is not None:
            low, high = PLAUSIBLE_FOV
            if not low <= fov <= high:
                raise DataError(f"a field of view of {fov:g} degrees was given; expected {low:g} to {high:g}")
            return fov, "as given"
        if self.fov is not None:
            return self.fov, "from EXIF"
        return DEFAULT_FOV, "assumed, because EXIF has none; give --fov if you know it"

    def intrinsics(self, fov: float) -> Float[Tensor, "3 3"]:
        """Intrinsics divided by the image size, principal point in the middle; `fov` along the shorter side."""
        height, width = self.image.shape[1:]
        focal = 0.5 * min(height, width) / math.tan(math.radians(fov) / 2)
        return torch.tensor([[focal / width, 0.0, 0.5], [0.0, focal / height, 0.5], [0.0, 0.0, 1.0]])


def read_photograph(path: Path) -> Photograph:
    """Read an image file in any format that Pillow knows.

    EXIF rotation is applied, transparency is laid on white, 16-bit values are reduced to bytes, and other colour spaces
    are converted to RGB without their profile. The last photograph is cached, because commands check it before the
    model reads it.

    Raises:
        DataError: The file is not an image, is damaged, or is transparent everywhere; one line.
    """
    if not path.is_file():
        raise DataError(f"no image at {path}")
    status = path.stat()
    return _read_photograph(path, (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino))


@lru_cache(maxsize=1)
def _read_photograph(path: Path, state: tuple[int, ...]) -> Photograph:
    """Read a photograph. `state` is a key for the cache that changes with the content of the file."""
    try:
        with Image.open(path) as stored:
            return photograph_of(stored, path)
    except Image.DecompressionBombError as error:
        raise DataError(f"{path} is too large to be read: {error}") from error
    # Pillow reports damaged files as OSError, SyntaxError (PNG), ValueError or EOFError.
    except (OSError, SyntaxError, EOFError) as error:
        raise _unreadable(path, error) from error


def photograph_of(stored: Image.Image, path: Path) -> Photograph:
    """Convert an opened picture. `path` names it in messages. Errors are those of `read_photograph`."""
    try:
        stored.load()
        tags = exif_tags(stored)
        count = getattr(stored, "n_frames", 1)
        fov = _fov(tags, stored.size)
        upright = ImageOps.exif_transpose(stored)
        notes = ["turned upright as EXIF says"] if tags.get(ORIENTATION, 1) not in (0, 1) else []
        # In an MPO file, phones store previews after the photograph.
        notes += [f"the first of its {count} pictures"] if count > 1 and stored.format != "MPO" else []
        if is_invisible(upright):
            raise ValueError("it is transparent everywhere")
        pixels, note = to_rgb(upright)
    except Image.DecompressionBombError as error:
        raise DataError(f"{path} is too large to be read: {error}") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise _unreadable(path, error) from error
    return Photograph(torch.from_numpy(pixels).permute(2, 0, 1).contiguous(), fov, tuple(notes + note))


def _unreadable(path: Path, error: Exception) -> DataError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return DataError(f"{path} cannot be read as an image: {reason}")


def _fov(tags: Mapping[int, Any], size: tuple[int, int]) -> float | None:
    """Field of view along the shorter side in degrees; None if the tags lack it or are not plausible."""
    focal = focal_pixels(tags, size)
    if focal is None:
        return None
    fov = math.degrees(2 * math.atan(0.5 * min(size) / focal))
    low, high = PLAUSIBLE_FOV
    return fov if low <= fov <= high else None


@dataclass(frozen=True, eq=False)
class GenerationInputs:
    """Inputs of scene generation."""

    views: Views
    """One or a few photographs; the camera of the first one is the reference."""
    anchors: Float[Tensor, "a 4 4"]
    """Poses from which the scene will be seen; camera-to-world, OpenCV axes."""
    pose_scale: float = 1.0
    """Factor from units of the poses to units of the training data."""


class PhotographSource(OneScene):
    """One scene of one frame, the photograph, at the first pose of `path`.

    Raises DataError for a file that is not an image.
    """

    anchors_path: Float[Tensor, "k 4 4"]

    def __init__(
        self,
        file: Path,
        path: Float[Tensor, "k 4 4"],
        *,
        fov: float | None = None,
        pose_scale: float = 1.0,
        photograph: Photograph | None = None,
    ) -> None:
        """Read the photograph.

        Args:
            file: The photograph.
            path: Poses of the path, camera-to-world, OpenCV axes.
            fov: Field of view along the shorter side in degrees. None: from EXIF, else assumed.
            pose_scale: See `GenerationInputs`.
            photograph: The photograph, if it is read already; `file` then only names it.
        """
        if not 0 < pose_scale < float("inf"):
            raise DataError(f"expected a pose scale above 0, got {pose_scale:g}")
        super().__init__(file.stem)
        self.file = file
        self.anchors_path, self.pose_scale = path, pose_scale
        self.photograph: Photograph = read_photograph(file) if photograph is None else photograph
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
        """Return the photograph as context and as target, for any `count`, so a render from its place is measured."""
        return ViewIndices(context=torch.zeros(1, dtype=torch.int64), target=torch.zeros(1, dtype=torch.int64))

    def path_note(self) -> str:
        """Describe the size of the path in the units of the training data, which the path itself does not determine."""
        advice = "another --pose-scale makes the scene larger or smaller"
        if self.reach > FARTHEST_REACH:
            advice = "scenes in training reach a few units: make --pose-scale smaller"
        return f"the path moves up to {self.reach:.2g} scene units from the photograph; {advice}"

    @property
    def reach(self) -> float:
        """Distance of the farthest camera of the path from the first, in units of the training data."""
        positions = self.anchors_path[:, :3, 3]
        return float((positions - positions[:1]).norm(dim=1).max()) * self.pose_scale

    def check_size(self, side: int) -> None:
        """Raise DataError unless both sides of the photograph have at least `side` pixels."""
        height, width = self.photograph.image.shape[1:]
        if min(height, width) < side:
            raise DataError(
                f"the photograph {self.file.name} has {width} x {height} pixels, but this model sees {side} x {side}: "
                f"give one whose shorter side has at least {side}"
            )

    def _read(self, index: int) -> UInt8[Tensor, "3 h w"]:
        return self.photograph.image
