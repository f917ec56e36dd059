"""Open captures and data sets in Python, and read for each scene the views to encode and the views to compare with.

Imports Nerfstudio, whose dataparsers read captures.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras

from scenetok_ns.bridge.capture_kinds import MODELS, find_dataparser
from scenetok_ns.bridge.colmap_models import read_colmap_model
from scenetok_ns.bridge.evaluation_scenes import EvaluationScenes, EvaluationViewsConfig
from scenetok_ns.bridge.scene_views import read_capture
from scenetok_ns.data.images import crop_intrinsics
from scenetok_ns.data.lenses import opencv_distortion, straight_matrix
from scenetok_ns.data.picture_folder import PictureFolder, check_proportions, picture_size
from scenetok_ns.data.posed_views import PosedViews, side_of, warn_of_distortion
from scenetok_ns.data.poses import flip_axes
from scenetok_ns.data.scenes import DataError
from scenetok_ns.data.transforms_file import TRANSFORMS, read_transforms
from scenetok_ns.dataparsers.camera_conversion import nerfstudio_to_camera_batch
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.presets import Preset, as_preset

if TYPE_CHECKING:
    from scenetok_ns.models.presets import HasPreset

MOST_NAMED = 3
"""Maximum number of scenes that `repr` names."""


class PosedScenes:
    """The scene of a capture, or the scenes of a data set, with the views that evaluation uses.

    >>> scenes = open_scenes("my-capture", model.preset)
    >>> for views in scenes:
    ...     tokens = model.encode(views.images, views.cameras, scene=views.scene, pose_scale=views.pose_scale)
    """

    def __init__(self, scenes: EvaluationScenes) -> None:
        """Create from evaluation scenes. Call `open_scenes` instead."""
        self._scenes = scenes

    @property
    def names(self) -> list[str]:
        """Names of the scenes."""
        return list(self._scenes.keys)

    def __len__(self) -> int:
        return len(self._scenes.keys)

    def __repr__(self) -> str:
        names = [repr(name) for name in self.names[:MOST_NAMED]] + ["..."] * (len(self) > MOST_NAMED)
        scenes = "1 scene" if len(self) == 1 else f"{len(self)} scenes"
        return f"PosedScenes({scenes} of {self._scenes.data}, split {self._scenes.split}: {', '.join(names)})"

    def __iter__(self) -> Iterator[PosedViews]:
        """Iterate over the context views of all scenes. Scenes that cannot be read are skipped with a warning."""
        for scene in self._scenes.usable():
            yield self._views(scene.number, target=False)

    def context(self, name: str | None = None) -> PosedViews:
        """Read the photographs of a scene to encode.

        Args:
            name: Name of the scene. None: the first.

        Raises:
            DataError: There is no such scene, or it cannot be read; one line.
        """
        return self._views(self._number(name), target=False)

    def targets(self, name: str | None = None) -> PosedViews:
        """Read the photographs of a scene to compare renders with.

        Their field `held_out` says whether they are new to a model that encoded the context views. In a small capture
        (fewer photographs than context views), they are the context views again, with a warning. Arguments and errors
        are those of `context`.
        """
        return self._views(self._number(name), target=True)

    def _number(self, name: str | None) -> int:
        return self._scenes.active if name is None else self._scenes.number_of(name)

    def _views(self, number: int, *, target: bool) -> PosedViews:
        scene, side = self._scenes.scene(number), self._scenes.preset.data.image_size
        chosen = scene.target if target else scene.context
        encoded = torch.isin(chosen, scene.context)
        if target and bool(encoded.all()):
            warnings.warn(
                f"targets: all {len(chosen)} photographs of {scene.scene.key} are context views, so figures on them "
                "do not measure new views; to hold some out, give open_scenes a smaller num_context or ten photographs",
                stacklevel=3,
            )
        views = scene.scene.load_views(chosen, (side, side))
        names = [scene.scene.frame_names[index] for index in chosen.tolist()]
        key, scale = self._scenes.keys[number], self._scenes.pose_scale(number)
        return PosedViews.of(views, key, scale, names, held_out=not bool(encoded.any()))


def open_scenes(
    data: str | Path,
    preset: Preset | str | HasPreset,
    *,
    num_context: int | None = None,
    pose_scale: float | None = None,
    index: str | Path | None = None,
    split: str = "test",
) -> PosedScenes:
    """Open a capture or a data set for a model.

    Args:
        data: A capture (from `scenetok capture` or ns-process-data, a transforms.json, or a COLMAP model with its
            pictures), or a data set in the layout of RealEstate10K or DL3DV.
        preset: The model, its preset or its name. It determines image size and number of context views.
        num_context: Number of context views. None: as many as the index names, else the preset's number.
        pose_scale: Factor from capture units to training units. None: for a capture, match the camera spread of the
            training data; for a data set, 1.
        index: Evaluation index of a data set. None: context views are spread over each scene.
        split: Split of a data set: train or test.

    Returns:
        The scenes. Photographs are read on demand.

    Raises:
        DataError: The data cannot be read, or no scene of it can be used; one line.

    >>> views = open_scenes("my-capture", model.preset).context()
    """
    preset = as_preset(preset)
    splits = [name for name in ("train", "test") if (Path(data) / name).is_dir()]
    if splits and split not in splits:
        raise DataError(f"{data} has no split {split!r}; it has {' and '.join(splits)}")
    config: Any = find_dataparser(Path(data))
    config.data = Path(data)
    if index is not None:
        if not hasattr(config, "eval_index"):
            raise DataError(f"{data} is a capture, which needs no evaluation index: leave out index=")
        config.eval_index = Path(index)
    parser = config.setup()
    if hasattr(parser, "scene_source"):
        if pose_scale is not None:
            raise DataError(f"{data} is a data set, whose units are fixed: leave out pose_scale=")
        source = parser.scene_source(split)
    else:
        source = read_capture(parser, split, pose_scale=pose_scale, typical_spread=preset.data.camera_spread)
    return PosedScenes(EvaluationScenes(source, config, EvaluationViewsConfig(num_context), preset, split))


def cameras_from_colmap(model: str | Path, size: int | tuple[int, int]) -> CameraBatch:
    """Read the cameras of a COLMAP model, binary or text.

    Lens distortion is ignored, with a warning: the cameras are those of undistorted photographs.

    Args:
        model: Folder with cameras and images, such as sparse/0, or a capture that holds a model in a usual place.
        size: Side of the model's squares in pixels, or `model.image_size`: the cameras are adjusted to the photographs'
            middle squares.

    Returns:
        CameraBatch of shape [1, v], in the order of the pictures' names (`picture_files_of`): OpenCV camera-to-world in
        the model's units.

    Raises:
        DataError: There is no model, or it cannot be read, a lens is not perspective, or a photograph was cropped or
            turned since its pose was found; one line.

    >>> cameras = cameras_from_colmap("my-capture/sparse/0", model.image_size)
    """
    side = side_of(size, "cameras_from_colmap")
    folder = _colmap_folder(Path(model))
    frames = sorted(read_colmap_model(folder), key=lambda frame: frame.file_path)
    pictures, found = PictureFolder(_capture_of(folder)), []
    lenses = []
    for frame in frames:
        with suppress(DataError):  # cameras can be read without the pictures
            file = pictures.find(f"images/{frame.file_path}")
            found.append((file, frame))
        width, height = round(frame.lens.width or 0), round(frame.lens.height or 0)
        distortion = opencv_distortion(np.array(frame.lens.distortion))
        straight = straight_matrix(frame.lens.matrix(width, height), distortion, (width, height))
        normal = torch.from_numpy(straight / np.array([[width], [height], [1.0]])).float()
        lenses.append(crop_intrinsics(normal, (height, width), (side, side)))
    for file, frame in found:
        check_proportions(file, picture_size(file), frame.lens.width, frame.lens.height)
    if distorted := [frame.lens.distortion for frame in frames if any(frame.lens.distortion)]:
        warn_of_distortion(distorted[0], "cameras_from_colmap")
    c2w = flip_axes(torch.from_numpy(np.stack([frame.c2w for frame in frames])))
    return CameraBatch(c2w.float()[None], torch.stack(lenses)[None])


def picture_files_of(capture: str | Path) -> list[Path]:
    """Find the photographs of a capture, in the order of `cameras_from_transforms` or `cameras_from_colmap`.

    Args:
        capture: transforms.json, a COLMAP model such as sparse/0 (its pictures are in the folder `images` beside
            `sparse`), or the folder that holds one of them; transforms.json is used if there are both.

    Returns:
        Files, sorted by the names that the capture gives them.

    Raises:
        DataError: The capture cannot be read, a picture is missing, or it was cropped or turned since its pose was
            found; one line.

    >>> pictures = [Image.open(file) for file in picture_files_of("my-capture")]
    """
    path = Path(capture)
    if (path / TRANSFORMS).is_file():
        path = path / TRANSFORMS
    if path.suffix == ".json":
        frames = list(read_transforms(path).frames)
        pictures, place = PictureFolder(path.parent), ""
    else:
        folder = _colmap_folder(path)
        frames = read_colmap_model(folder)
        pictures, place = PictureFolder(_capture_of(folder)), "images/"
    files = []
    for frame in sorted(frames, key=lambda frame: frame.file_path):
        file = pictures.find(place + frame.file_path)
        check_proportions(file, picture_size(file), frame.lens.width, frame.lens.height)
        files.append(file)
    return files


def _colmap_folder(path: Path) -> Path:
    """Folder of a COLMAP model that is given by itself, or by its capture. Raises DataError."""
    for place in (path, *(path / model for model in MODELS)):
        if any((place / f"cameras.{suffix}").is_file() for suffix in ("bin", "txt")):
            return place
    raise DataError(
        f"there are neither {TRANSFORMS} nor a COLMAP model at {path}: expected cameras.bin or cameras.txt there, or "
        f"in {', '.join(MODELS)}"
    )


def _capture_of(model: Path) -> Path:
    """Folder that holds a COLMAP model and its pictures."""
    model = model.absolute()
    for name in MODELS:
        parts = Path(name).parts
        if model.parts[-len(parts) :] == parts:
            return model.parents[len(parts) - 1]
    return model


def cameras_from_nerfstudio(cameras: Cameras, size: int | tuple[int, int] | None = None) -> CameraBatch:
    """Convert Nerfstudio's cameras.

    Args:
        cameras: N perspective cameras. Lens distortion is ignored.
        size: Side of the model's squares in pixels, or `model.image_size`: the cameras are adjusted to the pictures'
            middle squares. None: they stay cameras of whole pictures; crop both with `square_views`.

    Returns:
        CameraBatch of shape [1, N], float32: OpenCV camera-to-world in the same world and units, intrinsics divided by
        image width and height.

    Raises:
        ValueError: A camera is not perspective.

    >>> frames = model.render(tokens, cameras_from_nerfstudio(dataset.cameras, model.image_size))
    """
    found = nerfstudio_to_camera_batch(cameras)
    if size is None:
        return found
    side = side_of(size, "cameras_from_nerfstudio")
    sides = zip(cameras.height.flatten().tolist(), cameras.width.flatten().tolist(), strict=True)
    lenses = [
        crop_intrinsics(lens, (round(height), round(width)), (side, side))
        for lens, (height, width) in zip(found.intrinsics[0], sides, strict=True)
    ]
    return CameraBatch(found.c2w, torch.stack(lenses)[None])
