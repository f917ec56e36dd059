"""Choose the frames of a video that cameras are found from: the sharpest in each of N equal stretches."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from scenetok_ns.data.capture.photographs import BLANK_CONTRAST, JPEG_QUALITY, CaptureError, LeftOut, Picture

FRAMES_PER_SECOND = 2.0
FEWEST_FRAMES, MOST_FRAMES = 30, 120
"""Limits of the default number of frames, which is FRAMES_PER_SECOND times the length of the video."""
SHARPNESS_SIZE = 640
"""Longer side in pixels at which sharpness is measured; noise matters less at a reduced size."""


def default_frames(seconds: float) -> int:
    """Number of frames to take from a video of `seconds` seconds."""
    return min(max(round(FRAMES_PER_SECOND * seconds), FEWEST_FRAMES), MOST_FRAMES)


def extract_frames(
    video: Path, images: Path, count: int | None, progress: Callable[[str, int, int], None]
) -> tuple[list[Picture], list[LeftOut]]:
    """Write the sharpest frame of each of `count` equal stretches of a video as JPEG files.

    The video is decoded twice: first at reduced size, to measure sharpness, then at full size, to store the chosen
    frames. Only one frame is in memory at a time. Frames are turned upright by the video's rotation flag.

    Args:
        video: Any file that ffmpeg decodes.
        images: Folder for frame_00001.jpg and so on.
        count: Number of stretches. None: chosen by the length of the video.
        progress: Called with "video", the number of frames decoded in both passes, and their total.

    Returns:
        The frames, and the stretches that show nothing.

    Raises:
        CaptureError: The video cannot be decoded.
    """
    import imageio_ffmpeg

    try:
        total, seconds = imageio_ffmpeg.count_frames_and_secs(str(video))
    except (RuntimeError, OSError, ValueError) as error:
        raise CaptureError(f"{video} cannot be read as a video: {_reason(error)}") from error
    if total < 1:
        raise CaptureError(f"{video} has no video frames")
    count = min(default_frames(seconds) if count is None else count, total)
    sharpness = []
    for frame in _frames(video, "gray", _REDUCE):
        sharpness.append((laplacian_variance(frame), float(frame.std())))
        progress("video", len(sharpness), 2 * max(total, len(sharpness)))
    if not sharpness:
        raise CaptureError(f"{video} has no frame that can be decoded")
    chosen, blank = choose_frames(sharpness, count)
    rate = len(sharpness) / seconds if seconds > 0 else 0.0
    names = {index: _name(index, rate) for index in (*chosen, *blank)}
    images.mkdir(parents=True, exist_ok=True)
    pictures = []
    select = "select=" + "+".join(rf"eq(n\,{index})" for index in chosen)
    for number, (index, frame) in enumerate(zip(chosen, _frames(video, "rgb24", select), strict=False), start=1):
        name = f"frame_{number:05d}.jpg"
        Image.fromarray(frame).save(images / name, quality=JPEG_QUALITY, subsampling=0)
        height, width = frame.shape[:2]
        pictures.append(Picture(name, names[index], width, height, None, "video"))
        progress("video", len(sharpness) + index + 1, 2 * len(sharpness))
    progress("video", 2 * len(sharpness), 2 * len(sharpness))
    return pictures, [LeftOut(names[index], "blank: a single colour") for index in blank]


def choose_frames(sharpness: list[tuple[float, float]], count: int) -> tuple[list[int], list[int]]:
    """Choose the sharpest frame of each of `count` equal stretches.

    Args:
        sharpness: Variance of the Laplacian and contrast (standard deviation) of every frame.
        count: Number of stretches, at most the number of frames.

    Returns:
        Indices of the chosen frames, and indices of sharpest frames that are not chosen because they are blank.
    """
    edges = [index * len(sharpness) // count for index in range(count + 1)]
    best = [
        max(range(first, last), key=lambda index: sharpness[index][0])
        for first, last in pairwise(edges)
        if last > first
    ]
    chosen = [index for index in best if sharpness[index][1] >= BLANK_CONTRAST]
    return chosen, [index for index in best if sharpness[index][1] < BLANK_CONTRAST]


def laplacian_variance(grey: np.ndarray) -> float:
    """Variance of the Laplacian of a picture [h, w]: large where edges are sharp."""
    values = grey.astype(np.int16)
    inner = 4 * values[1:-1, 1:-1] - values[:-2, 1:-1] - values[2:, 1:-1] - values[1:-1, :-2] - values[1:-1, 2:]
    return float(inner.var()) if inner.size else 0.0


_REDUCE = f"scale=w=min({SHARPNESS_SIZE}\\,iw):h=min({SHARPNESS_SIZE}\\,ih):force_original_aspect_ratio=decrease"


def _frames(video: Path, pixel_format: str, filters: str) -> Iterator[np.ndarray]:
    """Decode frames and apply ffmpeg's filters: arrays [h, w] for "gray", [h, w, 3] for "rgb24"."""
    import imageio_ffmpeg

    logging.getLogger("imageio_ffmpeg").setLevel(logging.ERROR)  # it warns about every rotated video
    channels = 3 if pixel_format == "rgb24" else 1
    # Passthrough gives every stored frame once, also for videos with a variable frame rate.
    options = ["-vf", filters, "-fps_mode", "passthrough"]
    reader: Any = imageio_ffmpeg.read_frames(
        str(video), pix_fmt=pixel_format, bits_per_pixel=8 * channels, output_params=options
    )
    with closing(reader):
        try:
            width, height = next(reader)["size"]
            shape = (height, width, 3) if channels == 3 else (height, width)
            for data in reader:
                yield np.frombuffer(data, np.uint8).reshape(shape)
        except (OSError, RuntimeError, LookupError, ValueError, AssertionError) as error:
            raise CaptureError(f"{video} cannot be decoded: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """The line of ffmpeg's output that gives the reason."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if any(word in line for word in ("Invalid", "not found", "does not contain"))]
    return (telling or lines or [type(error).__name__])[-1]


def _name(index: int, rate: float) -> str:
    return f"frame {index + 1}" + (f" ({index / rate:.1f} s)" if rate else "")
