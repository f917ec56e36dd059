"""The scenes that tools show and evaluate: which there are, and what of each the model is given and compared with."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float, Int64
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.utils.dataloaders import FixedIndicesEvalDataloader
from torch import Tensor

from scenetok_ns.bridge.scene_views import SceneViews
from scenetok_ns.data.anchors import anchors_along
from scenetok_ns.data.evaluation_index import EvaluationIndex
from scenetok_ns.data.scenes import BadScene, DataError, Scene, SceneSource, ViewIndices, Views
from scenetok_ns.data.sources.photograph import GenerationInputs
from scenetok_ns.data.view_sampling import condition_of, default_views, path_of
from scenetok_ns.models.presets import Preset
from scenetok_ns.models.tokens import SceneTokens

if TYPE_CHECKING:
    from scenetok_ns.plugin.datamanager import SceneTokDataManagerConfig


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


class EvaluationScenes:
    """Scenes of the evaluation split by their number in `keys`; `active` is the one that Nerfstudio's tools show.

    Scenes are read when they are asked for, and may then turn out to be unusable (BadScene): `skip` says so. Numbers of
    views follow the configuration as it is at that moment. `context_set` and `target_set` are the active scene's views.
    """

    def __init__(self, source: SceneSource, config: SceneTokDataManagerConfig, preset: Preset) -> None:
        """Reads the views of scenes until one can be shown. Raises DataError if none can."""
        self.source, self._config, self._preset = source, config, preset
        file = getattr(config.dataparser, "eval_index", None)
        self.index = None if file is None else EvaluationIndex.load(file)
        if self.index is not None:
            self.keys = list(self.index.keys_in(source))
        else:
            self.keys = list(source.keys)[: config.eval_scenes]
        self._indexed = frozenset() if self.index is None else frozenset(self.keys)
        self.active, self.context_set, self.target_set = self._shown()

    def _shown(self) -> tuple[int, SceneViews, SceneViews]:
        """Number of the scene to show, its context views and its target views."""
        if getattr(self._config.dataparser, "scene", None) is not None:
            number = self.number_of(self._config.dataparser.scene)  # type: ignore[attr-defined]
            return number, self.data_set(number, "context"), self.data_set(number, "target")
        for scene in self.usable():
            try:
                return scene.number, self.data_set(scene.number, "context"), self.data_set(scene.number, "target")
            except BadScene as error:  # of a target view
                self.skip(scene.number, error)
        raise self.none_usable()

    def number_of(self, key: str) -> int:
        """Number of a scene by its name; it joins the scenes to evaluate. Raises DataError."""
        if key not in self.keys:
            if key not in self.source.keys:
                some = ", ".join(list(self.source.keys)[:5])
                raise DataError(f"there is no scene {key!r} in this split; it has {some}, ...")
            self.keys = [*self.keys, key]
        return self.keys.index(key)

    def usable(self) -> Iterator[EvaluationScene]:
        """All scenes whose context views can be read; the others are skipped. Raises DataError if there is none."""
        found = False
        for number in range(len(self.keys)):
            try:
                self.context_views(number)
            except BadScene as error:
                self.skip(number, error)
                continue
            found = True
            yield self.scene(number)
        if not found:
            raise self.none_usable()

    def skip(self, number: int, error: BadScene) -> None:
        """Log, count and name a scene as unusable, once."""
        self.source.skipped.add(error if error.key else BadScene(error.reason, self.keys[number]))

    def none_usable(self) -> DataError:
        return DataError(f"no evaluation scene is usable; {self.source.skipped.summary(3)}")

    # --- One scene ---

    def scene(self, number: int) -> EvaluationScene:
        """A scene with its views. Raises BadScene."""
        scene = self.source.scene(self.keys[number])
        views = self._views(scene)
        given, anchors = views.context, None
        if self._preset.scene_generator is not None:
            given = condition_of(views, self._preset, self._config.num_condition)
            path = self.source.anchors_path
            if path is None:
                path = scene.c2w[path_of(views, self._num_context)]
            anchors = anchors_along(path, self._num_context)
        return EvaluationScene(number, scene, given, views.target[: self._config.eval_targets], anchors)

    def _views(self, scene: Scene) -> ViewIndices:
        fixed = self.source.fixed_views(self._num_context, fewer=self._config.num_context is None)
        return self.views_by_index(scene) if fixed is None else fixed

    @property
    def views_by_index(self) -> Callable[[Scene], ViewIndices]:
        """Evaluation views of any scene of a data set; workers can be given it."""
        return partial(views_by_index, self.index, self._indexed, self._config.num_context, self._num_context)

    @property
    def _num_context(self) -> int:
        given = self._config.num_context
        return self._preset.data.views.num_context if given is None else given

    def spread_views(self, number: int, count: int) -> Int64[Tensor, " count"]:
        """`count` views spread over a scene, whatever its index says. Raises BadScene."""
        fixed = self.source.fixed_views(count)
        if fixed is not None:
            return fixed.context
        return default_views(self.source.scene(self.keys[number]).c2w, count).context

    def condition_views(self, number: int, count: int) -> Int64[Tensor, " count"]:
        """SceneGen: `count` photographs of a scene to generate from. Raises BadScene and DataError."""
        return condition_of(self._views(self.source.scene(self.keys[number])), self._preset, count)

    def context_indices(self, number: int) -> Int64[Tensor, " context"]:
        """Views that a scene is encoded from, also where a generator is given fewer. Raises BadScene."""
        return self._views(self.source.scene(self.keys[number])).context

    def context_views(self, number: int) -> Views:
        """Images and cameras that a scene is encoded, or generated, from."""
        scene = self.scene(number)
        return scene.scene.load_views(scene.context, (self._preset.data.image_size,) * 2)

    def target_views(self, number: int) -> Views:
        """Images and cameras that a scene is compared with."""
        scene = self.scene(number)
        return scene.scene.load_views(scene.target, (self._preset.data.image_size,) * 2)

    def conditions(self, number: int) -> GenerationInputs | None:
        """What a scene is generated from; None where scenes are encoded from their context views."""
        anchors = self.scene(number).anchors
        return (
            None if anchors is None else GenerationInputs(self.context_views(number), anchors, self.pose_scale(number))
        )

    def pose_scale(self, number: int) -> float:
        """Factor from a scene's units to those of the training data."""
        return self.source.pose_scale

    def stored_tokens(self, number: int) -> SceneTokens | None:
        """Tokens of a scene that comes as tokens; None where photographs are to be encoded."""
        return self.source.tokens

    def data_set(self, number: int, role: Literal["context", "target"]) -> SceneViews:
        """A scene's context or target views as Nerfstudio's tools have data. Raises BadScene."""
        scene = self.scene(number)
        downscale = getattr(self._config.dataparser, "downscale_factor", None) or 1
        side = max(1, round(self._preset.data.image_size / downscale))
        return SceneViews(scene.scene, scene.context if role == "context" else scene.target, side, number)


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

    def __init__(self, scenes: EvaluationScenes, device: torch.device | str) -> None:
        self._scenes, self._device = scenes, device
        self._lengths = {scene.number: len(scene.target) for scene in scenes.usable()}

    @property
    def scenes(self) -> list[int]:
        """Numbers of the scenes, in order."""
        return list(self._lengths)

    def __len__(self) -> int:
        return sum(self._lengths.values())

    def __iter__(self) -> Iterator[tuple[Cameras, dict]]:
        for number in self.scenes:
            try:
                self._scenes.target_views(number)
            except BadScene as error:
                self._scenes.skip(number, error)
                del self._lengths[number]
                continue
            yield from FixedIndicesEvalDataloader(self._scenes.data_set(number, "target"), device=self._device)
        if not self._lengths:
            raise self._scenes.none_usable()
