"""Find the picture files that a transforms.json or a COLMAP model names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from PIL import Image

from scenetok_ns.data.scenes import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
LARGEST = 1600
"""Longer side in pixels above which pictures from images_2, images_4, ... are used, if they exist (as Nerfstudio)."""
ASPECT_TOLERANCE = 0.02
"""Relative difference of aspect ratios that rounding to whole pixels explains; with a larger one, it is a crop."""


class PictureFolder:
    """Looks up pictures below a folder.

    Names may have backslashes, or drive letters and folders of another machine. Their suffix may have another case, be
    wrong or be missing. Pictures may be in images_2, images_4, ... beside the folder in the name.
    """

    def __init__(self, folder: Path, downscale: int | None = None) -> None:
        """downscale: N takes pictures from the folder images_N. None: the largest pictures up to LARGEST pixels."""
        self.folder, self.downscale = folder, downscale
        self._listed: dict[Path, dict[str, Path]] = {}

    def find(self, name: str) -> Path:
        """Find the file of a picture. Raises DataError if there is none."""
        path = PurePosixPath(re.sub(r"^[A-Za-z]:", "", name.replace("\\", "/")))
        for place in self._places(path):
            full = self._in(place, path.name)
            smaller = dict(self._smaller(place, path.name))
            if self.downscale is not None and self.downscale > 1:
                if self.downscale in smaller:
                    return smaller[self.downscale]
                continue
            if full is None and smaller:
                return smaller[min(smaller)]
            if full is not None:
                return self._not_too_large(full, smaller)
        of = f" downscaled by {self.downscale}" if self.downscale not in (None, 1) else ""
        raise DataError(f"no picture {name}{of} in {self.folder}")

    def _places(self, path: PurePosixPath) -> Iterator[Path]:
        """Folders in which a picture may be: the named one, then with fewer and fewer of its leading folders."""
        if path.is_absolute():
            yield Path(path).parent
        parts = [part for part in path.parts[:-1] if part not in ("/", ".")]
        for first in range(len(parts) + 1):
            yield self.folder.joinpath(*parts[first:])
        yield self.folder / "images"

    def _smaller(self, place: Path, name: str) -> Iterator[tuple[int, Path]]:
        for beside in self._siblings(place):
            if (found := self._in(beside, name)) is not None:
                yield int(beside.name.rsplit("_", 1)[1]), found

    def _siblings(self, place: Path) -> list[Path]:
        if place == self.folder or not place.parent.is_dir():
            return []
        pattern = re.compile(re.escape(place.name) + r"_\d+")
        listed = self._list(place.parent)
        return [path for path in listed.values() if pattern.fullmatch(path.name) and path.is_dir()]

    def _not_too_large(self, full: Path, smaller: dict[int, Path]) -> Path:
        if self.downscale is not None or not smaller:
            return full
        longest = max(picture_size(full))
        fitting = [factor for factor in sorted(smaller) if longest / factor <= LARGEST]
        if longest <= LARGEST:
            return full
        return smaller[fitting[0] if fitting else max(smaller)]

    def _in(self, folder: Path, name: str) -> Path | None:
        """Find a file by its exact name, else in another case, else with another suffix, if only one file matches."""
        listed = self._list(folder)
        if not listed:
            return None
        exact = folder / name
        if exact.name in listed and listed[exact.name].is_file():
            return listed[exact.name]
        lower = name.lower()
        same = [path for key, path in listed.items() if key.lower() == lower and path.is_file()]
        if len(same) == 1:
            return same[0]
        stems = {lower, lower.rsplit(".", 1)[0]}
        alike = [
            path
            for path in listed.values()
            if path.suffix.lower() in SUFFIXES and path.stem.lower() in stems and path.is_file()
        ]
        return alike[0] if len(alike) == 1 else None

    def _list(self, folder: Path) -> dict[str, Path]:
        if folder not in self._listed:
            self._listed[folder] = {path.name: path for path in folder.iterdir()} if folder.is_dir() else {}
        return self._listed[folder]


def picture_size(file: Path) -> tuple[int, int]:
    """Read (width, height) of a picture as stored, from its header. Raises DataError."""
    try:
        with Image.open(file) as image:
            return image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{file} cannot be read as a picture: {reason}") from error


def check_proportions(file: Path, size: tuple[int, int], width: float | None, height: float | None) -> bool:
    """Whether a picture has another resolution than its intrinsics refer to, which then must be scaled.

    Args:
        file: The picture, for messages.
        size: Its (width, height).
        width: Width that the intrinsics refer to; None: unknown.
        height: Height that they refer to; None: unknown.

    Raises:
        DataError: The picture was cropped or turned.
    """
    if width is None or height is None or size == (width, height):
        return False
    given = f"{file}: the picture has {size[0]} x {size[1]} pixels, its camera is for {width:g} x {height:g}"
    if abs(size[0] / size[1] * height / width - 1) <= ASPECT_TOLERANCE:
        return True
    if abs(size[1] / size[0] * height / width - 1) <= ASPECT_TOLERANCE:
        raise DataError(f"{given}: it was turned; give the picture as it was when its pose was found")
    raise DataError(f"{given}: it was cropped; give the whole picture, or w, h, cx, cy of the crop")
