"""A capture that a stock dataparser reads (nerfstudio-data, colmap, polycam, ...) as one of our scenes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig, DataparserOutputs
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.data.datasets.base_dataset import InputDataset
from torch import Tensor

from scenetok_ns.data.scenes import BadScene, Scene
from scenetok_ns.dataparsers.camera_conversion import nerfstudio_to_camera_batch

LEGACY_TRANSFORM = ((0.0, 1.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0), (0.0, 0.0, -1.0, 0.0))
"""What ns-process-data applied to COLMAP's world before it wrote that into transforms.json."""

UNDISTORT = (
    "undistort the pictures with COLMAP (colmap image_undistorter --image_path images --input_path colmap/sparse/0 "
    "--output_path undistorted), and give the folder undistorted"
)


@dataclass(frozen=True)
class FileWorld:
    """World of a capture's files, seen from that of the original data, which dataparsers report their poses by."""

    from_original: Float[Tensor, "4 4"]
    """A rotation and a translation, float64."""
    scale: float = 1.0
    """What the files say that their units are multiplied by."""


SAME_WORLD = FileWorld(torch.eye(4, dtype=torch.float64))


def file_world(config: DataParserConfig) -> FileWorld:
    """The world of transforms.json for nerfstudio-data; for other dataparsers that of the original data.

    ns-process-data turns COLMAP's world before it writes transforms.json, and notes that in it.
    """
    if not isinstance(config, NerfstudioDataParserConfig):
        return SAME_WORLD
    data = Path(config.data)
    meta = json.loads((data if data.suffix == ".json" else data / "transforms.json").read_text("utf8"))
    if "applied_transform" not in meta and not (data / "colmap/sparse/0").exists():
        return FileWorld(SAME_WORLD.from_original, float(meta.get("applied_scale", 1.0)))
    applied = torch.eye(4, dtype=torch.float64)
    applied[:3] = torch.tensor(meta.get("applied_transform", LEGACY_TRANSFORM), dtype=torch.float64)[:3]
    return FileWorld(applied, float(meta.get("applied_scale", 1.0)))


def scene_of_outputs(key: str, outputs: Sequence[DataparserOutputs], world: FileWorld = SAME_WORLD) -> Scene:
    """All views of some outputs of one dataparser, in order, as one scene.

    Poses are those of the capture's files, in their world and units: what the dataparser did to orient, centre and
    scale them is undone. Lens distortion is removed: frames and cameras are those of the
    largest upright rectangle without empty pixels, at the stored size. Transparent images are laid on `alpha_color`;
    masks are not used. Raises BadScene, also for cameras that are not perspective.
    """
    parts = [_scene_of_part(key, part, world) for part in outputs if len(part.image_filenames)]
    if not parts:
        raise BadScene("the dataparser found no images", key)
    return Scene(
        key=key,
        c2w=torch.cat([part.c2w for part in parts]),
        intrinsics=torch.cat([part.intrinsics for part in parts]),
        frame_names=tuple(name for part in parts for name in part.frame_names),
        read_frame=partial(_read_of_parts, parts),
    )


def in_file_world(c2w: Float[Tensor, "v 4 4"], outputs: DataparserOutputs, world: FileWorld) -> Float[Tensor, "v 4 4"]:
    """A dataparser's poses as its files have them.

    The dataparser oriented and centred the file's poses by M = transform @ from_original^-1, then scaled them by its
    scale, in which it counts the file's own.
    """
    transform = torch.eye(4, dtype=torch.float64)
    transform[:3] = outputs.dataparser_transform[:3].double()
    poses = c2w.double()
    poses[:, :3, 3] *= world.scale / outputs.dataparser_scale
    return (world.from_original @ torch.linalg.inv(transform) @ poses).to(c2w.dtype)


