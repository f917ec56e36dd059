"""Render and measure scene after scene. Photographs are read ahead; scenes are measured while the next ones render."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from scenetok_ns.data.precomputed.scene_jobs import Shard
from scenetok_ns.data.scenes import BadScene, DataError, Views
from scenetok_ns.evaluation.baselines import copied_pictures, shuffled, swap_tokens
from scenetok_ns.evaluation.measures import Measured, Measures
from scenetok_ns.evaluation.options import ContextOrder
from scenetok_ns.evaluation.records import EvaluationFolder, SceneRecord
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.metrics import Pictures, depth_metrics
from scenetok_ns.models.rendered_depth import sweep_views
from scenetok_ns.models.tokens import SceneTokens
from scenetok_ns.tools.seeds import named_generator

if TYPE_CHECKING:
    from scenetok_ns.bridge.evaluation_scenes import EvaluationScene, EvaluationScenes
    from scenetok_ns.rendering.scene_renderer import SceneRenderer

READERS = 2
"""Number of threads that decode photographs."""


@dataclass(frozen=True)
class EvaluationConditions:
    """Changes that an evaluation makes to how a run encodes its scenes."""

    context_order: ContextOrder = "index"
    """Order of the context views: that of the evaluation index, or another. The middle view is the reference."""
    num_tokens: int | None = None
    """Number of scene tokens to keep, the first ones; None: all."""


@dataclass(frozen=True, eq=False)
class EvaluatedScene:
    """A rendered scene before it is measured, as picture writers get it."""

    number: int
    key: str
    context: Views
    target: Views
    frames: list[int]
    context_frames: list[int]
    pred: Pictures
    baselines: dict[str, Pictures]
    seconds: float
    depth: Float[Tensor, "v 1 h w"] | None = None
    """Rendered depth along the optical axis, in capture units; None: the data has no depth to compare it with."""
    true_depth: Float[Tensor, "v 1 h w"] | None = None
    """Depth of the data; 0 where unknown."""


OnScene = Callable[[EvaluatedScene], None]


@dataclass(frozen=True, eq=False)
class _Loaded:
    scene: EvaluationScene
    context: Views
    target: Views
    further: Views
    true_depth: Float[Tensor, "v 1 h w"] | None = None


@dataclass
class SceneEvaluation:
    """One evaluation of a renderer on its scenes.

    Scenes are rendered in groups that depend on their numbers alone, so a continued evaluation gives the same results
    as an uninterrupted one: bit for bit, if the device is deterministic.
    """

    renderer: SceneRenderer
    measures: Measures
    folder: EvaluationFolder
    conditions: EvaluationConditions = EvaluationConditions()
    baselines: bool = False
    batch_scenes: int | None = None
    shard: Shard = Shard()  # noqa: RUF009  frozen
    write_pictures: OnScene = lambda rendered: None
    on_scene: Callable[[str], None] = lambda key: None
    """Called after each scene, also for scenes with existing records."""
    _tokens: dict[int, SceneTokens] = field(default_factory=dict)
    """With baselines: tokens of scenes that are still to be rendered, or to be used for another scene's baseline."""

    @property
    def scenes(self) -> EvaluationScenes:
        return self.renderer.scenes

    @property
    def keys(self) -> list[str]:
        """Scenes of all shards."""
        return list(self.scenes.keys)

    @property
    def group_size(self) -> int:
        """Number of scenes that are rendered together."""
        return self.batch_scenes or (4 if self.renderer.device.type == "cuda" else 1)

    @property
    def own_keys(self) -> list[str]:
        """Scenes of this shard."""
        return [self.keys[number] for group in self._groups() for number in group]

    @torch.no_grad()
    def run(self) -> None:
        """Create the missing records of this shard's scenes, and skip unusable scenes.

        Raises DataError if scenes have fewer tokens than the conditions ask for.
        """
        pending: Future[None] | None = None
        with ThreadPoolExecutor(READERS) as readers, ThreadPoolExecutor(1) as measuring:
            try:
                for group, loaded in self._read_ahead(readers):
                    rendered = self._render(group, loaded)
                    # At most one group waits, so memory is bounded, and a failure is reported early.
                    if pending is not None:
                        pending.result()
                    pending = measuring.submit(self._finish, group, rendered)
                if pending is not None:
                    pending.result()
            finally:
                readers.shutdown(cancel_futures=True)

    # --- Reading ---

    def _groups(self) -> list[range]:
        count, size = len(self.keys), self.group_size
        groups = [range(start, min(start + size, count)) for start in range(0, count, size)]
        return list(self.shard.of(groups))

    def _read_ahead(self, readers: ThreadPoolExecutor) -> Iterator[tuple[range, dict[int, Future[_Loaded]]]]:
        """Yield each group with the scenes to render: all of them, or none if all have records."""
        ahead: list[tuple[range, dict[int, Future[_Loaded]]]] = []
        for group in self._groups():
            done = all(self.folder.has(self.keys[number]) for number in group)
            ahead.append((group, {} if done else {number: self._start_reading(readers, number) for number in group}))
            if len(ahead) > 1:
                yield ahead.pop(0)
        yield from ahead

    def _start_reading(self, readers: ThreadPoolExecutor, number: int) -> Future[_Loaded]:
        """Open the scene at once, because sources are not thread-safe, and decode its photographs in a thread."""
        try:
            return readers.submit(self._load, self._open(number))
        except BadScene as error:
            failed: Future[_Loaded] = Future()
            failed.set_exception(error)
            return failed

    def _open(self, number: int) -> EvaluationScene:
        scene = self.scenes.scene(number)
        if not len(scene.target):
            raise BadScene("no views to compare with", scene.scene.key)
        return replace(scene, context=ordered(scene.context, self.conditions.context_order, scene.scene.key))

    def _load(self, scene: EvaluationScene) -> _Loaded:
        size = self.renderer.scenetok.image_size
        parts = scene.context, scene.target, scene.further
        context, target, further = (scene.scene.load_views(indices, size) for indices in parts)
        known = scene.scene.read_depth is not None
        return _Loaded(scene, context, target, further, scene.scene.load_depths(scene.target, size) if known else None)

    # --- Rendering ---

    def _render(self, group: range, loaded: dict[int, Future[_Loaded]]) -> list[EvaluatedScene]:
        """Render the usable scenes of a group, unless all of them have been measured."""
        scenes: list[tuple[_Loaded, SceneTokens]] = []
        for number, reading in loaded.items():
            try:
                found = reading.result()
                scenes.append((found, self._tokens_of(number, found)))
            except BadScene as error:
                self.scenes.skip(number, error)
                self.folder.skip(self.keys[number], error.reason)
        if all(self.folder.has(found.scene.scene.key) for found, _ in scenes):
            scenes = []  # the other scenes of the group are unusable
        rendered = [scene for part in _equally_long(scenes) for scene in self._render_part(part)]
        # Keep the first usable scene, which is the next one after the last scene, and those computed ahead.
        self._tokens = {n: t for n, t in self._tokens.items() if n >= group.stop or n == min(self._tokens)}
        return rendered

    def _render_part(self, part: list[tuple[_Loaded, SceneTokens]]) -> list[EvaluatedScene]:
        cameras = [_path(found) for found, _ in part]
        begin = self._now()
        wants_depth = any(found.true_depth is not None for found, _ in part)
        pictures, depths = self._frames([tokens for _, tokens in part], cameras, depth=wants_depth)
        seconds = (self._now() - begin) / len(part)
        wrong = self._wrong_tokens(part) if self.baselines else {}
        others = {
            name: dict(zip(chosen, self._frames(list(chosen.values()), [cameras[p] for p in chosen])[0], strict=True))
            for name, chosen in wrong.items()
            if chosen
        }
        return [
            EvaluatedScene(
                number=found.scene.number,
                key=found.scene.scene.key,
                context=found.context,
                target=found.target,
                frames=found.scene.target.tolist(),
                context_frames=found.scene.context.tolist(),
                pred=pictures[place][: len(found.target.c2w)],
                baselines={n: made[place][: len(found.target.c2w)] for n, made in others.items() if place in made},
                seconds=seconds,
                depth=None if found.true_depth is None else self._depth(found, tokens, pictures[place], depths[place]),
                true_depth=found.true_depth,
            )
            for place, (found, tokens) in enumerate(part)
        ]

    def _depth(
        self, found: _Loaded, tokens: SceneTokens, pictures: Pictures, depth: Float[Tensor, "f 1 h w"] | None
    ) -> Float[Tensor, "v 1 h w"]:
        """Depth of the target views: from the depth head, if there is one, else from a comparison of the pictures."""
        count = len(found.target.c2w)
        if depth is not None:
            return depth[:count]
        renderer, settings = self.renderer, self.renderer.settings
        cameras, places = _path(found).to(renderer.device), list(range(count))
        return sweep_views(renderer.networks, tokens, pictures, cameras, places, settings.sampler, settings.seed).depth

    def _frames(
        self, tokens: Sequence[SceneTokens], cameras: Sequence[CameraBatch], depth: bool = False
    ) -> tuple[list[Pictures], list[Tensor | None]]:
        """Render the frames of paths, and their depth if there is a depth head."""
        renderer, settings = self.renderer, self.renderer.settings
        here = [path.to(renderer.device) for path in cameras]
        windows = list(
            renderer.networks.render_many(tokens, here, seeds=settings.seed, sampler=settings.sampler, depth=depth)
        )
        maps = [window.maps.depth for window in windows if window.maps is not None]
        depths: list[Tensor | None] = list(torch.cat(maps, dim=1)) if maps else [None] * len(tokens)
        return list(torch.cat([window.frames for window in windows], dim=1).clamp(0, 1)), depths

    def _tokens_of(self, number: int, loaded: _Loaded) -> SceneTokens:
        """Tokens of a scene under the conditions of this evaluation. They are cached for its neighbour's baseline."""
        if number in self._tokens:
            return self._tokens[number]
        generation = self.scenes.conditions(number) if loaded.scene.anchors is not None else None
        if generation is None:
            tokens = self.renderer.tokens_from(loaded.context, number)
        else:
            tokens = self.renderer.generate(generation, self.keys[number])
        kept = kept_tokens(tokens, self.conditions.num_tokens)
        if self.baselines:
            self._tokens[number] = kept
        return kept

    def _wrong_tokens(self, part: list[tuple[_Loaded, SceneTokens]]) -> dict[str, dict[int, SceneTokens]]:
        """Baseline -> index in the part -> wrong tokens for that scene."""
        noise = {place: shuffled(own, seed=found.scene.number) for place, (found, own) in enumerate(part)}
        other = {}
        for place, (found, own) in enumerate(part):
            if (tokens := self._next_tokens(found.scene.number)) is not None:
                other[place] = swap_tokens(tokens, own)
        return {"noise_tokens": noise, "other_tokens": other}

    def _next_tokens(self, number: int) -> SceneTokens | None:
        """Tokens of the next usable scene; the first follows the last. None if there is no other scene."""
        count = len(self.keys)
        for step in range(1, count):
            other = (number + step) % count
            try:
                return self._tokens.get(other) or self._tokens_of(other, self._load(self._open(other)))
            except BadScene:
                continue  # reported when the scene itself is rendered
        return None

    def _now(self) -> float:
        if self.renderer.device.type == "cuda":
            torch.cuda.synchronize(self.renderer.device)
        return time.perf_counter()

    # --- Measuring ---

    @torch.no_grad()
    def _finish(self, group: range, rendered: list[EvaluatedScene]) -> None:
        """Write the pictures, measure, and write the record last, so that a scene with a record is complete."""
        for scene in rendered:
            if not self.folder.has(scene.key):
                self.write_pictures(scene)
                record = SceneRecord(scene.key, scene.context_frames, scene.frames, self._measure(scene), scene.seconds)
                self.folder.write(record)
        for number in group:
            self.on_scene(self.keys[number])

    def _measure(self, scene: EvaluatedScene) -> Measured:
        device = scene.pred.device
        target = scene.target.images.to(device)
        measured = self.measures.measure(pred=scene.pred, target=target, frames=scene.frames)
        made = dict(scene.baselines)
        if self.baselines:
            scale = self.scenes.pose_scale(scene.number)
            made |= copied_pictures(scene.context, scene.target, device, scale)
        views = measured.views | depth_errors(scene)
        for baseline, pred in made.items():
            values = self.measures.views(pred=pred, target=target.float() / 255)
            views |= {f"{metric}_{baseline}": numbers for metric, numbers in values.items()}
        return replace(measured, views=views)


