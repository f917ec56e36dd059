"""Photographs with cameras as plain tensors, ready for encoding or scene generation."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from scenetok_ns.data.anchors import anchors_along, trajectory
from scenetok_ns.data.camera_path_files import read_path
from scenetok_ns.data.images import crop_intrinsics, rescale_and_crop
from scenetok_ns.data.path_names import Trajectory
from scenetok_ns.data.poses import pose_scale
from scenetok_ns.data.scenes import DataError, Views
from scenetok_ns.data.sources.photograph import PhotographSource, photograph_of
from scenetok_ns.data.transforms_file import DISTORTION, TRANSFORMS
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.inputs import as_images, check_batch
from scenetok_ns.models.presets import Preset, as_preset

if TYPE_CHECKING:
    from PIL.Image import Image

    from scenetok_ns.models.inputs import Pictures
    from scenetok_ns.models.presets import HasPreset

OF_SQUARES = 0.2
"""Cameras are those of the pictures' middle squares if their focal lengths, divided by width and height, are this many
times closer to each other than width and height are (as logarithms of the ratios)."""
NEARLY_SQUARE = 0.1
"""Logarithm of width over height below which cameras count as those of whole pictures. Focal lengths that differ by a
percent or two would decide otherwise."""


@dataclass(frozen=True, eq=False, repr=False)
class PosedViews:
    """Some photographs of one scene.

    >>> tokens = model.encode(views.images, views.cameras, scene=views.scene, pose_scale=views.pose_scale)
    """

    images: UInt8[Tensor, "v 3 size size"]
    """Squares of the model's size, RGB bytes."""
    cameras: CameraBatch
    """Their cameras [1, v]: OpenCV camera-to-world in capture units, intrinsics divided by the image size."""
    scene: str = ""
    """Name of the scene."""
    pose_scale: float = 1.0
    """Factor from capture units to training units."""
    anchors: CameraBatch | None = None
    """Poses [1, a] along which a scene generator generates the scene. None: the scene is encoded."""
    names: tuple[str, ...] = ()
    """Names of the photographs' files without suffix, in order; empty: not known."""
    held_out: bool = False
    """Whether none of the photographs is a context view, so that figures on them measure new views."""

    def __repr__(self) -> str:
        count, height, width = self.images.shape[0], *self.images.shape[-2:]
        return (
            f"PosedViews(scene={self.scene!r}, {count} photographs of {width} x {height} pixels, "
            f"pose_scale={self.pose_scale:.4g}, held_out={self.held_out})"
        )

    @staticmethod
    def of(
        views: Views, scene: str, pose_scale: float, names: Sequence[str] = (), held_out: bool = False
    ) -> PosedViews:
        """Create from the views that `Scene.load_views` returns."""
        cameras = CameraBatch(views.c2w[None], views.intrinsics[None])
        return PosedViews(views.images, cameras, scene, pose_scale, None, tuple(names), held_out)


def side_of(size: int | tuple[int, int], caller: str) -> int:
    """Side of squares that are given by their side, or by their height and width. Raises ValueError."""
    sides = [size] if isinstance(size, Integral) else list(size) if isinstance(size, tuple | list) else []
    if not sides or not all(isinstance(side, Integral) and side > 0 for side in sides) or len(set(sides)) != 1:
        raise ValueError(f"{caller}: expected a side in pixels, or equal height and width, got {size}")
    return int(sides[0])


def warn_of_distortion(distortion: Sequence[float], caller: str) -> None:
    """Warn that cameras are those of undistorted pictures, which `square_views` does not make.

    Args:
        distortion: k1, k2, k3, k4, p1, p2 of a lens.
        caller: Name of the calling function, with which the message begins.
    """
    names = zip(DISTORTION, distortion, strict=True)
    values = ", ".join(f"{name} {value:.3g}" for name, value in names if value)
    warnings.warn(
        f"{caller}: the photographs have lens distortion ({values}), which is ignored: square_views does not remove "
        "it, so give undistorted photographs, or use open_scenes, which removes it",
        stacklevel=3,
    )


