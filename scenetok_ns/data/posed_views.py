"""Photographs with cameras as plain tensors, ready for encoding or scene generation."""

from __future__ import annotations

from dataclasses import dataclass
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
from scenetok_ns.data.scenes import Views
from scenetok_ns.data.sources.photograph import PhotographSource, photograph_of
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.inputs import as_images, check_batch
from scenetok_ns.models.presets import Preset, as_preset

if TYPE_CHECKING:
    from PIL.Image import Image

    from scenetok_ns.models.inputs import Pictures


@dataclass(frozen=True, eq=False)
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

    @staticmethod
    def of(views: Views, scene: str, pose_scale: float) -> PosedViews:
        """Create from the views that `Scene.load_views` returns."""
        return PosedViews(views.images, CameraBatch(views.c2w[None], views.intrinsics[None]), scene, pose_scale)


def square_views(
    images: Pictures, cameras: CameraBatch, size: int | tuple[int, int]
) -> tuple[UInt8[Tensor, "v 3 s s"], CameraBatch]:
    """Rescale photographs, cut out their middle squares, and adjust their cameras.

    Uses Pillow's Lanczos filter. The squares equal the published code's training images, byte for byte.

    Args:
        images: Photographs of one scene, of any size from `size` up, in any form that `SceneTok.encode` accepts.
        cameras: Their cameras: CameraBatch of shape [1, v], intrinsics divided by image width and height.
        size: Side of the squares in pixels, or their height and width, such as `model.image_size`.

    Returns:
        Squares as bytes, and their cameras.

    Raises:
        ValueError: The photographs are smaller than `size`, or their number differs from that of the cameras.

    >>> images, cameras = square_views(pictures, cameras, model.image_size)
    """
    given = as_images(images, "square_views")
    check_batch(cameras, "square_views")
    if not isinstance(size, int):
        if len(set(size)) != 1:
            raise ValueError(f"square_views: expected a side in pixels, or equal height and width, got {size}")
        size = size[0]
    height, width = given.shape[-2:]
    if cameras.c2w.shape[:2] != (1, len(given)):
        raise ValueError(
            f"square_views: expected a batch of one with {len(given)} cameras, got {list(cameras.c2w.shape[:2])}"
        )
    if min(height, width) < size:
        raise ValueError(f"square_views: expected images of at least {size} x {size} pixels, got {height} x {width}")
    pixels = (given.cpu() * 255).round().clamp(0, 255).byte()
    squares = torch.stack([rescale_and_crop(image, (size, size)) for image in pixels])
    lenses = crop_intrinsics(cameras.intrinsics, (height, width), (size, size))
    return squares, CameraBatch(cameras.c2w, lenses)


def cameras_from_transforms(file: str | Path, size: int) -> CameraBatch:
    """Read the cameras of a transforms.json, or of a camera path of Nerfstudio's viewer.

    Args:
        file: transforms.json (frames in the order of their file names) or camera_path.json.
        size: Side of the model's squares in pixels: the cameras are adjusted to the photographs' middle squares.

    Returns:
        CameraBatch of shape [1, v]: OpenCV camera-to-world in the units of the file.

    Raises:
        DataError: The file cannot be read, or holds poses or lenses that no camera can have; one line.

    >>> cameras = cameras_from_transforms("my-capture/transforms.json", model.image_size[0])
    """
    return read_path(Path(file), None, size).cameras


def pose_scale_of(cameras: CameraBatch, preset: Preset | str) -> float:
    """Return the factor from the units of a capture to those of the training data, for `pose_scale=`.

    It gives the cameras the spread of the training scenes, as `open_scenes` does for captures.

    Args:
        cameras: All cameras of the capture, not only those of the context views: CameraBatch of shape [1, v].
        preset: Preset of the model (`model.preset`) or its name.

    Returns:
        The factor; 1 if all cameras are in one place.

    >>> tokens = model.encode(images, cameras, pose_scale=pose_scale_of(cameras, model.preset))
    """
    check_batch(cameras, "pose_scale_of")
    return pose_scale(cameras.c2w[0].float(), as_preset(preset).data.camera_spread)


def photograph_views(
    file: str | Path | Image,
    preset: Preset | str,
    path: CameraBatch | Trajectory = "forward",
    *,
    fov: float | None = None,
    pose_scale: float = 1.0,
) -> PosedViews:
    """Prepare one photograph for scene generation, with anchors along the path from which the scene will be seen.

    Args:
        file: Picture in any format that Pillow reads, or a PIL picture. Its middle square is used.
        preset: Preset of a scene generator, or its name.
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
    return PosedViews(found.images, found.cameras, found.scene, pose_scale, CameraBatch(anchors[None], lenses))


def as_pictures(frames: Tensor) -> np.ndarray:
    """Convert frames [f, 3, h, w] in [0, 1] to bytes [f, h, w, 3], for PIL, imageio or mediapy.

    >>> Image.fromarray(as_pictures(frames)[0]).save("frame.png")
    """
    return (frames.detach().cpu().clamp(0, 1) * 255).round().byte().movedim(1, -1).numpy()