def depth_errors(scene: EvaluatedScene) -> dict[str, Float[Tensor, " v"]]:
    """AbsRel and delta1 of each view; empty if the data has no depth, or a view without any depth."""
    if scene.depth is None or scene.true_depth is None or not (scene.true_depth > 0).flatten(1).any(1).all():
        return {}
    pairs = zip(scene.depth.cpu(), scene.true_depth, strict=True)
    found = [depth_metrics(depth, truth, truth > 0) for depth, truth in pairs]
    return {f"depth_{name}": torch.tensor([one[name] for one in found]) for name in found[0]}


def _path(found: _Loaded) -> CameraBatch:
    """Cameras to render: those of the target views, then those of further views."""
    parts = found.target, found.further
    return CameraBatch(torch.cat([p.c2w for p in parts])[None], torch.cat([p.intrinsics for p in parts])[None])


def _equally_long(scenes: list[tuple[_Loaded, SceneTokens]]) -> list[list[tuple[_Loaded, SceneTokens]]]:
    """Group scenes that can be rendered together, because they have the same number of views to render."""
    parts: dict[int, list[Any]] = {}
    for found, tokens in scenes:
        parts.setdefault(len(found.scene.target) + len(found.scene.further), []).append((found, tokens))
    return list(parts.values())


def ordered(context: Int64[Tensor, " c"], order: ContextOrder, key: str) -> Int64[Tensor, " c"]:
    """Reorder context views; the order `shuffled` depends on the scene's name alone."""
    if order == "index":
        return context
    if order == "reversed":
        return context.flip(0)
    return context[torch.randperm(len(context), generator=named_generator("context order", key))]


def kept_tokens(tokens: SceneTokens, count: int | None) -> SceneTokens:
    """Keep the first `count` tokens of a scene; None: all. Raises DataError if there are fewer."""
    if count is None:
        return tokens
    if not 0 < count <= len(tokens.mean):
        raise DataError(f"{count} tokens were asked for, the scenes have {len(tokens.mean)}")
    return replace(tokens.subset(count), logvar=None)
