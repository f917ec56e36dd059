"""Prepare a folder of photographs for COLMAP and Nerfstudio: upright RGB pictures without copies and damaged files."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from scenetok_ns.data.pixels import (
    FOCAL_LENGTH,
    FOCAL_LENGTH_35MM,
    ORIENTATION,
    exif_tags,
    focal_pixels,
    is_invisible,
    to_rgb,
)

SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".heic", ".heif", ".avif"}
HEIF = {".heic", ".heif"}
RAW = {".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"}
VIDEOS = {".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".mts", ".3gp"}
KEPT_FORMATS = {"JPEG": {".jpg", ".jpeg"}, "MPO": {".jpg", ".jpeg"}, "PNG": {".png"}}
"""Formats that every reader knows, with the suffixes of files that are linked unchanged."""
JPEG_QUALITY = 95
FEWEST = 4
"""Number of pictures below which structure from motion is not attempted."""
FROM_ONE = "to make a scene from one photograph, use scenetok generate --image"
FROM_FEW = (
    "to make a scene from two or three photographs, run scenetok gallery, upload them, choose 'all uploaded' under "
    "Photograph in the folder Generation, and press Generate"
)
"""Advice for fewer pictures than a capture needs."""
SMALLEST_SIDE = 64
THUMBNAIL = 160
"""Side of the thumbnails in pixels."""
BLANK_CONTRAST = 4.0
"""Standard deviation of grey values below which a picture shows nothing."""


class CaptureError(ValueError):
    """Pictures cannot become a capture; the message is one line for the user."""


@dataclass(frozen=True)
class Picture:
    """One picture of a capture."""

    name: str
    """File name in the capture's images folder: ASCII, no spaces."""
    source: str
    """Name that the user knows: the photograph's path in its folder, or the time in a video."""
    width: int
    height: int
    focal: float | None
    """Focal length in pixels from EXIF; None if EXIF has none."""
    lens: str
    """Key that is equal for pictures with the same lens and focal length."""


@dataclass(frozen=True)
class LeftOut:
    """A photograph that cannot be used."""

    source: str
    reason: str


def find_photographs(folder: Path) -> list[Path]:
    """Find picture files in a folder and its subfolders, in natural order. Raises CaptureError if there is none."""
    files = [
        file for file in folder.rglob("*") if file.is_file() and not _is_passed_over(file.relative_to(folder), folder)
    ]
    found = [file for file in files if file.suffix.lower() in SUFFIXES]
    if found:
        return sorted(found, key=lambda file: natural(str(file.with_suffix(""))))
    suffixes = {file.suffix.lower() for file in files}
    if raw := sorted(suffixes & RAW):
        raise CaptureError(
            f"{folder} holds raw photographs ({', '.join(raw)}): export them as JPEG, and give that folder"
        )
    if suffixes & VIDEOS:
        video = next(file for file in files if file.suffix.lower() in VIDEOS)
        raise CaptureError(f"{folder} holds videos, no photographs: give one of them, such as {video}")
    raise CaptureError(f"{folder} holds no photographs (.jpg, .png, .heic, ...)")


def natural(name: str) -> list[tuple[int, str]]:
    """Sort key in which IMG_2 comes before IMG_10."""
    return [(int(part), "") if part.isdigit() else (-1, part.lower()) for part in re.split(r"(\d+)", name)]


def prepare_photographs(
    folder: Path, images: Path, progress: Callable[[str, int, int], None]
) -> tuple[list[Picture], list[LeftOut]]:
    """Put all photographs of a folder into `images`: upright RGB files are linked, all others are converted.

    Pixels are turned upright as EXIF says. Poses are estimated from the turned pictures, so the two always agree.

    Args:
        folder: Folder with the photographs.
        images: Folder to fill. It is created.
        progress: Called with "pictures", the number of photographs done and their total.

    Returns:
        The pictures in natural order, and the photographs that are damaged, blank or copies, with reasons.

    Raises:
        CaptureError: There are no photographs, or HEIC files cannot be read.
    """
    files = find_photographs(folder)
    if any(file.suffix.lower() in HEIF for file in files):
        _register_heif(folder)
    images.mkdir(parents=True, exist_ok=True)
    names = picture_names([file.relative_to(folder) for file in files])
    sources = [file.relative_to(folder).as_posix() for file in files]
    progress("pictures", 0, len(files))
    done = 0
    pictures: list[Picture] = []
    left_out: list[LeftOut] = []
    first_with: dict[str, str] = {}
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        for found, source in zip(
            pool.map(_prepare, files, names, sources, [images] * len(files)), sources, strict=True
        ):
            done += 1
            progress("pictures", done, len(files))
            if isinstance(found, LeftOut):
                left_out.append(found)
                continue
            picture, digest = found
            if digest in first_with:
                left_out.append(LeftOut(source, f"a copy of {first_with[digest]}"))
                (images / picture.name).unlink()
                continue
            first_with[digest] = source
            pictures.append(picture)
    finally:
        pool.shutdown(cancel_futures=True)
    return pictures, left_out


