"""Connect our scenes with Nerfstudio: a scene as a Nerfstudio data set, a stock dataparser as the source of a scene."""

from __future__ import annotations

import logging
from contextlib import suppress
from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from nerfstudio.data.dataparsers.base_dataparser import DataParser
from nerfstudio.data.datasets.base_dataset import InputDataset
from torch import Tensor

from scenetok_ns.bridge.capture_kinds import COLMAP_WORDS, MODELS, fitting_dataparser
from scenetok_ns.bridge.captures import CaptureViews, read_views
from scenetok_ns.bridge.colmap_models import count_pictures
from scenetok_ns.data.capture.improvement import improvement, needs_fitting
from scenetok_ns.data.poses import farthest_points, in_one_place, stray_cameras
from scenetok_ns.data.poses import pose_scale as scale_to
from scenetok_ns.data.scenes import BadScene, DataError, OneScene, Scene, ViewIndices, scene_part
from scenetok_ns.data.transforms_file import TRANSFORMS
from scenetok_ns.dataparsers.scene_dataparser import view_outputs
from scenetok_ns.models.cameras import camera_spread, scaled_poses
from scenetok_ns.models.presets import load_preset
from scenetok_ns.tools.json_files import JsonError, read_json

logger = logging.getLogger(__name__)


class SceneViews(InputDataset):
    """Some views of one scene, cropped to squares of `side` pixels, as the data set that Nerfstudio's tools expect.

    Images are decoded on demand. The camera metadata `scene_idx` is the number of the evaluation scene.
    """

    def __init__(self, scene: Scene, indices: Int64[Tensor, " v"], side: int, number: int) -> None:
        self.scene, self.indices, self.side = scene, indices, side
        super().__init__(view_outputs(scene, indices, side, scene_idx=number))

    def get_numpy_image(self, image_idx: int) -> np.ndarray:
        views = self.scene.load_views(self.indices[image_idx : image_idx + 1], (self.side, self.side))
        return views.images[0].permute(1, 2, 0).numpy()


class CamerasInOnePlaceError(DataError):
    """All cameras of a capture are at one position, so the size of the scene is unknown."""


class StockSceneSource(OneScene):
    """The scene of a stock dataparser (nerfstudio-data, colmap, ...): its training views, then its evaluation views.

    Poses are those of the capture's files (`captures.read_views`). `pose_scale` is the factor from their units to those
    of the training data; only `training_part` applies it. Cameras that are far from all others (`poses.stray_cameras`)
    are in the scene, but do not affect its scale, and are neither context nor target.
    """

    is_capture = True

    def __init__(
        self,
        key: str,
        views: CaptureViews,
        *,
        pose_scale: float | None = None,
        typical_spread: float | None = None,
    ) -> None:
        """Create the source.

        Args:
            key: Name of the scene.
            views: Views of the dataparser.
            pose_scale: Factor from capture units to training units. None: match the spread of the cameras to
                `typical_spread` (see `poses.pose_scale`).
            typical_spread: Spread of the cameras in the training data; None: unknown.

        Raises:
            DataError: The scale of the scene cannot be found: there is one camera, or all are in one place.
        """
        super().__init__(key)
        self.num_train = views.num_train
        self._scene = views.scene
        self._sound = ~stray_cameras(self._scene.c2w)
        self.typical_spread = None if pose_scale is not None else typical_spread
        if pose_scale is None and typical_spread is not None:
            self._check_spread()
        sound = self._scene.c2w[self._sound]
        self.pose_scale = scale_to(sound, typical_spread) if pose_scale is None else pose_scale
        if len(sound) < self._scene.num_frames:
            names = [self._scene.frame_names[index] for index in (~self._sound).nonzero().flatten().tolist()]
            shown = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
            logger.warning("%s: far from all other cameras, so left out: %s; is the pose right?", key, shown)

    def _check_spread(self) -> None:
        if self._scene.num_frames == 1:
            raise DataError(
                f"{self.key} has one photograph, and a scene needs several from different places; to make a scene "
                "from one photograph, use scenetok generate --image"
            )
        if in_one_place(self._scene.c2w[self._sound]):
            raise CamerasInOnePlaceError(
                f"{self.key}: all {self._scene.num_frames} cameras are in one place, so the size of the scene is "
                "unknown; give --pose-scale if this is intended"
            )

    def read(self) -> Scene:
        return self._scene

    def fixed_views(self, count: int, *, fewer: bool = False) -> ViewIndices:
        """Choose context views, spread over the training views, and targets.

        Targets are the evaluation views. If the dataparser has none, they are the training views that are not context
        or, if none is left, the context views. See `SceneSource.fixed_views` for arguments and errors.
        """
        candidates = self._sound[: self.num_train].nonzero().flatten()
        if fewer:  # fewer context views are worse, but better than none
            count = min(count, max(len(candidates), 1))
        if len(candidates) < count:
            raise BadScene(
                f"{len(candidates)} training views, but {count} context views are needed; "
                "set --pipeline.datamanager.num-context (scenetok commands: --num-context)",
                self.key,
            )
        poses = scaled_poses(self._scene.c2w[candidates], self.pose_scale)
        context = candidates[farthest_points(poses, count, start=0)]
        target = self.num_train + self._sound[self.num_train :].nonzero().flatten()
        if not len(target):
            rest = self._sound[: self.num_train].clone()
            rest[context] = False
            target = rest.nonzero().flatten() if rest.any() else context
        return ViewIndices(context, target)

    def training_part(self) -> StockSceneSource:
        """Return the source without evaluation views and stray cameras, in units of the training data."""
        part = copy(self)
        chosen = self._sound[: self.num_train].nonzero().flatten()
        scene = scene_part(self._scene, chosen)
        part._scene = replace(
            scene, c2w=scaled_poses(scene.c2w, self.pose_scale), depth_scale=scene.depth_scale * self.pose_scale
        )
        part._sound = torch.ones(len(chosen), dtype=torch.bool)
        part.num_train = len(chosen)
        part.pose_scale = 1.0
        return part

    def summary(self) -> str:
        """One line with the numbers of views, and the factor to the units of the training data."""
        held_out = self._scene.num_frames - self.num_train
        views = f"{self.num_train} views to encode or train on, {held_out} to evaluate on"
        if not held_out:
            views += " (none is held out: figures are of views that may have been trained on)"
        if self.typical_spread is None:
            return f"{self.key}: {views}; positions times {self.pose_scale:.4g} are in units of the training data"
        spread = camera_spread(self._scene.c2w[self._sound])
        return (
            f"{self.key}: {views}; camera spread {spread:.3g} (training data: {self.typical_spread:.3g}), so positions "
            f"are multiplied by {self.pose_scale:.4g}"
        )