def square_views(
    images: Pictures, cameras: CameraBatch, size: int | tuple[int, int]
) -> tuple[UInt8[Tensor, "v 3 s s"], CameraBatch]:
    """Rescale photographs, cut out their middle squares, and adjust their cameras.

    Uses Pillow's Lanczos filter. The squares equal the published code's training images, byte for byte.

    Args:
        images: Photographs of one scene, of any size from `size` up, in any form that `SceneTok.encode` accepts.
        cameras: Their cameras: CameraBatch of shape [1, v], intrinsics divided by image width and height. Cameras that
            are those of the middle squares already (of `cameras_from_transforms`, for example) stay as they are: they
            are recognised by equal normalised focal lengths in pictures that are not square.
        size: Side of the squares in pixels, or their height and width, such as `model.image_size`.

    Returns:
        Squares as bytes, and their cameras.

    Raises:
        ValueError: The photographs are smaller than `size`, or their number differs from that of the cameras; or the
            cameras are those of pictures turned by 90 degrees.

    >>> images, cameras = square_views(pictures, cameras, model.image_size)
    """
    given = as_images(images, "square_views")
    check_batch(cameras, "square_views")
    size = side_of(size, "square_views")
    height, width = given.shape[-2:]
    if cameras.c2w.shape[:2] != (1, len(given)):
        raise ValueError(
            f"square_views: expected a batch of one with {len(given)} cameras, got {list(cameras.c2w.shape[:2])}"
        )
    if min(height, width) < size:
        raise ValueError(f"square_views: expected images of at least {size} x {size} pixels, got {height} x {width}")
    pixels = (given.cpu() * 255).round().clamp(0, 255).byte()
    squares = torch.stack([rescale_and_crop(image, (size, size)) for image in pixels])
    of_squares = _are_of_squares(cameras, height, width)
    lenses = cameras.intrinsics if of_squares else crop_intrinsics(cameras.intrinsics, (height, width), (size, size))
    return squares, CameraBatch(cameras.c2w, lenses)


def _are_of_squares(cameras: CameraBatch, height: int, width: int) -> bool:
    """Whether cameras are those of the middle squares of pictures, not of the whole pictures. Pixels are square.

    Raises ValueError if the cameras fit only pictures that are turned by 90 degrees.
    """
    focal = cameras.intrinsics[0, :, [0, 1], [0, 1]].double()
    wide, ratio = math.log(width / height), float((focal[:, 1] / focal[:, 0]).log().median())
    near = OF_SQUARES * abs(wide)  # the ratio is `wide` for whole pictures, 0 for squares, -wide for turned pictures
    if abs(wide) < NEARLY_SQUARE:  # a small difference of the focal lengths would decide
        return False
    if abs(ratio + wide) < near:
        raise ValueError(
            f"square_views: the images have {width} x {height} pixels, but the focal lengths of the cameras are those "
            "of pictures turned by 90 degrees: give the pictures as they were when their poses were found"
        )
    return abs(ratio) < near


def cameras_from_transforms(file: str | Path, size: int | tuple[int, int]) -> CameraBatch:
    """Read the cameras of a transforms.json, or of a camera path of Nerfstudio's viewer.

    A warning is given if the lens has distortion: the cameras are those of undistorted photographs.

    Args:
        file: transforms.json (frames in the order of their file names, as in `picture_files_of`), the folder that holds
            one, or camera_path.json.
        size: Side of the model's squares in pixels, or `model.image_size`: the cameras are adjusted to the photographs'
            middle squares.

    Returns:
        CameraBatch of shape [1, v]: OpenCV camera-to-world in the units of the file.

    Raises:
        DataError: The file cannot be read, holds poses or lenses that no camera can have, or a photograph was cropped
            or turned since its pose was found; one line.

    >>> cameras = cameras_from_transforms("my-capture/transforms.json", model.image_size)
    """
    path = Path(file)
    if path.is_dir():
        if not (path / TRANSFORMS).is_file():
            raise DataError(f"cameras_from_transforms: there is no {TRANSFORMS} in {path}")
        path = path / TRANSFORMS
    found = read_path(path, None, side_of(size, "cameras_from_transforms"))
    if found.distortion:
        warn_of_distortion(found.distortion, "cameras_from_transforms")
    return found.cameras


