"""Choose the frames of a scene that a model is given (context, condition) and compared with (targets).

In evaluation the views are spread over the scene; in training they are drawn.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor

from scenetok_ns.data.poses import farthest_points
from scenetok_ns.data.scenes import BadScene, DataError, ViewIndices
from scenetok_ns.models.presets import Preset
from scenetok_ns.models.recipes import ViewSamplingConfig
from scenetok_ns.models.temporal import TemporalLayout

# --- Evaluation ---


def default_views(c2w: Float[Tensor, "v 4 4"], num_context: int) -> ViewIndices:
    """Evaluation views of a scene without an evaluation index: farthest points from frame 0, and all other frames.

    Raises BadScene if no frame is left for a target.
    """
    if len(c2w) <= num_context:
        raise BadScene(f"{len(c2w)} frames, but {num_context} context views and at least one target view are needed")
    context = farthest_points(c2w, num_context, start=0)
    rest = torch.ones(len(c2w), dtype=torch.bool)
    rest[context] = False
    return ViewIndices(context, rest.nonzero().flatten())


def condition_of(views: ViewIndices, preset: Preset, count: int | None) -> Int64[Tensor, " condition"]:
    """The condition views: context views spread evenly from the first on.

    None as the count: all of them if the generator takes as many (evaluation indices for generation name one to a
    few), else the first alone. Raises DataError for a count that the generator does not take.
    """
    most, there = preset.data.views.max_condition_views, len(views.context)
    if count is None:
        count = there if there <= most else 1
    if not 1 <= count <= min(most, there):
        raise DataError(
            f"{count} condition views, but preset {preset.name} takes 1 to {most}, and there are {there} context "
            "views; set --pipeline.datamanager.num-condition"
        )
    return views.context[torch.linspace(0, there - 1, count).round().long()]


def path_of(views: ViewIndices, num_anchors: int) -> Int64[Tensor, " k"]:
    """Frames whose poses the anchors are taken from: the context views where they are as many as anchors are needed,
    as in training, else all views in the order of the frames."""
    if len(views.context) == num_anchors:
        return views.context
    return torch.cat([views.context, views.target]).unique()


# --- Training ---


def sample_views(
    c2w: Float[Tensor, "v 4 4"],
    config: ViewSamplingConfig,
    layout: TemporalLayout,
    *,
    step: int,
    generator: Generator,
) -> ViewIndices:
    """Draw the views of one training sample; the same generator state gives the same views.

    `unbounded` takes contexts and targets from all frames. `bounded` first draws an interval between the first and the
    last context view, whose length is limited by `min_gap` and `max_gap`; these grow with the training step. Target
    clips start at a multiple of `target_alignment` latents, counted from the first frame, as precomputed latents do.
    `layout` is that of the target autoencoder. Published code: src/dataset/view_sampler. Raises BadScene if the
    scene, or the interval, has too few frames, and ValueError for a configuration that no scene can satisfy.
    """
    frames = len(c2w)
    if config.mode == "bounded":
        if config.num_context < 2:
            raise ValueError(f"view sampling: bounded needs at least 2 context views, got {config.num_context}")
        first, last = _draw_interval(frames, config, step, generator)
        margin = config.max_distance_to_context
    else:
        first, last, margin = 0, frames - 1, 0
    if last - first + 1 < config.num_context:
        raise BadScene(f"{last - first + 1} frames to choose from, but {config.num_context} context views are needed")
    target = _draw_clips(max(first - margin, 0), min(last + margin, frames - 1), config, layout, generator)
    context = _draw_context(c2w, first, last, config, generator)
    condition = _draw_condition(context, frames, config.max_condition_views, generator)
    return ViewIndices(context, target, condition)


def sample_target(
    frames: int, config: ViewSamplingConfig, layout: TemporalLayout, generator: Generator
) -> Int64[Tensor, " target"]:
    """Target clips of a training sample from anywhere among `frames` frames. Raises BadScene if there are too few."""
    return _draw_clips(0, frames - 1, config, layout, generator)


def condition_views(reference: int, frames: int, count: int, generator: Generator) -> Int64[Tensor, " condition"]:
    """SceneGen's condition views of a training sample: `reference` and, from all other frames, `count` - 1 more.

    Raises BadScene if there are too few frames.
    """
    if count > frames:
        raise BadScene(f"{frames} frames, but {count} condition views are needed")
    order = torch.randperm(frames, generator=generator)
    return torch.cat([torch.tensor([reference]), order[order != reference][: count - 1]])


def _draw_interval(frames: int, config: ViewSamplingConfig, step: int, generator: Generator) -> tuple[int, int]:
    """First and last context view of a bounded sample."""
    smallest, largest = config.min_gap, config.max_gap or frames
    if config.gap_warmup_steps:
        smallest = _grow(config.initial_min_gap, smallest, step, config.gap_warmup_steps)
        largest = _grow(config.initial_max_gap or frames, largest, step, config.gap_warmup_steps)
    if smallest > largest:
        raise ValueError(f"view sampling: smallest gap {smallest} exceeds largest gap {largest} at step {step}")
    smallest, largest = min(smallest, frames - 1), min(largest, frames - 1)
    gap = _draw(smallest, largest, generator)
    first = _draw(0, frames - 1 - gap, generator)
    return first, first + gap


def _grow(initial: int, final: int, step: int, steps: int) -> int:
    return initial + int((final - initial) * min(step / steps, 1.0))


def _draw(low: int, high: int, generator: Generator) -> int:
    """Uniform integer, both ends included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def _draw_clips(
    low: int, high: int, config: ViewSamplingConfig, layout: TemporalLayout, generator: Generator
) -> Int64[Tensor, " target"]:
    """Clips between two frames, in random order: `target_splits` with their probability and if they fit, else one."""
    if config.num_target_latents % config.target_splits:
        raise ValueError(
            f"view sampling: {config.num_target_latents} target latents cannot be split into {config.target_splits} "
            "equal clips"
        )
    split = config.target_splits > 1 and bool(torch.rand((), generator=generator) < config.target_split_prob)
    for clips in (config.target_splits, 1) if split else (1,):
        length = layout.num_frames(config.num_target_latents // clips)
        starts = _draw_starts(low, high, clips, length, _frame_stride(config, layout), generator)
        if starts is not None:
            return (starts[:, None] + torch.arange(length)).flatten()
    length = layout.num_frames(config.num_target_latents)
    raise BadScene(f"{high - low + 1} frames to choose from, but {length} consecutive target frames are needed")


def _frame_stride(config: ViewSamplingConfig, layout: TemporalLayout) -> int:
    """Frames from one possible start of a clip to the next: the alignment in latents, rounded up to whole chunks."""
    return layout.num_frames(-(-config.target_alignment // layout.latents_per_chunk) * layout.latents_per_chunk)


def _draw_starts(
    low: int, high: int, clips: int, length: int, stride: int, generator: Generator
) -> Int64[Tensor, " clips"] | None:
    """First frames of clips that do not overlap, multiples of `stride`; None if they do not fit.

    Like the published code, the first clip may begin up to `stride` - 1 frames before `low`.
    """
    smallest, largest = low // stride, (high + 1 - length) // stride
    occupied = -(-length // stride)
    # Draw with the clips taken out of the line, then put them back: this gives every arrangement a chance.
    spare = largest - smallest - (clips - 1) * occupied
    if spare < 0:
        return None
    gaps = torch.randint(spare + 1, (clips,), generator=generator).sort().values
    starts = smallest + gaps + occupied * torch.arange(clips)
    return stride * starts[torch.randperm(clips, generator=generator)]


def _draw_context(
    c2w: Float[Tensor, "v 4 4"], first: int, last: int, config: ViewSamplingConfig, generator: Generator
) -> Int64[Tensor, " context"]:
    if config.context == "uniform":
        return torch.linspace(first, last, config.num_context).long()
    start = _draw(0, last - first, generator)
    context = first + farthest_points(c2w[first : last + 1], config.num_context, start)
    if config.mode == "bounded":
        # The published code replaces the outermost picks by the ends of the interval.
        context[0], context[-1] = first, last
    return context


def _draw_condition(
    context: Int64[Tensor, " context"], frames: int, count: int, generator: Generator
) -> Int64[Tensor, " condition"] | None:
    """A context view and, from all other frames, `count` - 1 more."""
    if not count:
        return None
    reference = context[_draw(0, len(context) - 1, generator)]
    return condition_views(int(reference), frames, count, generator)
