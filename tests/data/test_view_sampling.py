from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.scene_files import walk

from scenetok_ns.data.scenes import BadScene, ViewIndices
from scenetok_ns.data.view_sampling import default_views, sample_views, target_of_capture
from scenetok_ns.models.recipes import ViewSamplingConfig
from scenetok_ns.models.temporal import TemporalLayout

IMAGE, VIDEO, WAN = TemporalLayout(1, 1), TemporalLayout(4, 1), TemporalLayout(17, 5)
UNBOUNDED = ViewSamplingConfig("unbounded", num_context=5, num_target_latents=8, target_alignment=4)
BOUNDED = ViewSamplingConfig("bounded", num_context=6, num_target_latents=8, min_gap=40, max_gap=60)


def draw(
    config: ViewSamplingConfig, layout: TemporalLayout, frames: int = 150, seed: int = 0, step: int = 0
) -> ViewIndices:
    generator = torch.Generator().manual_seed(seed)
    return sample_views(walk(frames), config, layout, step=step, generator=generator)


def clips(target: torch.Tensor) -> list[tuple[int, int]]:
    """Split targets into runs of consecutive frames; returns (first frame, length) of each, in order."""
    cuts = [0, *(i for i in range(1, len(target)) if target[i] != target[i - 1] + 1), len(target)]
    return [(int(target[a]), b - a) for a, b in pairwise(cuts)]


