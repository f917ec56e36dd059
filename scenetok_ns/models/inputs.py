"""Check photographs and cameras of users, and convert them for the networks."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from scenetok_ns.models.cameras import CameraBatch, are_rigid, camera_spread
from scenetok_ns.models.presets import Preset, SamplerConfig

if TYPE_CHECKING:
    from PIL.Image import Image

    Picture: TypeAlias = "Tensor | np.ndarray | Image"
    Pictures: TypeAlias = "Tensor | np.ndarray | Sequence[Picture]"

OVERSHOOT = 0.01
"""Maximum distance of float images from [0, 1]: resizing filters overshoot a little."""
PIXELS = 4.0
"""Maximum principal point, in picture sides, of normalised intrinsics. Larger ones, and focal lengths above a hundred
times this, must be in pixels."""
WIDEST = 170.0
"""Maximum field of view in degrees. Wider ones come from intrinsics that were divided by the image size twice."""
CONVERGING = 0.1
"""Minimum of the smallest eigenvalue of the mean projection perpendicular to the optical axes. The eigenvalue is 0 for
parallel axes and 2/3 for axes in all directions; below the minimum, no point is clearly the nearest to all axes."""

OTHER_UNITS = 3.0
"""Smallest ratio between the spread of the cameras and that of the training scenes which shows that units differ."""


def check_kind(value: Any, kind: type, caller: str, name: str, advice: str) -> None:
    """Raise ValueError, in one line, unless an argument is of a type.

    Args:
        value: The argument.
        kind: Type that is expected.
        caller: Name of the calling function, with which the message begins.
        name: Name of the argument.
        advice: What to do, with which the message ends.
    """
    if not isinstance(value, kind):
        raise ValueError(f"{caller}: expected {name} of type {kind.__name__}, got {type(value).__name__}; {advice}")


def check_batch(cameras: Any, caller: str, name: str = "cameras") -> None:
    """Raise ValueError, in one line, unless an argument is a CameraBatch."""
    check_kind(cameras, CameraBatch, caller, name, "make them with CameraBatch(c2w[None], intrinsics[None])")


def check_seeds(seeds: Any, caller: str) -> None:
    """Raise ValueError, in one line, unless an argument is an integer, or a list of integers."""
    for seed in seeds if isinstance(seeds, Sequence) else [seeds]:
        if not isinstance(seed, int):
            raise ValueError(f"{caller}: expected a seed of type int, got {type(seed).__name__}; use int(seed)")


def check_scale(pose_scale: Any, caller: str) -> None:
    """Raise ValueError, in one line, unless an argument is a number, or a tensor without dimensions."""
    if not isinstance(pose_scale, Real) and not (isinstance(pose_scale, Tensor) and pose_scale.ndim == 0):
        raise ValueError(
            f"{caller}: expected pose_scale of type float, got {type(pose_scale).__name__}; give one number for the "
            "scene, such as pose_scale_of(cameras, model.preset)"
        )


def warn_of_units(cameras: CameraBatch, preset: Preset, caller: str, stacklevel: int) -> None:
    """Warn if cameras are probably not in units of the training data. `caller` begins the message.

    Two cameras do not show the size of a scene, and cameras in one place have no spread.
    """
    typical, count = preset.data.camera_spread, cameras.num_views
    spread = camera_spread(cameras.c2w[0].detach().cpu()) if count >= 3 else 0.0
    if typical is not None and spread > 0 and not 1 / OTHER_UNITS <= spread / typical <= OTHER_UNITS:
        warnings.warn(
            f"{caller}: the cameras' spread is {spread:.3g}, training scenes have {typical:.3g}: give "
            "pose_scale=pose_scale_of(cameras, model.preset), or pose_scale=1 if the cameras are in units of the "
            "training data",
            stacklevel=stacklevel,
        )


def check_rendering(tokens: Any, cameras: Any, seeds: Any, sampler: Any, caller: str) -> None:
    """Raise ValueError, in one line, for arguments of `SceneTok.render_many` that have another type.

    The type of each scene's tokens is left to `check_tokens`.
    """
    for name, given in (("tokens", tokens), ("cameras", cameras)):
        check_kind(given, Sequence, caller, name, "give a list with one for each scene; for one scene, use render")
    for path in cameras:
        check_batch(path, caller)
    check_seeds(seeds, caller)
    if sampler is not None:
        check_kind(
            sampler, SamplerConfig, caller, "sampler", "change the preset's with replace(model.preset.sampler, steps=4)"
        )


def as_images(images: Pictures, caller: str) -> Float[Tensor, "v 3 h w"]:
    """Convert the photographs of one scene to a float32 tensor [v, 3, h, w] in [0, 1].

    Args:
        images: Tensor or NumPy array [v, 3, h, w] or [v, h, w, 3], uint8 in 0 to 255 or floating-point in [0, 1]; or a
            sequence of PIL pictures, or of arrays [3, h, w] or [h, w, 3], of one size.
        caller: Name of the calling function, with which messages begin.

    Raises:
        ValueError: The images have another type, shape or range, or hold NaN. The message is one line.
    """
    stacked = images if isinstance(images, (Tensor, np.ndarray)) else _stacked(images, caller)
    tensor = torch.from_numpy(stacked) if isinstance(stacked, np.ndarray) else stacked
    if tensor.ndim != 4 or 3 not in (tensor.shape[1], tensor.shape[-1]):
        several = "; encode several scenes with encode_many" if tensor.ndim == 5 else ""
        if tensor.ndim == 3 and 3 in (tensor.shape[0], tensor.shape[-1]):
            several = "; for one photograph, use image[None]"
        raise ValueError(
            f"{caller}: expected images [v, 3, height, width] or [v, height, width, 3], got "
            f"{list(tensor.shape)}{several}"
        )
    if tensor.shape[1] != 3:
        tensor = tensor.movedim(-1, 1)
    if tensor.dtype == torch.uint8:
        return tensor.float() / 255
    if not tensor.is_floating_point():
        raise ValueError(
            f"{caller}: expected uint8 images in 0 to 255 or floating-point ones in [0, 1], got {tensor.dtype}"
        )
    tensor = tensor.float()
    if not len(tensor):
        return tensor
    if not bool(tensor.isfinite().all()):
        view = int((~tensor.isfinite()).flatten(1).any(1).nonzero()[0])
        raise ValueError(f"{caller}: image {view} holds numbers that are not finite (NaN or infinite)")
    low, high = (float(value) for value in tensor.aminmax())
    if low < -OVERSHOOT or high > 1 + OVERSHOOT:
        advice = "clamp them to [0, 1]"
        if high > 2:
            advice = "they look like 0 to 255: divide by 255, or give uint8"
        elif low < -0.5:
            advice = "they look like -1 to 1: use images / 2 + 0.5"
        raise ValueError(f"{caller}: expected float images in [0, 1], got {low:.3g} to {high:.3g}; {advice}")
    return tensor


def _stacked(images: Sequence[Picture], caller: str) -> Tensor | np.ndarray:
    if not isinstance(images, Sequence) or isinstance(images, (str, bytes)):
        raise ValueError(f"{caller}: expected images as a tensor, an array or a list, got {type(images).__name__}")
    pictures = [_array(picture, caller) for picture in images]
    sizes = {tuple(picture.shape) for picture in pictures}
    if len(sizes) > 1:
        shapes = ", ".join(str(list(size)) for size in sorted(sizes)[:3])
        raise ValueError(f"{caller}: expected images of one size, got {shapes}; crop them with square_views")
    if not pictures:
        raise ValueError(f"{caller}: expected at least one image, got an empty list")
    if all(isinstance(picture, Tensor) for picture in pictures):
        return torch.stack(pictures)  # type: ignore[arg-type]
    return np.stack([np.asarray(picture) for picture in pictures])


def _array(picture: Picture, caller: str) -> Tensor | np.ndarray:
    if isinstance(picture, (Tensor, np.ndarray)):
        return picture
    if hasattr(picture, "convert"):  # recognises a PIL picture without importing PIL
        return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))
    raise ValueError(f"{caller}: expected tensors, arrays or PIL pictures, got {type(picture).__name__}")


def check_views(images: Float[Tensor, "v 3 h w"], cameras: CameraBatch, size: tuple[int, int], caller: str) -> None:
    """Raise ValueError, in one line, unless there is a camera for each image, and images have the model's size.

    Args:
        images: Photographs of one scene.
        cameras: Cameras of the photographs.
        size: Height and width that the model takes, in pixels.
        caller: Name of the calling function, with which the message begins.
    """
    check_batch(cameras, caller)
    height, width = size
    fits = images.shape[1:] == (3, height, width)
    if fits and len(images) and cameras.batch_size == 1 and cameras.num_views != len(images):
        raise ValueError(
            f"{caller}: expected a camera for each image, got {len(images)} images and {cameras.num_views} cameras"
        )
    if not fits or not len(images) or cameras.c2w.shape[:2] != (1, len(images)):
        advice = "" if fits else "; crop photographs and cameras with square_views"
        if cameras.batch_size > 1:
            advice += "; encode several scenes with encode_many"
        raise ValueError(
            f"{caller}: expected images [v, 3, {height}, {width}] and a batch of one with v cameras, got images "
            f"{list(images.shape)} and cameras {list(cameras.c2w.shape[:2])}{advice}"
        )


def check_cameras(cameras: CameraBatch, caller: str) -> None:
    """Raise ValueError, in one line, for cameras that no photograph can have.

    Checks that all numbers are finite, that poses are rotations and positions, and that intrinsics are divided by the
    image size once.

    Args:
        cameras: Cameras of one scene.
        caller: Name of the calling function, with which the message begins.
    """
    check_batch(cameras, caller)
    c2w, lenses = cameras.c2w[0].detach().cpu(), cameras.intrinsics[0].detach().cpu()  # waits for a GPU here only
    focal, centre = lenses[:, [0, 1], [0, 1]], lenses[:, :2, 2]
    problems = (
        (~(c2w.isfinite().flatten(1).all(1) & lenses.isfinite().flatten(1).all(1)), "is not finite (NaN or infinite)"),
        (~are_rigid(c2w), "has a pose that is not a rotation and a position (scaled, mirrored or transposed?)"),
        ((focal <= 0).any(1), "has a focal length that is not above 0"),
        (
            (centre.abs() > PIXELS).any(1) | (focal > 100 * PIXELS).any(1),
            "has intrinsics in pixels: divide the first row by the image width, the second by the height",
        ),
    )
    for wrong, what in problems:
        if bool(wrong.any()):
            raise ValueError(f"{caller}: camera {int(wrong.nonzero()[0])} of {len(wrong)} {what}")
    view = 2 * (0.5 / focal).atan().rad2deg().amax(1)
    if bool((view > WIDEST).any()):
        index = int((view > WIDEST).nonzero()[0])
        raise ValueError(
            f"{caller}: camera {index} of {len(view)} has a field of view of {math.floor(float(view[index]))} degrees: "
            "were the intrinsics divided by the image size twice?"
        )


def check_axes(cameras: CameraBatch, caller: str) -> None:
    """Raise ValueError, in one line, for poses that look like OpenGL's: y up, looking along -z.

    A single camera does not show its convention. An error is raised if two signs coincide: all cameras are upside down
    in a world whose z axis points up, and the point nearest to all optical axes lies behind all cameras.

    Args:
        cameras: Cameras of one scene.
        caller: Name of the calling function, with which the message begins.
    """
    c2w = cameras.c2w[0].double().cpu()
    if len(c2w) < 3 or bool((c2w[:, 2, 1] < 0.5).any()):
        return
    position, axis = c2w[:, :3, 3], c2w[:, :3, 2]
    across = torch.eye(3, dtype=c2w.dtype) - axis[:, :, None] * axis[:, None, :]
    if float(torch.linalg.eigvalsh(across.mean(0))[0]) < CONVERGING:
        return
    nearest = torch.linalg.solve(across.sum(0), (across @ position[:, :, None]).sum(0))[:, 0]
    if bool((((nearest - position) * axis).sum(1) < 0).all()):
        raise ValueError(
            f"{caller}: all cameras look away from the place where they meet, and are upside down: these poses look "
            "like OpenGL's (y up, looking along -z); use CameraBatch.from_opengl, or give axes_checked=True if they "
            "are right"
        )
