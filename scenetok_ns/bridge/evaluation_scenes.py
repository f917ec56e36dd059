"""Scenes for the tools to display and evaluate: their names, and the context and target views of each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig
from nerfstudio.data.utils.dataloaders import FixedIndicesEvalDataloader
from torch import Tensor

from scenetok_ns.bridge.scene_views import SceneViews
from scenetok_ns.data.anchors import anchors_along
from scenetok_ns.data.errors import no_such_scene
from scenetok_ns.data.evaluation_index import EvaluationIndex
from scenetok_ns.data.scenes import BadScene, DataError, Scene, SceneSource, ViewIndices, Views
from scenetok_ns.data.sources.photograph import GenerationInputs
from scenetok_ns.data.view_sampling import condition_of, default_views, path_of
from scenetok_ns.models.autoencoders.registry import latent_space
from scenetok_ns.models.presets import Preset
from scenetok_ns.models.tokens import SceneTokens

EvaluationProtocol = Literal["default", "published", "notebook"]
SMALLEST_BASELINE = 1e-3
"""Minimum distance of two context views in units of the data. The published evaluation skips scenes below it."""


@dataclass
class EvaluationViewsConfig:
    """Numbers of scenes and views to display and evaluate. The data manager's configuration also has these options."""

    num_context: int | None = None
    """Number of context views of a scene in evaluation, rendering and viewing. Default: as many as the dataparser's
    evaluation index names, or without an index the preset's number. SceneGen: number of anchor poses."""
    num_condition: int | None = None
    """SceneGen: number of photographs to generate a scene from. Default: as many as the evaluation index names if the
    model accepts that many, else one."""
    eval_scenes: int = 16
    """Number of evaluation scenes, if no evaluation index names them."""
    eval_targets: int | None = None
    """Number of target views of each evaluation scene, from its beginning. Default: all."""
    eval_protocol: EvaluationProtocol = "default"
    """published: evaluate like the published command (docs/reproduce.md). Positions are divided by the distance of the
    two context views if an index names two, generators get one condition view, and four more frames are rendered after
    a target clip that Wan cannot end with. notebook: the first context view is the reference, as in the published
    notebooks."""


@dataclass(frozen=True)
class EvaluationScene:
    """A scene with the views that evaluation, renderer and viewer use."""

    number: int
    scene: Scene
    context: Int64[Tensor, " context"]
    """Views whose photographs the model gets: SceneGen's condition views, else the views to encode."""
    target: Int64[Tensor, " target"]
    anchors: Float[Tensor, "a 4 4"] | None = None
    """SceneGen: poses from which the scene will be seen."""
    further: Int64[Tensor, " further"] = torch.zeros(0, dtype=torch.int64)  # noqa: RUF009  never changed
    """Views that are rendered after the targets but not compared."""


