"""Which views of which scenes are evaluated, and the loader that gives them to Nerfstudio's tools."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int64
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.utils.dataloaders import FixedIndicesEvalDataloader
from torch import Tensor

from scenetok_ns.data.evaluation_index import EvaluationIndex
from scenetok_ns.data.scenes import BadScene, DataError, Scene
from scenetok_ns.data.view_sampling import ViewIndices, default_views

if TYPE_CHECKING:
    from scenetok_ns.scenetok_datamanager import SceneTokDataManager


@dataclass(frozen=True)
class EvaluationScene:
    """A scene with the views that evaluation, renderer and viewer use of it."""

    number: int
    scene: Scene
    context: Int64[Tensor, " context"]
    """Views whose photographs the model is given: SceneGen's condition views, else those to be encoded."""
    target: Int64[Tensor, " target"]
    anchors: Float[Tensor, "a 4 4"] | None = None
    """SceneGen: poses at which the scene is meant to be seen."""


def views_by_index(
    index: EvaluationIndex | None, indexed: Collection[str], limit: int | None, default: int, scene: Scene
) -> ViewIndices:
    """Evaluation views of a scene: those of the index if `indexed` has it, with at most `limit` of its context views,
    spread evenly, else `default` context views spread over the scene. A function, so that workers can be given it."""
    if index is None or scene.key not in indexed:
        return default_views(scene.c2w, default)
    views = index.views(scene)
    if limit is None or limit >= len(views.context):
        return views
    if limit == 1:
        return ViewIndices(views.context[len(views.context) // 2][None], views.target)
    places = torch.linspace(0, len(views.context) - 1, limit).round().long()
    return ViewIndices(views.context[places], views.target)


class EvaluationViews:
    """Iterates over (one-camera slice, batch) of all target views, scene after scene, as Nerfstudio's loaders do.

    A scene is read when its turn comes. If a target view turns out to be damaged, the scene is skipped as a whole, and
    `scenes` and the length are without it from then on.
    """

    def __init__(self, datamanager: SceneTokDataManager) -> None:
        self._datamanager = datamanager
        self._lengths = {scene.number: len(scene.target) for scene in datamanager.usable_evaluation_scenes()}

    @property
    def scenes(self) -> list[int]:
        """Numbers of the scenes, in order."""
        return list(self._lengths)

    def __len__(self) -> int:
        return sum(self._lengths.values())

    def __iter__(self) -> Iterator[tuple[Cameras, dict]]:
        for number in self.scenes:
            try:
                self._datamanager.target_views(number)
            except BadScene as error:
                self._datamanager.skip(number, error)
                del self._lengths[number]
                continue
            views = self._datamanager._views(number, "target")
            yield from FixedIndicesEvalDataloader(views, device=self._datamanager.device)
        if not self._lengths:
            raise DataError(f"no evaluation scene is usable; {self._datamanager.evaluation_source.skipped.summary(3)}")