def pose_scale_of(cameras: CameraBatch, preset: Preset | str | HasPreset) -> float:
    """Return the factor from the units of a capture to those of the training data, for `pose_scale=`.

    It gives the cameras the spread of the training scenes, as `open_scenes` does for captures.

    Args:
        cameras: All cameras of the capture, not only those of the context views: CameraBatch of shape [1, v].
        preset: The model, its preset or its name.

    Returns:
        The factor; 1 if all cameras are in one place.

    >>> tokens = model.encode(images, cameras, pose_scale=pose_scale_of(cameras, model.preset))
    """
    check_batch(cameras, "pose_scale_of")
    return pose_scale(cameras.c2w[0].float(), as_preset(preset).data.camera_spread)


def photograph_views(
    file: str | Path | Image,
    preset: Preset | str | HasPreset,
    path: CameraBatch | Trajectory = "forward",
    *,
    fov: float | None = None,
    pose_scale: float = 1.0,
) -> PosedViews:
    """Prepare one photograph for scene generation, with anchors along the path from which the scene will be seen.

    Args:
        file: Picture in any format that Pillow reads, or a PIL picture. Its middle square is used.
        preset: A scene generator, its preset or its name.
        path: Cameras of the path, [1, k], starting with the photograph's camera; or forward, sideways or turn.
        fov: Field of view along the shorter side in degrees. None: from EXIF, else 58.
        pose_scale: Factor from the units of the path to training units.

    Returns:
        The photograph with its camera and the anchors.

    Raises:
        DataError: The file is not a picture, is too small, or the field of view is not plausible.
        ValueError: The preset has no scene generator, or the path is unknown.

    >>> views = photograph_views("room.jpg", model.preset)
    >>> tokens = generate(model, views.images, views.cameras, views.anchors)
    """
    preset = as_preset(preset)
    if preset.scene_generator is None:
        raise ValueError(f"photograph_views: preset {preset.name} generates no scenes; choose a scenegen preset")
    if isinstance(path, str) and path not in get_args(Trajectory):
        known = ", ".join(get_args(Trajectory))
        raise ValueError(f"photograph_views: expected cameras or one of {known}, got path {path!r}")
    poses = trajectory(path) if isinstance(path, str) else path.c2w[0].float().cpu()
    if isinstance(file, (str, Path)):
        source = PhotographSource(Path(file), poses, fov=fov, pose_scale=pose_scale)
    else:
        name = Path(getattr(file, "filename", "") or "photograph")
        source = PhotographSource(name, poses, fov=fov, pose_scale=pose_scale, photograph=photograph_of(file, name))
    side = preset.data.image_size
    source.check_size(side)
    found = PosedViews.of(source.read().load_views([0], (side, side)), source.key, pose_scale)
    anchors = anchors_along(poses, preset.data.views.num_context)
    lenses = found.cameras.intrinsics.expand(-1, len(anchors), -1, -1)
    anchored = CameraBatch(anchors[None], lenses)
    return PosedViews(found.images, found.cameras, found.scene, pose_scale, anchored, (source.key,))


def as_pictures(frames: Tensor) -> np.ndarray:
    """Convert frames [f, 3, h, w] in [0, 1] to bytes [f, h, w, 3], for PIL, imageio or mediapy.

    >>> Image.fromarray(as_pictures(frames)[0]).save("frame.png")
    """
    return (frames.detach().cpu().clamp(0, 1) * 255).round().byte().movedim(1, -1).numpy()