class EvaluationScenes:
    """Scenes of the evaluation split by their number in `keys`. Nerfstudio's tools display the scene `active`.

    Scenes are read on demand, and may then turn out to be unusable (BadScene): report them with `skip`. `context_set`
    and `target_set` are the active scene's views. The numbers of views cannot be changed: `with_views` returns a copy
    with other views, and `with_keys` one with other scenes of the same source.
    """

    def __init__(
        self,
        source: SceneSource,
        dataparser: DataParserConfig,
        views: EvaluationViewsConfig,
        preset: Preset,
        split: str = "test",
    ) -> None:
        """Read the views of scenes until one can be displayed.

        Args:
            source: All scenes of the split.
            dataparser: Configuration of the dataparser that reads them. If it has such options, it names the evaluation
                index, the scene to display and the downscale factor.
            views: Numbers of scenes and views; they are copied.
            preset: Recipe whose numbers are used if `views` leaves them None.
            split: Name of the split, for records.

        Raises:
            DataError: No scene can be displayed.
        """
        self.source, self.dataparser, self.preset, self.split = source, dataparser, preset, split
        self.views = EvaluationViewsConfig(**{f.name: getattr(views, f.name) for f in fields(EvaluationViewsConfig)})
        file = getattr(dataparser, "eval_index", None)
        self.index = None if file is None else EvaluationIndex.load(file)
        if self.index is not None:
            self.keys = list(self.index.keys_in(source))
        else:
            self.keys = list(source.keys)[: self.views.eval_scenes]
        self._indexed = frozenset() if self.index is None else frozenset(self.keys)
        _ = self._active  # raises if no scene can be displayed

    @property
    def data(self) -> Path:
        """Folder or file that the scenes are read from."""
        return self.dataparser.data

    def with_views(self, **changes: Any) -> EvaluationScenes:
        """Return the same scenes with other numbers of views (fields of `EvaluationViewsConfig`)."""
        return self._changed(views=replace(self.views, **changes))

    def with_keys(self, keys: Sequence[str]) -> EvaluationScenes:
        """Return other scenes of the same source, in the given order."""
        return self._changed(keys=list(keys))

    def _changed(self, **attributes: Any) -> EvaluationScenes:
        other = copy(self)
        other.__dict__.pop("_active", None)  # found again on demand
        vars(other).update(attributes)
        return other

    @property
    def active(self) -> int:
        """Number of the scene that Nerfstudio's tools display."""
        return self._active[0]

    @property
    def context_set(self) -> SceneViews:
        return self._active[1]

    @property
    def target_set(self) -> SceneViews:
        return self._active[2]

    @cached_property
    def _active(self) -> tuple[int, SceneViews, SceneViews]:
        """Number of the scene to display, its context views and its target views."""
        if getattr(self.dataparser, "scene", None) is not None:
            number = self.number_of(self.dataparser.scene)  # type: ignore[attr-defined]
            return number, self.data_set(number, "context"), self.data_set(number, "target")
        for scene in self.usable():
            try:
                return scene.number, self.data_set(scene.number, "context"), self.data_set(scene.number, "target")
            except BadScene as error:  # a target view is unusable
                self.skip(scene.number, error)
        raise self.none_usable()

    def number_of(self, key: str) -> int:
        """Return the number of a scene, adding it to the scenes to evaluate. Raises DataError if it does not exist."""
        if key not in self.keys:
            if key not in self.source.keys:
                raise no_such_scene(key, list(self.source.keys), self.split, self.data)
            self.keys = [*self.keys, key]
        return self.keys.index(key)

    def usable(self) -> Iterator[EvaluationScene]:
        """Yield all scenes whose context views can be read, and skip the others. Raises DataError if there is none."""
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
        """Record a scene as unusable. It is logged the first time."""
        self.source.skipped.add(error if error.key else BadScene(error.reason, self.keys[number]))

    def none_usable(self) -> DataError:
        return DataError(f"no evaluation scene is usable; {self.source.skipped.summary(3)}")

    # --- One scene ---

    def scene(self, number: int) -> EvaluationScene:
        """Read a scene with its views. Raises BadScene."""
        scene = self.source.scene(self.keys[number])
        views = self._views(scene)
        given, anchors = views.context, None
        if self.preset.scene_generator is not None:
            count = self.views.num_condition
            if count is None and self.views.eval_protocol == "published":
                count = 1
            given = condition_of(views, self.preset, count)
            path = self.source.anchors_path
            if path is None:
                path = scene.c2w[path_of(views, self._num_context)]
            anchors = anchors_along(path, self._num_context)
        elif self.views.eval_protocol == "notebook":
            given = given.roll(len(given) // 2)  # moves the first view to the middle, which is the reference
        target = views.target[: self.views.eval_targets]
        return EvaluationScene(number, scene, given, target, anchors, self._further(scene, target))

    def _further(self, scene: Scene, target: Int64[Tensor, " target"]) -> Int64[Tensor, " further"]:
        """Frames that the published sampler appends to a clip for Wan, to fill the last chunk. Raises BadScene."""
        layout, count = latent_space(self.preset.target_autoencoder).layout, len(target)
        if (
            self.views.eval_protocol != "published"
            or not layout.first_frame_alone
            or not count
            or count % layout.frames_per_latent
        ):
            return target[:0]
        whole = (count + layout.frames_per_latent) // layout.frames_per_chunk * layout.frames_per_chunk
        further = target[-1] + 1 + torch.arange(max(whole - count, 0))
        if len(further) and int(further[-1]) >= scene.num_frames:
            reason = f"the published evaluation needs frame {int(further[-1])}, but there are {scene.num_frames}"
            raise BadScene(reason, scene.key)
        return further

    def _views(self, scene: Scene) -> ViewIndices:
        fixed = self.source.fixed_views(self._num_context, fewer=self.views.num_context is None)
        return self.views_by_index(scene) if fixed is None else fixed

    @property
    def views_by_index(self) -> Callable[[Scene], ViewIndices]:
        """Function that returns the evaluation views of any scene of a data set. It can be sent to workers."""
        return partial(views_by_index, self.index, self._indexed, self.views.num_context, self._num_context)

    @property
    def _num_context(self) -> int:
        given = self.views.num_context
        return self.preset.data.views.num_context if given is None else given

    def spread_views(self, number: int, count: int) -> Int64[Tensor, " count"]:
        """Choose `count` views spread over a scene, regardless of the evaluation index. Raises BadScene."""
        fixed = self.source.fixed_views(count)
        if fixed is not None:
            return fixed.context
        return default_views(self.source.scene(self.keys[number]).c2w, count).context

    def condition_views(self, number: int, count: int) -> Int64[Tensor, " count"]:
        """SceneGen: choose `count` photographs of a scene to generate it from. Raises BadScene and DataError."""
        return condition_of(self._views(self.source.scene(self.keys[number])), self.preset, count)

    def context_indices(self, number: int) -> Int64[Tensor, " context"]:
        """Views that a scene is encoded from; a generator may get fewer of them. Raises BadScene."""
        return self._views(self.source.scene(self.keys[number])).context

    def context_views(self, number: int) -> Views:
        """Read the images and cameras from which a scene is encoded or generated. Raises BadScene."""
        scene = self.scene(number)
        return scene.scene.load_views(scene.context, (self.preset.data.image_size,) * 2)

    def target_views(self, number: int) -> Views:
        """Read the images and cameras that renders are compared with. Raises BadScene."""
        scene = self.scene(number)
        return scene.scene.load_views(scene.target, (self.preset.data.image_size,) * 2)

    def conditions(self, number: int) -> GenerationInputs | None:
        """Inputs for generating a scene; None if scenes are encoded from their context views. Raises BadScene."""
        anchors = self.scene(number).anchors
        return (
            None if anchors is None else GenerationInputs(self.context_views(number), anchors, self.pose_scale(number))
        )

    def pose_scale(self, number: int) -> float:
        """Factor from a scene's units to those of the training data. Raises BadScene."""
        if self.views.eval_protocol == "published" and self.keys[number] in self._indexed:
            scene = self.source.scene(self.keys[number])
            context = self._views(scene).context
            if len(context) == 2:
                first, second = scene.c2w[context, :3, 3]
                baseline = float((first - second).norm())
                if baseline < SMALLEST_BASELINE:
                    raise BadScene(f"its two context views are {baseline:.2g} apart, which gives no scale", scene.key)
                return 1 / baseline
        return self.source.pose_scale

    def stored_tokens(self, number: int) -> SceneTokens | None:
        """Stored tokens of a scene; None if its photographs must be encoded."""
        return self.source.tokens

    def data_set(self, number: int, role: Literal["context", "target"]) -> SceneViews:
        """A scene's context or target views as a data set for Nerfstudio's tools. Raises BadScene."""
        scene = self.scene(number)
        downscale = getattr(self.dataparser, "downscale_factor", None) or 1
        side = max(1, round(self.preset.data.image_size / downscale))
        return SceneViews(scene.scene, scene.context if role == "context" else scene.target, side, number)


def views_by_index(
    index: EvaluationIndex | None, indexed: Collection[str], limit: int | None, default: int, scene: Scene
) -> ViewIndices:
    """Evaluation views of a scene.

    Scenes in `indexed` get the views of the index, with at most `limit` of its context views, spread evenly. Other
    scenes get `default` context views spread over the scene. This is a plain function so that it can be sent to
    workers.
    """
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
    """Iterates over (one-camera slice, batch) of all target views, scene after scene, like Nerfstudio's loaders.

    A scene is read when its turn comes. If one of its target views is damaged, the whole scene is skipped and removed
    from `scenes` and the length.
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
