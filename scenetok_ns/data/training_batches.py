"""Training batches from a source of scenes. The samples of a step depend only on seed, step and sharding.

A resumed run therefore continues with the same data, and ranks and workers never share state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from scenetok_ns.data.poses import reflect
from scenetok_ns.data.precomputed.latents import LatentScenes, LatentViews
from scenetok_ns.data.precomputed.token_sets import TokenStore
from scenetok_ns.data.scenes import BadScene, DataError, SceneSource, ViewIndices
from scenetok_ns.data.view_sampling import condition_views, sample_views
from scenetok_ns.models.recipes import DataConfig
from scenetok_ns.models.temporal import TemporalLayout
from scenetok_ns.tools.seeds import mix

REPLACEMENTS = 50
"""Maximum number of scenes to try for one sample before training ends with an error."""


@dataclass(frozen=True)
class Clips:
    """Frames, or their latents, with the frames' cameras. In a batch there is a leading batch dimension."""

    images: UInt8[Tensor, "*b v 3 h w"] | None
    """Photographs; None if there are latents or scene tokens instead."""
    c2w: Float[Tensor, "*b v 4 4"]
    intrinsics: Float[Tensor, "*b v 3 3"]
    latents: Float[Tensor, "*b l c h w"] | None = None
    """Raw latents in their stored precision; None if there are photographs or scene tokens instead."""
    depths: Float[Tensor, "*b v 1 h w"] | None = None
    """Depth of the photographs along the optical axis, in the units of the poses; 0: unknown. None: there is none."""

    @staticmethod
    def stack(items: list[Clips]) -> Clips:
        columns = zip(*(item._fields() for item in items), strict=True)
        return Clips(*(None if column[0] is None else torch.stack(column) for column in columns))  # type: ignore[arg-type]

    def _fields(self) -> tuple[Tensor | None, ...]:
        return self.images, self.c2w, self.intrinsics, self.latents, self.depths

    def map(self, change: Callable[[Tensor], Tensor]) -> Clips:
        return Clips(*(None if field is None else change(field) for field in self._fields()))  # type: ignore[arg-type]


@dataclass(frozen=True)
class TokenMoments:
    """Gaussians of precomputed scene tokens."""

    mean: Float[Tensor, "*b n dim"]
    logvar: Float[Tensor, "*b n dim"]

    def map(self, change: Callable[[Tensor], Tensor]) -> TokenMoments:
        return TokenMoments(change(self.mean), change(self.logvar))

    @staticmethod
    def stack(items: list[TokenMoments]) -> TokenMoments:
        return TokenMoments(torch.stack([i.mean for i in items]), torch.stack([i.logvar for i in items]))


@dataclass(frozen=True)
class Sample:
    """Data of one scene, or of all scenes of a batch."""

    context: Clips
    """Views that are encoded, or that the tokens were encoded from."""
    target: Clips | None = None
    """SceneTok: clips to denoise."""
    condition: Clips | None = None
    """SceneGen: views to generate the scene from."""
    tokens: TokenMoments | None = None
    """SceneGen: precomputed tokens of the context views; None: the context views are encoded at each step."""

    def map(self, change: Callable[[Any], Any]) -> Sample:
        parts = (self.context, self.target, self.condition, self.tokens)
        return Sample(*(None if part is None else change(part) for part in parts))  # type: ignore[arg-type]

    @staticmethod
    def of(clips: dict[str, Clips]) -> Sample:
        return Sample(clips["context"], clips.get("target"), clips.get("condition"))

    @staticmethod
    def stack(samples: list[Sample]) -> Sample:
        columns = zip(*((s.context, s.target, s.condition, s.tokens) for s in samples), strict=True)
        return Sample(*(None if column[0] is None else type(column[0]).stack(list(column)) for column in columns))  # type: ignore[arg-type]


@dataclass(frozen=True)
class TrainingBatch:
    """Samples of one step, each from one scene."""

    step: int
    scenes: tuple[str, ...]
    sample: Sample
    skipped: tuple[tuple[str, str], ...] = ()
    """Names of scenes that this batch would have used but that are unusable, with reasons."""

    @property
    def context(self) -> Clips:
        return self.sample.context

    @property
    def target(self) -> Clips:
        assert self.sample.target is not None, "a batch for a scene generator has no targets"
        return self.sample.target

    @property
    def condition(self) -> Clips:
        assert self.sample.condition is not None, "only batches for a scene generator have condition views"
        return self.sample.condition

    @property
    def has_images(self) -> bool:
        """Whether the batch has photographs; False: it has latents or scene tokens only."""
        clips = (self.sample.context, self.sample.target, self.sample.condition)
        return any(part is not None and part.images is not None for part in clips)

    def to(self, device: torch.device | str) -> TrainingBatch:
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> TrainingBatch:
        return self.map(torch.Tensor.pin_memory)

    def map(self, change: Callable[[Tensor], Tensor]) -> TrainingBatch:
        return replace(self, sample=self.sample.map(lambda part: part.map(change)))

    def tensors(self) -> list[Tensor]:
        """All tensors, always in the same order."""
        found: list[Tensor] = []
        self.map(lambda tensor: found.append(tensor) or tensor)  # type: ignore[func-returns-value]
        return found


