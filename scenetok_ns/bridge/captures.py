"""Read a capture of a stock dataparser (nerfstudio-data, colmap, polycam, ...) as a scene of this package.

transforms.json and COLMAP models are read by our own reader, in float64 and frame by frame. The dataparser's options
choose the frames for evaluation, and the folder of pictures (images_2, images_4, ...). For other dataparsers,
their outputs are used.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataparserOutputs
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParser
from nerfstudio.data.dataparsers.nerfstudio_dataparser import Nerfstudio, NerfstudioDataParserConfig
from nerfstudio.data.utils import dataparsers_utils as stock_splits
from torch import Tensor

from scenetok_ns.bridge.colmap_models import read_colmap_model
from scenetok_ns.data.depth_maps import MILLIMETRES, read_depth_map
from scenetok_ns.data.images import decode_image
from scenetok_ns.data.lenses import opencv_distortion, straight_matrix, straighten
from scenetok_ns.data.picture_folder import PictureFolder, check_proportions, picture_size
from scenetok_ns.data.pixels import WHITE
from scenetok_ns.data.poses import flip_axes
from scenetok_ns.data.scenes import BadScene, DataError, Scene
from scenetok_ns.data.transforms_file import (
    TRANSFORMS,
    FileFrame,
    TransformsFile,
    origin_of,
    read_transforms,
)
from scenetok_ns.dataparsers.camera_conversion import nerfstudio_to_camera_batch

logger = logging.getLogger(__name__)

UNDISTORT = (
    "undistort the pictures with COLMAP (colmap image_undistorter --image_path images --input_path colmap/sparse/0 "
    "--output_path undistorted), and give the folder undistorted"
)


@dataclass(frozen=True, eq=False)
class CaptureFrame:
    """A picture with its camera."""

    file: Path
    c2w: np.ndarray
    """Camera-to-world [4, 4], OpenCV axes, float64."""
    matrix: np.ndarray
    """Intrinsics [3, 3] in pixels of the picture, float64."""
    distortion: np.ndarray
    """Distortion parameters k1, k2, k3, k4, p1, p2."""
    size: tuple[int, int]
    """(width, height) in pixels."""
    background: tuple[int, int, int] = WHITE
    depth: Path | None = None
    """File of the depth map; None: there is none."""


@dataclass(frozen=True, eq=False)
class CaptureViews:
    """Views that a dataparser reads: first those to encode and train on, then those for evaluation."""

    scene: Scene
    num_train: int


def read_views(key: str, dataparser: DataParser, split: str) -> CaptureViews:
    """Read the training views of a dataparser, and those of `split` ("val", "test") for evaluation.

    Poses are in the world and units of the capture's files: the dataparser's orientation, centring and scale are
    undone. Only georeferenced captures get another origin (see `transforms_file.origin_of`).

    Args:
        key: Name of the scene.
        dataparser: A stock dataparser.
        split: Split for evaluation.

    Raises:
        DataError: The capture cannot be read, or its cameras are not perspective.
    """
    if isinstance(dataparser, Nerfstudio):
        data = Path(dataparser.config.data)
        file = read_transforms(data if data.suffix == ".json" else data / TRANSFORMS)
        frames = sorted(file.frames, key=lambda frame: Path(frame.file_path))
        train, evaluation = (_transforms_split(dataparser.config, file, frames, name) for name in ("train", split))
        pictures = PictureFolder(file.path.parent, dataparser.config.downscale_factor)
    elif isinstance(dataparser, ColmapDataParser):
        config = dataparser.config
        if not (config.data / config.colmap_path).is_dir():
            raise DataError(f"there is no COLMAP model at {config.data / config.colmap_path}")
        frames = read_colmap_model(config.data / config.colmap_path)
        named = [config.data / config.images_path / frame.file_path for frame in frames]
        train, evaluation = (_colmap_split(dataparser, named, name) for name in ("train", split))
        frames = [
            FileFrame((config.images_path / frame.file_path).as_posix(), frame.c2w, frame.lens) for frame in frames
        ]
        pictures = PictureFolder(config.data, config.downscale_factor)
    else:
        outputs = [dataparser.get_dataparser_outputs(split=name) for name in ("train", split)]
        return CaptureViews(scene_of_outputs(key, outputs), len(outputs[0].image_filenames))
    if not train:
        raise DataError(f"{pictures.folder}: no frame is left to encode; see the dataparser's options for the split")
    chosen = _with_pictures(pictures, frames, [*train, *evaluation])
    unit = getattr(dataparser.config, "depth_unit_scale_factor", MILLIMETRES)
    return CaptureViews(_scene_of_frames(key, chosen, unit), len(train))


def scene_of_outputs(key: str, outputs: Sequence[DataparserOutputs]) -> Scene:
    """Join all views of some outputs of a dataparser, in order, as one scene.

    Poses are those of the original data: the dataparser's orientation, centring and scale are undone. Lens distortion
    is removed: frames and cameras are those of the largest rectangle without empty pixels, at the stored size.
    Transparent images are laid on `alpha_color`; masks are not used.

    Args:
        key: Name of the scene.
        outputs: Outputs of one dataparser for one or more splits.

    Raises:
        BadScene: There are no images, or cameras are not perspective.
    """
    frames = [frame for part in outputs if len(part.image_filenames) for frame in _frames_of_part(key, part)]
    if not frames:
        raise BadScene("the dataparser found no images", key)
    return _scene_of_frames(key, frames)


def _frames_of_part(key: str, outputs: DataparserOutputs) -> list[CaptureFrame]:
    try:
        batch = nerfstudio_to_camera_batch(outputs.cameras)
    except ValueError as error:
        raise BadScene(f"{error}; or {UNDISTORT}", key) from error
    cameras = outputs.cameras
    c2w = in_original_world(batch.c2w[0], outputs).numpy()
    sizes = torch.cat([cameras.width, cameras.height], dim=1)
    matrices = batch.intrinsics[0].double()
    matrices[:, :2] *= sizes[:, :, None]
    lens = cameras.distortion_params
    lens = torch.zeros(len(c2w), 6) if lens is None else lens
    colour = outputs.alpha_color
    background = WHITE if colour is None else tuple(round(255 * float(value)) for value in colour)
    cameras_of = zip(outputs.image_filenames, sizes.tolist(), c2w, matrices.numpy(), lens.double().numpy(), strict=True)
    return [
        CaptureFrame(Path(file), pose, matrix, distortion, (width, height), background)  # type: ignore[arg-type]
        for file, (width, height), pose, matrix, distortion in cameras_of
    ]


def in_original_world(c2w: Float[Tensor, "v 4 4"], outputs: DataparserOutputs) -> Float[Tensor, "v 4 4"]:
    """Convert a dataparser's poses to the world of the original data, in float64."""
    transform = torch.eye(4, dtype=torch.float64)
    transform[:3] = outputs.dataparser_transform[:3].double()
    poses = c2w.double()
    poses[:, :3, 3] /= outputs.dataparser_scale
    return torch.linalg.inv(transform) @ poses