@settings(max_examples=60, deadline=None)
@given(
    mode=st.sampled_from(["bounded", "unbounded"]),
    context=st.sampled_from(["farthest_point", "uniform"]),
    layout=st.sampled_from([IMAGE, VIDEO, WAN]),
    frames=st.integers(45, 200),
    seed=st.integers(0, 2**31),
    alignment=st.sampled_from([1, 4, 5]),
)
def test_what_every_sample_is(
    mode: str, context: str, layout: TemporalLayout, frames: int, seed: int, alignment: int
) -> None:
    latents = 10 if layout is WAN else 8
    config = dataclasses.replace(
        BOUNDED, mode=mode, context=context, num_target_latents=latents, target_alignment=alignment
    )
    views = draw(config, layout, frames, seed)
    assert len(views.context) == 6 and (views.context.diff() > 0).all()
    assert len(views.target) == layout.num_frames(latents) == len(set(views.target.tolist()))
    for indices in (views.context, views.target):
        assert int(indices.min()) >= 0 and int(indices.max()) < frames
    piece = layout.num_frames(latents // 2)
    stride = {1: layout.frames_per_chunk, 4: 4 * layout.frames_per_chunk, 5: 5 * layout.frames_per_chunk}[alignment]
    stride = 17 if layout is WAN else stride
    for start, length in clips(views.target):
        assert start % stride == 0 and length % piece == 0
    if mode == "bounded":
        first, last = int(views.context[0]), int(views.context[-1])
        assert min(40, frames - 1) <= last - first <= min(60, frames - 1)
        assert int(views.target.min()) > first - stride and int(views.target.max()) <= last


def test_the_same_generator_gives_the_same_views() -> None:
    a, b, c = (draw(UNBOUNDED, VIDEO, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(a.context, b.context) and torch.equal(a.target, b.target)
    assert not torch.equal(a.target, c.target)


@pytest.mark.parametrize("probability, expected", [(0.0, 0), (1.0, 40), (0.5, 20)])
def test_targets_are_split_as_often_as_asked(probability: float, expected: int) -> None:
    config = dataclasses.replace(UNBOUNDED, target_split_prob=probability, num_target_latents=4, target_alignment=1)
    # Two clips that happen to be adjacent count as one, which is rare among 600 frames.
    split = sum(len(clips(draw(config, VIDEO, 600, seed).target)) == 2 for seed in range(40))
    assert abs(split - expected) <= (0 if probability in (0.0, 1.0) else 9)


def test_clips_come_in_any_order_and_anywhere() -> None:
    config = dataclasses.replace(UNBOUNDED, target_split_prob=1.0, num_target_latents=8)
    starts = [[start for start, _ in clips(draw(config, VIDEO, 160, seed).target)] for seed in range(60)]
    assert {tuple(s) != tuple(sorted(s)) for s in starts} == {True, False}
    assert {start for s in starts for start in s} == set(range(0, 160, 16))


def test_a_split_without_room_becomes_one_clip() -> None:
    config = dataclasses.replace(UNBOUNDED, num_target_latents=6, target_split_prob=1.0, target_alignment=4)
    # Clips of 12 frames that start at multiples of 16: the second would need 28 frames.
    assert clips(draw(config, VIDEO, 27).target) == [(0, 24)]
    assert len(clips(draw(config, VIDEO, 28).target)) == 2


@pytest.mark.parametrize("step, gaps", [(0, (10, 20)), (50, (25, 40)), (100, (40, 60)), (10_000, (40, 60))])
def test_gaps_grow_with_the_step(step: int, gaps: tuple[int, int]) -> None:
    config = dataclasses.replace(
        BOUNDED, initial_min_gap=10, initial_max_gap=20, gap_warmup_steps=100, num_target_latents=1, target_splits=1
    )
    spans = {int(v.context[-1] - v.context[0]) for v in (draw(config, VIDEO, 150, s, step) for s in range(80))}
    assert gaps[0] <= min(spans) and max(spans) <= gaps[1] and len(spans) > 5


def test_no_largest_gap_means_the_whole_scene() -> None:
    config = dataclasses.replace(BOUNDED, min_gap=100, max_gap=0)
    spans = [int(v.context[-1] - v.context[0]) for v in (draw(config, VIDEO, 120, seed) for seed in range(60))]
    assert min(spans) >= 100 and max(spans) > 110


def test_targets_may_lie_outside_the_contexts_where_allowed() -> None:
    config = dataclasses.replace(BOUNDED, max_distance_to_context=30)
    before, after = [], []
    for seed in range(60):
        views = draw(config, VIDEO, 150, seed)
        before.append(int(views.context[0] - views.target.min()))
        after.append(int(views.target.max() - views.context[-1]))
    assert 8 < max(before) <= 33 and 8 < max(after) <= 30


def test_targets_of_a_capture_with_few_photographs_are_still_pictures() -> None:
    generator = torch.Generator().manual_seed(0)
    assert clips(target_of_capture(40, UNBOUNDED, VIDEO, generator))[0][1] == 32
    drawn = torch.stack([target_of_capture(5, UNBOUNDED, VIDEO, generator) for _ in range(20)])
    assert drawn.shape == (20, 32) and set(drawn.flatten().tolist()) == set(range(5))
    each = drawn.unflatten(1, (8, 4))  # the four frames of a latent
    assert (each == each[:, :, :1]).all()


def test_condition_views() -> None:
    config = dataclasses.replace(UNBOUNDED, max_condition_views=3)
    firsts = set()
    for seed in range(30):
        views = draw(config, VIDEO, 40, seed)
        assert views.condition is not None and len(set(views.condition.tolist())) == 3
        assert views.condition[0] in views.context
        firsts.add(int((views.context == views.condition[0]).nonzero()))
    assert firsts == set(range(5))
    assert draw(UNBOUNDED, VIDEO).condition is None


@pytest.mark.parametrize(
    "change, frames, message",
    [
        ({}, 31, "31 frames to choose from, but 32 consecutive target frames are needed"),
        ({"num_context": 33}, 32, "32 frames to choose from, but 33 context views are needed"),
        ({"max_condition_views": 40}, 35, "35 frames, but 40 condition views"),
        ({"mode": "bounded", "min_gap": 10, "max_gap": 10}, 100, "11 frames to choose from, but 32 consecutive"),
    ],
)
def test_too_few_frames(change: dict, frames: int, message: str) -> None:
    with pytest.raises(BadScene, match=message):
        draw(dataclasses.replace(UNBOUNDED, target_alignment=1, **change), VIDEO, frames)


def test_impossible_configurations() -> None:
    with pytest.raises(ValueError, match="smallest gap 40 exceeds largest gap 30"):
        draw(dataclasses.replace(BOUNDED, max_gap=30), VIDEO)
    with pytest.raises(ValueError, match="at least 2 context views"):
        draw(dataclasses.replace(BOUNDED, num_context=1), VIDEO)
    with pytest.raises(ValueError, match="7 target latents cannot be split into 2 equal clips"):
        draw(dataclasses.replace(BOUNDED, num_target_latents=7), VIDEO)


def test_default_evaluation_views() -> None:
    views = default_views(walk(20), 6)
    assert 0 in views.context and 19 in views.context and len(views.context) == 6
    assert sorted([*views.context.tolist(), *views.target.tolist()]) == list(range(20))
    assert torch.equal(views.context, default_views(walk(20), 6).context)
    with pytest.raises(BadScene, match="6 frames, but 6 context views and at least one target"):
        default_views(walk(6), 6)