@dataclass(frozen=True)
class Sharding:
    """This process's share of the samples of a step."""

    batch_size: int
    rank: int = 0
    world_size: int = 1

    def sample_number(self, step: int, element: int) -> int:
        """Index of a sample in the endless sequence of the samples of all ranks."""
        return (step * self.world_size + self.rank) * self.batch_size + element


class TrainingSamples(Dataset[TrainingBatch]):
    """Item `step` is the whole batch of that step.

    Each pass over the data shuffles the scenes again and uses each scene once. An unusable scene is replaced with the
    next one in that order.
    """

    def __init__(
        self, source: SceneSource, data: DataConfig, layout: TemporalLayout, sharding: Sharding, seed: int
    ) -> None:
        self.source, self.data, self.layout, self.sharding, self.seed = source, data, layout, sharding, seed
        self.keys = list(source.keys)
        if not self.keys:
            raise DataError("there is no scene to train on")
        self.reads_depth = False
        """Read the depth of photographs as well, if the data set has it."""
        self._pass: tuple[int, Tensor] | None = None

    def __getitem__(self, step: int) -> TrainingBatch:
        known = set(self.source.skipped.reasons)
        samples = [self._sample(step, element) for element in range(self.sharding.batch_size)]
        skipped = self.source.skipped.reasons
        return TrainingBatch(
            step=step,
            scenes=tuple(scene for scene, _ in samples),
            sample=Sample.stack([sample for _, sample in samples]),
            skipped=tuple((key, reason) for key, reason in skipped.items() if key not in known),
        )

    def _sample(self, step: int, element: int) -> tuple[str, Sample]:
        number = self.sharding.sample_number(step, element)
        tried = []
        for replacement in range(REPLACEMENTS):
            key = self._key(number, replacement)
            generator = torch.Generator().manual_seed(mix(self.seed, number, replacement))
            try:
                return key, self._load(key, step, generator)
            except BadScene as error:
                self.source.skipped.add(error if error.key else BadScene(error.reason, key))
                tried.append(key)
        reason = self.source.skipped.reasons[tried[-1]]
        raise DataError(f"{len(tried)} scenes in a row cannot be used for training; the last, {tried[-1]}: {reason}")

    def _key(self, number: int, replacement: int) -> str:
        epoch, place = divmod(number, len(self.keys))
        if self._pass is None or self._pass[0] != epoch:
            generator = torch.Generator().manual_seed(mix(self.seed, epoch, 1 << 20))
            self._pass = epoch, torch.randperm(len(self.keys), generator=generator)
        return self.keys[int(self._pass[1][(place + replacement) % len(self.keys)])]

    def _load(self, key: str, step: int, generator: torch.Generator) -> Sample:
        scene = self.source.scene(key)
        views: ViewIndices = sample_views(scene.c2w, self.data.views, self.layout, step=step, generator=generator)
        size = (self.data.image_size, self.data.image_size)
        wanted = wanted_views(views)
        # The views of a sample overlap: decode each frame once.
        frames, place = torch.cat(list(wanted.values())).unique(return_inverse=True)
        loaded = scene.load_views(frames, size)
        images, c2w = loaded.images, loaded.c2w
        depths = scene.load_depths(frames, size) if self.reads_depth and scene.read_depth is not None else None
        if self.data.random_flip and torch.rand((), generator=generator) < 0.5:
            images, c2w = reflect(images, c2w)
            depths = None if depths is None else depths.flip(-1)
        places = place.split([len(indices) for indices in wanted.values()])
        clips = (
            Clips(images[part], c2w[part], loaded.intrinsics[part], depths=None if depths is None else depths[part])
            for part in places
        )
        return Sample.of(dict(zip(wanted, clips, strict=True)))


def wanted_views(views: ViewIndices) -> dict[str, Int64[Tensor, " v"]]:
    """Frames by their part in a `Sample`: a scene generator has condition views instead of targets."""
    if views.condition is None:
        return {"context": views.context, "target": views.target}
    return {"context": views.context, "condition": views.condition}