SHOWN = 5
"""Maximum number of names in a message."""


def unrefined_note(preset: str, data: Path, *, fits: bool = False) -> str:
    """Note that a bundled model shows photographs poorly, and how to improve the result.

    Args:
        preset: Preset of the model, which was trained on synthetic rooms.
        data: The capture or the photograph.
        fits: Whether the command fits the tokens to the photographs. The note then does not advise it.
    """
    begin = f"{preset} was trained on synthetic rooms only, so it keeps only colours and rough shapes of photographs"
    if load_preset(preset).scene_generator is not None:  # refining does not improve generated scenes
        return f"{begin}. Whatever it adds to them resembles these rooms, not the place."
    photographs = _number_of_photographs(data)
    return f"{begin}." if fits and needs_fitting(photographs) else f"{begin}. {_improvement(data, photographs)}"


def encoded_note(data: Path) -> str:
    """Note that a capture is blurred because a bundled model encoded it, and how to improve the scene."""
    reason = "Blurred, because the bundled model was trained on synthetic rooms only."
    return f"{reason} {_improvement(data, _number_of_photographs(data))}"


def _improvement(data: Path, photographs: int | None) -> str:
    """Advice whose command names the dataparser if the capture has only a COLMAP model."""
    has_transforms = data.is_file() or (data / TRANSFORMS).is_file()
    only_colmap = not has_transforms and any((data / model).is_dir() for model in MODELS)
    return improvement(data, photographs, COLMAP_WORDS if only_colmap else ())


def _number_of_photographs(data: Path) -> int | None:
    """Count the photographs of a capture; None if its files cannot be read."""
    with suppress(JsonError):
        transforms = read_json(data if data.is_file() else data / TRANSFORMS)
        if isinstance(transforms, dict) and isinstance(transforms.get("frames"), list):
            return len(transforms["frames"])
    for model in MODELS:
        with suppress(DataError):
            return count_pictures(data / model)
    return None


def read_capture(
    dataparser: DataParser, split: str, *, pose_scale: float | None = None, typical_spread: float | None = None
) -> StockSceneSource:
    """Read a capture with a stock dataparser.

    Args:
        dataparser: The dataparser.
        split: Split for evaluation, "val" or "test".
        pose_scale: See `StockSceneSource`.
        typical_spread: See `StockSceneSource`.

    Raises:
        DataError: The capture cannot be read, or `pose_scale` is not above 0.
    """
    data = Path(dataparser.config.data).absolute()
    if pose_scale is not None and not 0 < pose_scale < float("inf"):
        raise DataError(f"expected a pose scale above 0, got {pose_scale:g}")
    key = data.parent.name if data.is_file() else data.name
    try:
        views = read_views(key, fitting_dataparser(dataparser), split)
    except DataError:
        raise
    # Stock dataparsers check little: a missing file, key or number raises various errors.
    except (AssertionError, LookupError, RuntimeError, TypeError, ValueError, OSError, EOFError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{data} cannot be read by {type(dataparser).__name__}: {reason}") from error
    return StockSceneSource(key, views, pose_scale=pose_scale, typical_spread=typical_spread)