# --- Frames of files ---


def _with_pictures(pictures: PictureFolder, frames: Sequence[FileFrame], chosen: Sequence[int]) -> list[CaptureFrame]:
    """Find the pictures of the chosen frames, and scale the intrinsics to the pictures' sizes."""
    found, scaled = [], None
    for index in chosen:
        frame = frames[index]
        file = pictures.find(frame.file_path)
        size, lens = picture_size(file), frame.lens
        if check_proportions(file, size, lens.width, lens.height):
            scaled = (
                scaled or f"{size[0]} x {size[1]} pixels, but their cameras are for {lens.width:g} x {lens.height:g}"
            )
        c2w = flip_axes(torch.from_numpy(frame.c2w)).numpy()
        depth = None if frame.depth_file_path is None else pictures.folder / frame.depth_file_path
        matrix, distortion = lens.matrix(*size), np.array(lens.distortion)
        found.append(CaptureFrame(file, c2w, matrix, distortion, size, depth=depth))
    if scaled is not None:
        logger.info("%s: pictures have %s; intrinsics are scaled", pictures.folder, scaled)
    return found


def _transforms_split(
    config: NerfstudioDataParserConfig, file: TransformsFile, frames: Sequence[FileFrame], split: str
) -> list[int]:
    """Indices of a split in `frames`: as listed in the file, else by nerfstudio-data's options."""
    if file.splits:
        for name in (split, *({"val": ("test",), "test": ("val",)}.get(split, ()))):
            if name not in file.splits:
                continue
            listed = set(file.splits[name])
            if unknown := sorted(listed - {frame.file_path for frame in frames}):
                raise DataError(f"{file.path}: {name}_filenames has {unknown[0]}, which is not a frame")
            return [index for index, frame in enumerate(frames) if frame.file_path in listed]
        if split != "train":
            return []
        held_out = {path for paths in file.splits.values() for path in paths}
        return [index for index, frame in enumerate(frames) if frame.file_path not in held_out]
    names = [Path(frame.file_path) for frame in frames]
    if config.eval_mode == "fraction":
        train, evaluation = stock_splits.get_train_eval_split_fraction(names, config.train_split_fraction)
    elif config.eval_mode == "filename":
        train, evaluation = stock_splits.get_train_eval_split_filename(names)
    elif config.eval_mode == "interval":
        train, evaluation = stock_splits.get_train_eval_split_interval(names, config.eval_interval)
    else:
        train, evaluation = stock_splits.get_train_eval_split_all(names)
    return (train if split == "train" else evaluation).tolist()