def picture_names(files: Sequence[Path]) -> list[str]:
    """Choose file names for one folder from paths in several: ASCII letters, digits, `_`, `-` and `.`.

    No two names differ in upper and lower case only. The suffix is that of the prepared file: .png for PNG, BMP and
    TIFF, otherwise .jpg.
    """
    taken: set[str] = set()
    names = []
    for file in files:
        stem = re.sub(r"[^A-Za-z0-9_-]+", "_", "_".join(file.with_suffix("").parts)).strip("_") or "picture"
        suffix = ".png" if file.suffix.lower() in (".png", ".bmp", ".tif", ".tiff") else ".jpg"
        name, number = f"{stem}{suffix}", 1
        while name.lower() in taken:
            number += 1
            name = f"{stem}_{number}{suffix}"
        taken.add(name.lower())
        names.append(name)
    return names


def check_number(count: int, what: str, fewest: int = FEWEST) -> None:
    """Raise CaptureError if there are fewer than `fewest` pictures; `what` names their source."""
    if count < fewest:
        there = "no picture" if count == 0 else "1 picture" if count == 1 else f"{count} pictures"
        advice = f"; {FROM_ONE if count == 1 else FROM_FEW}" if count else ""
        raise CaptureError(f"{what}: {there}, too few for poses (at least {fewest}, better 20 or more){advice}")


def thumbnail(file: Path) -> np.ndarray:
    """Read the middle square of a picture, reduced to THUMBNAIL pixels, as RGB bytes [h, w, 3]."""
    with Image.open(file) as image:
        image.draft("RGB", (2 * THUMBNAIL, 2 * THUMBNAIL))
        return np.asarray(ImageOps.fit(image.convert("RGB"), (THUMBNAIL, THUMBNAIL)))


def _prepare(file: Path, name: str, source: str, images: Path) -> tuple[Picture, str] | LeftOut:
    """Put one photograph into `images`. Returns the picture and the file's SHA-256, or why it is left out."""
    target = images / name
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged EXIF, and pictures of 90 million pixels, which phones take
            with Image.open(file) as stored:
                if min(stored.size) < SMALLEST_SIDE:
                    return LeftOut(source, f"{stored.width} x {stored.height} pixels, too small")
                tags = exif_tags(stored)
                focal = focal_pixels(tags, stored.size)
                turned = tags.get(ORIENTATION, 1) not in (0, 1)
                suffixes = KEPT_FORMATS.get(stored.format or "", set())
                as_is = (
                    not turned
                    and stored.mode == "RGB"
                    and "transparency" not in stored.info
                    and file.suffix.lower() in suffixes
                )
                stored.load()  # also finds files that were cut short
                upright = ImageOps.exif_transpose(stored) if turned else stored
                size = upright.size
                if is_invisible(upright):
                    return LeftOut(source, "transparent everywhere")
                if _contrast(upright) < BLANK_CONTRAST:
                    return LeftOut(source, "blank: a single colour")
                target.unlink(missing_ok=True)
                if as_is:
                    _link(file, target)
                else:
                    _save(to_rgb(upright)[0], target)
    except Image.DecompressionBombError:
        return LeftOut(
            source, f"has more than {2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6} million pixels; make it smaller"
        )
    # Pillow reports damaged files as OSError, SyntaxError (PNG), ValueError or EOFError.
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return LeftOut(source, f"cannot be read ({reason.replace(str(file), file.name)})")
    camera = " ".join(str(tags.get(tag, "")).strip("\x00 ") for tag in (*_CAMERA, FOCAL_LENGTH, FOCAL_LENGTH_35MM))
    lens = f"{size[0]} x {size[1]} {camera}".strip()
    return Picture(name, source, *size, focal, lens), hashlib.sha256(file.read_bytes()).hexdigest()


_CAMERA = (0x010F, 0x0110, 0xA434)
"""EXIF tags of the maker, the model and the lens model."""


def _contrast(image: Image.Image) -> float:
    small = image.resize((64, 64), Image.Resampling.BOX) if image.mode not in ("P", "1") else image.convert("L")
    values = np.asarray(small.convert("L") if not small.mode.startswith(("I", "F")) else small, dtype=np.float64)
    return float(values.std()) / (256.0 if small.mode.startswith("I") else 1.0)


def _save(pixels: np.ndarray, target: Path) -> None:
    image = Image.fromarray(pixels)
    if target.suffix == ".png":
        image.save(target, compress_level=1)
    else:
        image.save(target, quality=JPEG_QUALITY, subsampling=0)


def _link(file: Path, target: Path) -> None:
    """Create a hard link, which stays valid if the source is removed, or a copy on another file system."""
    try:
        os.link(file.resolve(), target)
    except OSError:
        shutil.copyfile(file, target)


def _register_heif(folder: Path) -> None:
    try:
        from pi_heif import register_heif_opener
    except ImportError as error:
        raise CaptureError(
            f"{folder} holds HEIC photographs, which need pi-heif: pip install 'scenetok-ns[capture]', or export "
            "them as JPEG"
        ) from error
    register_heif_opener()


def _is_passed_over(path: Path, folder: Path) -> bool:
    """Whether a file is ignored: .DS_Store, macOS's ._IMG_1.JPG, hidden folders, and images_4 beside images."""
    if any(part.startswith((".", "__")) for part in path.parts):
        return True
    parents = [parent for parent in path.parents if re.fullmatch(r"images_\d+", parent.name)]
    return any((folder / parent.parent / "images").is_dir() for parent in parents)
