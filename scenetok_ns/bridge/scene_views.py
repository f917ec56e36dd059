"""Scenes between our data layer and Nerfstudio: a scene as a Nerfstudio data set, a stock dataparser as a scene."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataparserOutputs
from nerfstudio.data.dataparsers.nerfstudio_dataparser import Nerfstudio
from nerfstudio.data.datasets.base_dataset import InputDataset
from torch import Tensor

from scenetok_ns.bridge.capture_kinds import fitting_dataparser
from scenetok_ns.bridge.captures import SAME_WORLD, FileWorld, file_world, scene_of_outputs
from scenetok_ns.data.poses import camera_spread, farthest_points, scaled_poses
from scenetok_ns.data.poses import pose_scale as scale_to
from scenetok_ns.data.scenes import BadScene, DataError, OneScene, Scene, ViewIndices, scene_part
from scenetok_ns.dataparsers.scene_dataparser import view_outputs


class SceneViews(InputDataset):
    """Some views of one scene, cropped to squares of `side` pixels, as the data set that Nerfstudio's tools expect.

    Images are decoded when asked for. Camera metadata `scene_idx` is the number of the evaluation scene.
    """

    def __init__(self, scene: Scene, indices: Int64[Tensor, " v"], side: int, number: int) -> None:
        self.scene, self.indices, self.side = scene, indices, side
        super().__init__(view_outputs(scene, indices, side, scene_idx=number))

    def get_numpy_image(self, image_idx: int) -> np.ndarray:
        views = self.scene.load_views(self.indices[image_idx : image_idx + 1], (self.side, self.side))
        return views.images[0].permute(1, 2, 0).numpy()


class StockSceneSource(OneScene):
    """The one scene of a stock dataparser (nerfstudio-data, colmap, ...): its training views, then those of evaluation.

    Poses are those of the capture's files (`scene_of_outputs`). `pose_scale` brings their units to those of the
    training data; poses leave this class unscaled, but for `training_part`.
    """

    is_capture = True

    def __init__(
        self,
        key: str,
        train: DataparserOutputs,
        evaluation: DataparserOutputs,
        *,
        world: FileWorld = SAME_WORLD,
        pose_scale: float | None = None,
        typical_spread: float | None = None,
    ) -> None:
        """pose_scale: None: such that the cameras spread by `typical_spread` (see `poses.pose_scale`)."""
        super().__init__(key)
        self.num_train = len(train.image_filenames)
        self._scene = scene_of_outputs(key, [train, evaluation], world)
        self.typical_spread = None if pose_scale is not None else typical_spread
        self.pose_scale = scale_to(self._scene.c2w, typical_spread) if pose_scale is None else pose_scale

    def read(self) -> Scene:
        return self._scene

    def fixed_views(self, count: int, *, fewer: bool = False) -> ViewIndices:
        """Context: training views spread over the scene. Targets: the evaluation views; where the dataparser left none,
        the training views that are not context, or, for a handful of photographs, the context. Raises BadScene."""
        if fewer:  # fewer context views are worse, but better than none
            count = min(count, max(self.num_train, 1))
        if self.num_train < count:
            raise BadScene(
                f"{self.num_train} training views, but {count} context views are needed; "
                "set --pipeline.datamanager.num-context (scenetok commands: --num-context)",
                self.key,
            )
        poses = scaled_poses(self._scene.c2w[: self.num_train], self.pose_scale)
        context = farthest_points(poses, count, start=0)
        target = torch.arange(self.num_train, self._scene.num_frames)
        if not len(target):
            rest = torch.ones(self.num_train, dtype=torch.bool)
            rest[context] = False
            target = rest.nonzero().flatten() if rest.any() else context
        return ViewIndices(context, target)

    def training_part(self) -> StockSceneSource:
        """The same without the evaluation views, in units of the training data."""
        part = copy(self)
        scene = scene_part(self._scene, torch.arange(self.num_train))
        part._scene = replace(scene, c2w=scaled_poses(scene.c2w, self.pose_scale))
        part.pose_scale = 1.0
        return part

    def summary(self) -> str:
        """One line: how many views, and how their units become those of the training data."""
        held_out = self._scene.num_frames - self.num_train
        views = f"{self.num_train} views to encode or train on, {held_out} to evaluate on"
        if not held_out:
            views += " (none is held out: figures are of views that may have been trained on)"
        if self.typical_spread is None:
            return f"{self.key}: {views}; positions times {self.pose_scale:.4g} are in units of the training data"
        return (
            f"{self.key}: {views}; its cameras are {camera_spread(self._scene.c2w):.3g} units from their middle (root "
            f"mean square), those of the training data {self.typical_spread:.3g}: pose scale {self.pose_scale:.4g}"
        )


def read_capture(
    dataparser: DataParser, split: str, *, pose_scale: float | None = None, typical_spread: float | None = None
) -> StockSceneSource:
    """What a stock dataparser reads, with the views of `split` ("val", "test") for evaluation. Raises DataError."""
    data = Path(dataparser.config.data).absolute()
    if pose_scale is not None and not 0 < pose_scale < float("inf"):
        raise DataError(f"expected a pose scale above 0, got {pose_scale:g}")
    try:
        dataparser = fitting_dataparser(dataparser)
        use_smaller_pictures(dataparser)
        train, evaluation = (dataparser.get_dataparser_outputs(split=name) for name in ("train", split))
        world = file_world(dataparser.config)
    except DataError:
        raise
    # Stock dataparsers check little: a missing file, key or number shows as whatever it leads to.
    except (AssertionError, LookupError, RuntimeError, TypeError, ValueError, OSError, EOFError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{data} cannot be read by {type(dataparser).__name__}: {reason}") from error
    key = data.parent.name if data.is_file() else data.name
    return StockSceneSource(key, train, evaluation, world=world, pose_scale=pose_scale, typical_spread=typical_spread)


def use_smaller_pictures(dataparser: DataParser) -> None:
    """Have nerfstudio-data read the largest of images_2, images_4, ... where `images` itself is not there.

    It looks for smaller pictures only where there are full ones; downloads of DL3DV, among others, have none.
    """
    if not isinstance(dataparser, Nerfstudio) or dataparser.config.downscale_factor is not None:
        return
    data = dataparser.config.data
    folder = data.parent if data.suffix == ".json" else data
    smaller = [int(path.name.removeprefix("images_")) for path in folder.glob("images_[0-9]*") if path.is_dir()]
    if smaller and not (folder / "images").exists():
        dataparser.downscale_factor = min(smaller)