class LatentSamples(TrainingSamples):
    """Like `TrainingSamples`, but from precomputed latents; nothing is decoded or encoded.

    Views are drawn from the frames that have target latents. If these are all frames, the views are the same as in
    training from photographs. A mirrored sample needs the mirrored scene's latents of both autoencoders; without them,
    the sample is not mirrored.
    """

    source: LatentScenes  # type: ignore[assignment]

    def __init__(
        self, scenes: LatentScenes, data: DataConfig, layout: TemporalLayout, sharding: Sharding, seed: int
    ) -> None:
        super().__init__(scenes, data, layout, sharding, seed)  # type: ignore[arg-type]  # `scene` is not called

    def _load(self, key: str, step: int, generator: torch.Generator) -> Sample:
        c2w, _ = self.source.target.cameras(key)
        views = sample_views(c2w, self.data.views, self.layout, step=step, generator=generator)
        flipped = self.data.random_flip and bool(torch.rand((), generator=generator) < 0.5)
        flipped = flipped and self.source.has_flipped(key)
        stores = {"context": self.source.context, "target": self.source.target, "condition": self.source.context}
        return Sample.of(
            {
                part: self._clips(stores[part].views(key, indices, flipped=flipped))
                for part, indices in wanted_views(views).items()
            }
        )

    @staticmethod
    def _clips(views: LatentViews) -> Clips:
        return Clips(None, views.c2w, views.intrinsics, views.latents)


class TokenSamples(TrainingSamples):
    """Like `TrainingSamples`, for a scene generator with precomputed scene tokens.

    Only the condition views are read as photographs. For each sample, one of the scene's encodings is drawn at random.
    """

    def __init__(
        self,
        source: SceneSource,
        store: TokenStore,
        data: DataConfig,
        layout: TemporalLayout,
        sharding: Sharding,
        seed: int,
    ) -> None:
        super().__init__(source, data, layout, sharding, seed)
        self.store = store
        self.keys = list(store.present(self.keys))

    def _load(self, key: str, step: int, generator: torch.Generator) -> Sample:
        number = int(torch.randint(self.store.encodings, (), generator=generator))
        encoding, scene = self.store.encoding(key, number), self.source.scene(key)
        if encoding.num_frames != scene.num_frames:
            raise BadScene(
                f"{scene.num_frames} frames, but its tokens are of {encoding.num_frames}; encode it again", key
            )
        count = self.data.views.max_condition_views
        condition = condition_views(encoding.reference, scene.num_frames, count, generator)
        loaded = scene.load_views(condition, (self.data.image_size, self.data.image_size))
        images, c2w = loaded.images, loaded.c2w
        if encoding.flipped:
            images, c2w = reflect(images, c2w)
        return Sample(
            context=Clips(None, encoding.c2w, encoding.intrinsics),
            condition=Clips(images, c2w, loaded.intrinsics),
            tokens=TokenMoments(encoding.mean, encoding.logvar),
        )


class StepsFrom(Sampler[int]):
    """Step numbers from `start` on, without end."""

    def __init__(self, start: int) -> None:
        self.start = start

    def __iter__(self) -> Iterator[int]:
        step = self.start
        while True:
            yield step
            step += 1


class TrainingLoader:
    """Loads the batches of `TrainingSamples`. Worker processes prepare them ahead as long as steps come in order."""

    def __init__(self, samples: TrainingSamples, num_workers: int, pin_memory: bool) -> None:
        self.samples, self.num_workers, self.pin_memory = samples, num_workers, pin_memory
        self._batches: Iterator[TrainingBatch] | None = None
        self._next_step = -1

    def batch(self, step: int) -> TrainingBatch:
        if self._batches is None or step != self._next_step:
            self._batches = iter(self._loader(step))
        self._next_step = step + 1
        try:
            batch = next(self._batches)
        except DataError as error:  # if it comes from a worker, its text is a whole traceback
            self._batches = None
            raise DataError(str(error).strip().rsplit("DataError: ", 1)[-1]) from error
        for key, reason in batch.skipped:  # workers have sources of their own
            self.samples.source.skipped.add(BadScene(reason, key))
        return batch

    def _loader(self, start: int) -> DataLoader[TrainingBatch]:
        return DataLoader(
            self.samples,
            sampler=StepsFrom(start),
            batch_size=None,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            # The loader draws seeds for its workers; a generator of its own leaves the global one unchanged.
            generator=torch.Generator(),
        )