def _colmap_split(dataparser: ColmapDataParser, files: list[Path], split: str) -> list[int]:
    return [int(index) for index in dataparser._get_image_indices(files, split)]


def _scene_of_frames(key: str, frames: Sequence[CaptureFrame], depth_unit: float = MILLIMETRES) -> Scene:
    try:
        lenses = [opencv_distortion(frame.distortion) for frame in frames]
    except ValueError as error:
        raise BadScene(f"{error}; {UNDISTORT}", key) from error
    straight = [straight_matrix(frame.matrix, lens, frame.size) for frame, lens in zip(frames, lenses, strict=True)]
    c2w = np.stack([frame.c2w for frame in frames])
    origin = origin_of(c2w[:, :3, 3])
    if origin.any():
        c2w[:, :3, 3] -= origin
        logger.warning(
            "%s: positions are georeferenced; (%s) is the origin here, also of --path transforms.json",
            key,
            ", ".join(f"{value:.10g}" for value in origin),
        )
    normalized = np.stack(straight)
    normalized[:, :2] /= np.array([frame.size for frame in frames], dtype=np.float64)[:, :, None]
    sizes = tuple((frame.size[1], frame.size[0]) for frame in frames)
    return Scene(
        key=key,
        c2w=torch.from_numpy(c2w).float(),
        intrinsics=torch.from_numpy(normalized).float(),
        frame_names=tuple(frame.file.stem for frame in frames),
        read_frame=partial(_read, tuple(frames), tuple(lenses), tuple(straight)),
        sizes=sizes if len(set(sizes)) > 1 else None,
        read_depth=_depth_reader(frames, lenses, depth_unit),
    )


def _depth_reader(
    frames: Sequence[CaptureFrame], lenses: Sequence[np.ndarray], unit: float
) -> Callable[[int], Float[Tensor, "h w"]] | None:
    """Create a reader of the frames' depth maps; None if a frame has none, or a lens has distortion, which is removed
    from pictures only."""
    files = [frame.depth for frame in frames if frame.depth is not None]
    if len(files) < len(frames) or any(lens.any() for lens in lenses):
        return None
    return partial(_read_depth, files, unit)


def _read_depth(files: Sequence[Path], unit: float, index: int) -> Float[Tensor, "h w"]:
    return read_depth_map(files[index], unit)


def _read(
    frames: Sequence[CaptureFrame], lenses: Sequence[np.ndarray], straight: Sequence[np.ndarray], index: int
) -> UInt8[Tensor, "3 h w"]:
    frame = frames[index]
    image = decode_image(frame.file, frame.background)
    stored, expected = list(image.shape[1:]), [frame.size[1], frame.size[0]]
    if stored != expected:
        raise ValueError(f"its camera is for {expected[0]} x {expected[1]} pixels, it has {stored[0]} x {stored[1]}")
    if not lenses[index].any():
        return image
    pixels = image.permute(1, 2, 0).numpy()
    return torch.from_numpy(straighten(pixels, frame.matrix, lenses[index], straight[index])).permute(2, 0, 1)
