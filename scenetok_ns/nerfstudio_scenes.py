"""Scenes between our data layer and Nerfstudio: a scene as a Nerfstudio data set, a stock dataparser as a scene."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import numpy as np
import torch
from jaxtyping import Int64
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset
from torch import Tensor

from scenetok_ns.captures import scene_of_outputs
from scenetok_ns.data.poses import farthest_points
from scenetok_ns.data.scenes import BadScene, DataError, Scene, SkippedScenes, scene_part
from scenetok_ns.data.view_sampling import ViewIndices
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


class StockSceneSource:
    """The one scene of a stock dataparser (nerfstudio-data, colmap, ...): its training views, then those of evaluation.

    Poses are used as the dataparser gives them, in its units.
    """

    def __init__(self, key: str, train: DataparserOutputs, evaluation: DataparserOutputs) -> None:
        self.skipped = SkippedScenes()
        self.key = key
        self.num_train = len(train.image_filenames)
        self._scene = scene_of_outputs(key, [train, evaluation])

    @property
    def keys(self) -> Sequence[str]:
        return [self.key]

    def scene(self, key: str) -> Scene:
        if key != self.key:
            raise DataError(f"there is one scene, {self.key!r}, not {key!r}")
        return self._scene

    def views(self, num_context: int) -> ViewIndices:
        """Context: training views spread over the scene. Targets: the evaluation views. Raises BadScene."""
        if self.num_train < num_context:
            raise BadScene(
                f"{self.num_train} training views, but {num_context} context views are needed; "
                "set --pipeline.datamanager.num-context",
                self.key,
            )
        context = farthest_points(self._scene.c2w[: self.num_train], num_context, start=0)
        return ViewIndices(context, torch.arange(self.num_train, self._scene.num_frames))

    def training_part(self) -> StockSceneSource:
        """The same without the evaluation views."""
        part = copy(self)
        part._scene = scene_part(self._scene, torch.arange(self.num_train))
        return part
