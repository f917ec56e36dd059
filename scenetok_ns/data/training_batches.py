"""Training batches from a source of scenes: what a step sees follows from the seed and the step alone.

So a resumed run continues with the data it would have had, and ranks and workers never share state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from scenetok_ns.data.latents import LatentScenes, LatentViews
from scenetok_ns.data.poses import reflect
from scenetok_ns.data.scenes import BadScene, DataError, SceneSource
from scenetok_ns.data.view_sampling import ViewIndices, sample_views
from scenetok_ns.models.presets import DataConfig
from scenetok_ns.models.temporal import TemporalLayout

REPLACEMENTS = 50
"""Scenes tried, one after another, in place of one that is unusable, before the data set is given up."""


@dataclass(frozen=True)
class Clips:
    """Frames, or the latents made of them, with the frames' cameras; in a batch with a leading batch dimension."""

    images: UInt8[Tensor, "*b v 3 h w"] | None
    """Photographs; None if there are latents in their place."""
    c2w: Float[Tensor, "*b v 4 4"]
    intrinsics: Float[Tensor, "*b v 3 3"]
    latents: Float[Tensor, "*b l c h w"] | None = None
    """Raw, in the precision they are stored in; None if there are photographs."""

    def to(self, device: torch.device | str) -> Clips:
        return self._map(lambda field: field.to(device, non_blocking=True))

    def pin_memory(self) -> Clips:
        return self._map(torch.Tensor.pin_memory)

    @staticmethod
    def stack(items: list[Clips]) -> Clips:
        columns = zip(*(item._fields() for item in items), strict=True)
        return Clips(*(None if column[0] is None else torch.stack(column) for column in columns))  # type: ignore[arg-type]

    def _fields(self) -> tuple[Tensor | None, ...]:
        return self.images, self.c2w, self.intrinsics, self.latents

    def _map(self, change: Callable[[Tensor], Tensor]) -> Clips:
        return Clips(*(None if field is None else change(field) for field in self._fields()))  # type: ignore[arg-type]


@dataclass(frozen=True)
class TrainingBatch:
    """Samples of one step, each from a scene of its own."""

    step: int
    scenes: tuple[str, ...]
    context: Clips
    target: Clips
    skipped: tuple[tuple[str, str], ...] = ()
    """Names and reasons of scenes that were to be in this batch and are unusable."""

    def to(self, device: torch.device | str) -> TrainingBatch:
        return TrainingBatch(self.step, self.scenes, self.context.to(device), self.target.to(device), self.skipped)

    def pin_memory(self) -> TrainingBatch:
        return TrainingBatch(self.step, self.scenes, self.context.pin_memory(), self.target.pin_memory(), self.skipped)


@dataclass(frozen=True)
class Sharding:
    """Which samples of a step are this process's."""

    batch_size: int
    rank: int = 0
    world_size: int = 1

    def sample_number(self, step: int, element: int) -> int:
        """Place of a sample in the endless sequence of all samples of all ranks."""
        return (step * self.world_size + self.rank) * self.batch_size + element


class TrainingSamples(Dataset[TrainingBatch]):
    """Item `step` is the whole batch of that step.

    Scenes come in an order that is shuffled afresh in each pass over the data, each scene once a pass. An unusable
    scene is replaced by the next of the order.
    """

    def __init__(
        self, source: SceneSource, data: DataConfig, layout: TemporalLayout, sharding: Sharding, seed: int
    ) -> None:
        self.source, self.data, self.layout, self.sharding, self.seed = source, data, layout, sharding, seed
        self.keys = list(source.keys)
        if not self.keys:
            raise DataError("there is no scene to train on")
        self._pass: tuple[int, Tensor] | None = None

    def __getitem__(self, step: int) -> TrainingBatch:
        known = set(self.source.skipped.reasons)
        samples = [self._sample(step, element) for element in range(self.sharding.batch_size)]
        skipped = self.source.skipped.reasons
        return TrainingBatch(
            step=step,
            scenes=tuple(scene for scene, _, _ in samples),
            context=Clips.stack([context for _, context, _ in samples]),
            target=Clips.stack([target for _, _, target in samples]),
            skipped=tuple((key, reason) for key, reason in skipped.items() if key not in known),
        )

    def _sample(self, step: int, element: int) -> tuple[str, Clips, Clips]:
        number = self.sharding.sample_number(step, element)
        tried = []
        for replacement in range(REPLACEMENTS):
            key = self._key(number, replacement)
            generator = torch.Generator().manual_seed(mix(self.seed, number, replacement))
            try:
                return key, *self._load(key, step, generator)
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

    def _load(self, key: str, step: int, generator: torch.Generator) -> tuple[Clips, Clips]:
        scene = self.source.scene(key)
        views: ViewIndices = sample_views(scene.c2w, self.data.views, self.layout, step=step, generator=generator)
        size = (self.data.image_size, self.data.image_size)
        # Context and target views overlap: decode each frame once.
        frames, place = torch.cat([views.context, views.target]).unique(return_inverse=True)
        loaded = scene.load_views(frames, size)
        images, c2w = loaded.images, loaded.c2w
        if self.data.random_flip and torch.rand((), generator=generator) < 0.5:
            images, c2w = reflect(images, c2w)
        context, target = place.split([len(views.context), len(views.target)])
        return (
            Clips(images[context], c2w[context], loaded.intrinsics[context]),
            Clips(images[target], c2w[target], loaded.intrinsics[target]),
        )


class LatentSamples(TrainingSamples):
    """As `TrainingSamples`, from latents that were computed before; nothing is decoded or encoded.

    Views are drawn from the frames that have target latents; where these are all frames, they are the views that
    training from photographs would take. A mirrored sample takes the latents of the mirrored scene, where both exist.
    """

    source: LatentScenes  # type: ignore[assignment]

    def __init__(
        self, scenes: LatentScenes, data: DataConfig, layout: TemporalLayout, sharding: Sharding, seed: int
    ) -> None:
        super().__init__(scenes, data, layout, sharding, seed)  # type: ignore[arg-type]  # `scene` is not called

    def _load(self, key: str, step: int, generator: torch.Generator) -> tuple[Clips, Clips]:
        c2w, _ = self.source.target.cameras(key)
        views = sample_views(c2w, self.data.views, self.layout, step=step, generator=generator)
        flipped = self.data.random_flip and bool(torch.rand((), generator=generator) < 0.5)
        flipped = flipped and self.source.has_flipped(key)
        return (
            self._clips(self.source.context.views(key, views.context, flipped=flipped)),
            self._clips(self.source.target.views(key, views.target, flipped=flipped)),
        )

    @staticmethod
    def _clips(views: LatentViews) -> Clips:
        return Clips(None, views.c2w, views.intrinsics, views.latents)


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
    """`batch(step)` of `TrainingSamples`, prepared ahead by worker processes while steps come in order."""

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
        except DataError as error:  # from a worker, its text is a whole traceback
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
            # Its own generator: the loader draws seeds for its workers, which must not move the global one.
            generator=torch.Generator(),
        )


def mix(*numbers: int) -> int:
    """A seed of 63 bits from whole numbers; unlike numbers give unlike seeds."""
    value = 0x9E3779B97F4A7C15
    for number in numbers:
        value = (value ^ (number & 0xFFFFFFFFFFFFFFFF)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        value ^= value >> 31
    return value & 0x7FFFFFFFFFFFFFFF
