"""Open captures and data sets in Python, and read for each scene the views to encode and the views to compare with.

Imports Nerfstudio, whose dataparsers read captures.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras

from scenetok_ns.bridge.capture_kinds import find_dataparser
from scenetok_ns.bridge.colmap_models import read_colmap_model
from scenetok_ns.bridge.evaluation_scenes import EvaluationScenes, EvaluationViewsConfig
from scenetok_ns.bridge.scene_views import read_capture
from scenetok_ns.data.images import crop_intrinsics
from scenetok_ns.data.lenses import opencv_distortion, straight_matrix
from scenetok_ns.data.posed_views import PosedViews
from scenetok_ns.data.poses import flip_axes
from scenetok_ns.data.scenes import DataError
from scenetok_ns.dataparsers.camera_conversion import nerfstudio_to_camera_batch
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.presets import Preset, as_preset

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
        """Read the photographs of a scene to compare renders with. Arguments and errors are those of `context`."""
        return self._views(self._number(name), target=True)

    def _number(self, name: str | None) -> int:
        return self._scenes.active if name is None else self._scenes.number_of(name)

    def _views(self, number: int, *, target: bool) -> PosedViews:
        scenes = self._scenes
        views = scenes.target_views(number) if target else scenes.context_views(number)
        return PosedViews.of(views, scenes.keys[number], scenes.pose_scale(number))


def open_scenes(
    data: str | Path,
    preset: Preset | str,
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
        preset: Preset of the model (`model.preset`), or its name. It determines image size and number of context views.
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


def cameras_from_colmap(model: str | Path, size: int) -> CameraBatch:
    """Read the cameras of a COLMAP model, binary or text.

    Args:
        model: Folder with cameras and images, such as sparse/0.
        size: Side of the model's squares in pixels: the cameras are adjusted to the photographs' middle squares,
            without lens distortion.

    Returns:
        CameraBatch of shape [1, v], in the order of the pictures' names: OpenCV camera-to-world in the model's units.

    Raises:
        DataError: The model cannot be read, or a lens is not perspective; one line.

    >>> cameras = cameras_from_colmap("my-capture/sparse/0", model.image_size[0])
    """
    frames = sorted(read_colmap_model(Path(model)), key=lambda frame: frame.file_path)
    lenses = []
    for frame in frames:
        width, height = round(frame.lens.width or 0), round(frame.lens.height or 0)
        distortion = opencv_distortion(np.array(frame.lens.distortion))
        straight = straight_matrix(frame.lens.matrix(width, height), distortion, (width, height))
        normal = torch.from_numpy(straight / np.array([[width], [height], [1.0]])).float()
        lenses.append(crop_intrinsics(normal, (height, width), (size, size)))
    c2w = flip_axes(torch.from_numpy(np.stack([frame.c2w for frame in frames])))
    return CameraBatch(c2w.float()[None], torch.stack(lenses)[None])


def cameras_from_nerfstudio(cameras: Cameras, size: int | None = None) -> CameraBatch:
    """Convert Nerfstudio's cameras.

    Args:
        cameras: N perspective cameras. Lens distortion is ignored.
        size: Side of the model's squares in pixels: the cameras are adjusted to the pictures' middle squares. None:
            they stay cameras of whole pictures; crop both with `square_views`.

    Returns:
        CameraBatch of shape [1, N], float32: OpenCV camera-to-world in the same world and units, intrinsics divided by
        image width and height.

    Raises:
        ValueError: A camera is not perspective.

    >>> frames = model.render(tokens, cameras_from_nerfstudio(dataset.cameras, model.image_size[0]))
    """
    found = nerfstudio_to_camera_batch(cameras)
    if size is None:
        return found
    sides = zip(cameras.height.flatten().tolist(), cameras.width.flatten().tolist(), strict=True)
    lenses = [
        crop_intrinsics(lens, (round(height), round(width)), (size, size))
        for lens, (height, width) in zip(found.intrinsics[0], sides, strict=True)
    ]
    return CameraBatch(found.c2w, torch.stack(lenses)[None])
