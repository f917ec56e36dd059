"""Choose the frames of a scene that a model gets (context, condition) and is compared with (targets).

In evaluation the views are spread over the scene; in training they are drawn at random.
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
    """Evaluation views of a scene without an evaluation index.

    Context views are chosen by farthest-point sampling from frame 0; all other frames are targets. Raises BadScene if
    no frame is left for a target.
    """
    if len(c2w) <= num_context:
        raise BadScene(f"{len(c2w)} frames, but {num_context} context views and at least one target view are needed")
    context = farthest_points(c2w, num_context, start=0)
    rest = torch.ones(len(c2w), dtype=torch.bool)
    rest[context] = False
    return ViewIndices(context, rest.nonzero().flatten())


def condition_of(views: ViewIndices, preset: Preset, count: int | None) -> Int64[Tensor, " condition"]:
    """Choose the condition views: context views, spread evenly from the first one on.

    With `count` None, all context views are taken if the generator accepts that many (evaluation indices for generation
    name one or a few), else only the first. Raises DataError for a count that the generator does not accept.
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
    """Frames whose poses form the path of the anchors.

    They are the context views if there are exactly `num_anchors`, as in training, else all views in the order of the
    frames.
    """
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
    """Draw the views of one training sample. The same generator state gives the same views.

    `unbounded` draws context views and targets from all frames. `bounded` first draws the interval between the first
    and the last context view. Its length is limited by `min_gap` and `max_gap`, which may change during a warm-up.
    Target clips start at a multiple of `target_alignment` latents, counted from the first frame, because precomputed
    latents do. Published code: src/dataset/view_sampler.

    Args:
        c2w: Poses of all frames of the scene.
        config: Options of the sampling.
        layout: Temporal layout of the target autoencoder.
        step: Training step.
        generator: Source of the random numbers.

    Raises:
        BadScene: The scene, or the interval, has too few frames.
        ValueError: No scene can satisfy the configuration.
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


def target_of_capture(
    frames: int, config: ViewSamplingConfig, layout: TemporalLayout, generator: Generator
) -> Int64[Tensor, " target"]:
    """Draw the target clips of a training sample from all `frames` frames of a capture.

    If there are too few frames for a clip, each latent shows a frame that is drawn at random.
    """
    length = layout.num_frames(config.num_target_latents)
    if frames >= length:
        return _draw_clips(0, frames - 1, config, layout, generator)
    shown = torch.randint(frames, (config.num_target_latents,), generator=generator)
    return shown[[layout.latent_of(frame) for frame in range(length)]]


def condition_views(reference: int, frames: int, count: int, generator: Generator) -> Int64[Tensor, " condition"]:
    """Draw SceneGen's condition views of a training sample: `reference`, then `count` - 1 of all other frames.

    Raises BadScene if there are too few frames.
    """
    if count > frames:
        raise BadScene(f"{frames} frames, but {count} condition views are needed")
    order = torch.randperm(frames, generator=generator)
    return torch.cat([torch.tensor([reference]), order[order != reference][: count - 1]])


def _draw_interval(frames: int, config: ViewSamplingConfig, step: int, generator: Generator) -> tuple[int, int]:
    """Draw the first and the last context view of a bounded sample."""
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
    """Draw a uniform integer from `low` to `high`, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def _draw_clips(
    low: int, high: int, config: ViewSamplingConfig, layout: TemporalLayout, generator: Generator
) -> Int64[Tensor, " target"]:
    """Draw the target clips between two frames.

    With `target_split_prob` there are `target_splits` clips in random order, if they fit, else one.
    """
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
    """Frames between possible starts of a clip: the alignment in latents, rounded up to whole chunks."""
    return layout.num_frames(-(-config.target_alignment // layout.latents_per_chunk) * layout.latents_per_chunk)


def _draw_starts(
    low: int, high: int, clips: int, length: int, stride: int, generator: Generator
) -> Int64[Tensor, " clips"] | None:
    """Draw the first frames of clips that do not overlap, at multiples of `stride`; None if the clips do not fit.

    As in the published code, a clip may begin up to `stride` - 1 frames before `low`.
    """
    smallest, largest = low // stride, (high + 1 - length) // stride
    occupied = -(-length // stride)
    # Draw the gaps without the clips, then insert the clips: this way every arrangement can occur.
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
        # The published code replaces the outermost picks with the ends of the interval.
        context[0], context[-1] = first, last
    return context


def _draw_condition(
    context: Int64[Tensor, " context"], frames: int, count: int, generator: Generator
) -> Int64[Tensor, " condition"] | None:
    """Draw condition views: a context view, then `count` - 1 of all other frames. None if `count` is 0."""
    if not count:
        return None
    reference = context[_draw(0, len(context) - 1, generator)]
    return condition_views(int(reference), frames, count, generator)