def _scene_of_part(key: str, outputs: DataparserOutputs, world: FileWorld) -> Scene:
    try:
        batch = nerfstudio_to_camera_batch(outputs.cameras)
    except ValueError as error:
        raise BadScene(f"{error}; or {UNDISTORT}", key) from error
    dataset = InputDataset(outputs)
    scene = Scene(
        key=key,
        c2w=in_file_world(batch.c2w[0], outputs, world),
        intrinsics=batch.intrinsics[0],
        frame_names=tuple(Path(name).stem for name in outputs.image_filenames),
        read_frame=partial(_read, dataset),
    )
    distortion = outputs.cameras.distortion_params
    if distortion is None or not distortion.any():
        return scene
    lens = _opencv_distortion(key, distortion)
    size = torch.cat([outputs.cameras.width, outputs.cameras.height], dim=1)
    matrices = scene.intrinsics.double()
    matrices[:, :2] *= size[:, :, None]
    straight = torch.stack([_straight_matrix(*one) for one in zip(matrices, lens, size, strict=True)])
    read = partial(_read_straightened, dataset, matrices, lens, straight)
    normalized = straight.clone()
    normalized[:, :2] /= size[:, :, None]
    return replace(scene, intrinsics=normalized.float(), read_frame=read)


def _opencv_distortion(key: str, distortion: Float[Tensor, "v 6"]) -> Float[Tensor, "v 5"]:
    """Nerfstudio's k1, k2, k3, k4, p1, p2 in OpenCV's order."""
    if distortion[:, 3].any():
        raise BadScene(f"lens distortion with k4, which OpenCV does not undo; {UNDISTORT}", key)
    return distortion[:, [0, 1, 4, 5, 2]].double()


def _straight_matrix(matrix: Float[Tensor, "3 3"], lens: Float[Tensor, " 5"], size: Tensor) -> Float[Tensor, "3 3"]:
    """Intrinsics in pixels, without distortion, that show the largest view that has no empty pixels."""
    import cv2

    width, height = size.tolist()
    new, _ = cv2.getOptimalNewCameraMatrix(_to_opencv(matrix), lens.numpy(), (width, height), 0)
    return torch.from_numpy(new) + _half_pixel()


def _half_pixel() -> Float[Tensor, "3 3"]:
    """For OpenCV the middle of the first pixel is 0, for us and Nerfstudio it is one half."""
    shift = torch.zeros(3, 3, dtype=torch.float64)
    shift[:2, 2] = 0.5
    return shift


def _to_opencv(matrix: Float[Tensor, "3 3"]) -> np.ndarray:
    return (matrix - _half_pixel()).numpy()


def _read(dataset: InputDataset, index: int) -> UInt8[Tensor, "3 h w"]:
    image = dataset.get_image_uint8(index)[..., :3].permute(2, 0, 1)
    camera = dataset.cameras
    stored, expected = list(image.shape[1:]), [int(camera.height[index]), int(camera.width[index])]
    if stored != expected:
        raise ValueError(f"its camera is for {expected[0]} x {expected[1]} pixels, it has {stored[0]} x {stored[1]}")
    return image


def _read_straightened(
    dataset: InputDataset,
    matrices: Float[Tensor, "v 3 3"],
    lens: Float[Tensor, "v 5"],
    straight: Float[Tensor, "v 3 3"],
    index: int,
) -> UInt8[Tensor, "3 h w"]:
    import cv2

    pixels = np.ascontiguousarray(_read(dataset, index).permute(1, 2, 0).numpy())
    source, target = _to_opencv(matrices[index]), _to_opencv(straight[index])
    size = (pixels.shape[1], pixels.shape[0])
    x, y = cv2.initUndistortRectifyMap(source, lens[index].numpy(), np.eye(3), target, size, cv2.CV_32FC1)
    # The largest view touches the border of the photograph, outside of which black would seep in.
    straightened = cv2.remap(pixels, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return torch.from_numpy(straightened).permute(2, 0, 1)


def _read_of_parts(parts: Sequence[Scene], index: int) -> UInt8[Tensor, "3 h w"]:
    for part in parts:
        if index < part.num_frames:
            return part.read_frame(index)
        index -= part.num_frames
    raise IndexError(index)
