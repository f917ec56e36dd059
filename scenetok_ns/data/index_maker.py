"""Create evaluation indices for a data set, and check existing indices against their data.

The same rule always gives the same index.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch

from scenetok_ns.data.evaluation_index import EvaluationIndex, scene_key
from scenetok_ns.data.poses import farthest_points
from scenetok_ns.data.scenes import BadScene, DataError, Scene, SceneSource, SkippedScenes, ViewIndices
from scenetok_ns.tools.atomic_files import write_atomically
from scenetok_ns.tools.seeds import named_seed


@dataclass(frozen=True)
class IndexRule:
    """Rule that chooses context and target views of a scene."""

    num_context: int
    num_targets: int
    mode: Literal["bounded", "farthest"]
    """bounded: context views are some of the targets. farthest: they are spread over the whole scene."""
    start: Literal["first", "middle", "random"]
    """Position in the scene of the targets, which are consecutive frames."""
    seed: int = 0
    """Random seed for random starts; it is combined with the name of each scene."""

    def __post_init__(self) -> None:
        if self.num_context < 1 or self.num_targets < 1:
            raise ValueError(
                f"an evaluation index needs at least one context and one target view, got {self.num_context} and "
                f"{self.num_targets}"
            )
        if self.mode == "bounded" and self.num_context > self.num_targets:
            raise ValueError(
                f"{self.num_context} context views do not fit among {self.num_targets} targets; take fewer, or the "
                "mode farthest"
            )

    def views(self, scene: Scene) -> ViewIndices:
        """Choose the views of a scene. Context views are chosen by farthest-point sampling from the first frame.

        Raises:
            BadScene: The scene has too few frames.
        """
        needed = max(self.num_context, self.num_targets)
        if scene.num_frames < needed:
            raise BadScene(f"{scene.num_frames} frames, but {needed} are needed", scene.key)
        first = self._first(scene.key, scene.num_frames - self.num_targets)
        target = torch.arange(first, first + self.num_targets)
        if self.mode == "bounded":
            context = first + farthest_points(scene.c2w[target], self.num_context, start=0)
        else:
            context = farthest_points(scene.c2w, self.num_context, start=0)
        return ViewIndices(context, target)

    def _first(self, key: str, last: int) -> int:
        """Frame number of a scene's first target, from 0 to `last`."""
        if self.start == "random":
            return named_seed(self.seed, key) % (last + 1)
        return last // 2 if self.start == "middle" else 0


def make_index(
    source: SceneSource, rule: IndexRule, on_scene: Callable[[str], None] = lambda key: None
) -> tuple[dict[str, ViewIndices], SkippedScenes]:
    """Create entries for all scenes that are long enough and can be read.

    Returns:
        The entries, and the skipped scenes with reasons.

    Raises:
        DataError: No scene is left.
    """
    entries, skipped = {}, SkippedScenes()
    skipped.reasons.update(source.skipped.reasons)
    for key in source.keys:
        try:
            entries[key] = rule.views(source.scene(key))
        except BadScene as error:
            skipped.add(error if error.key else BadScene(error.reason, key))
        on_scene(key)
    if not entries:
        raise DataError(f"no scene fits; {skipped.summary(3)}")
    return entries, skipped


def save_index(path: Path, entries: Mapping[str, ViewIndices]) -> None:
    """Write the index in the published form; the same entries give the same bytes."""
    content = {
        key: {"context": views.context.tolist(), "target": views.target.tolist()} for key, views in entries.items()
    }
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items())
    write_atomically(path, f"{{\n{lines}\n}}\n".encode())


def check_index(
    index: EvaluationIndex, source: SceneSource, on_scene: Callable[[str], None] = lambda key: None
) -> dict[str, str]:
    """Find the entries that cannot be evaluated on this data set. Photographs are not decoded.

    Returns:
        Name of the entry -> reason.
    """
    known = set(source.keys)
    problems = {}
    for name, views in index.entries.items():
        key = scene_key(name, known | source.skipped.reasons.keys())
        if key is None:
            problems[name] = "the data set has no such scene"
        elif key not in known:
            problems[name] = source.skipped.reasons[key]
        elif problem := _entry_problem(index, source, key, views):
            problems[name] = problem
        on_scene(name)
    return problems


def _entry_problem(index: EvaluationIndex, source: SceneSource, key: str, views: ViewIndices) -> str | None:
    for role, frames in (("context", views.context.tolist()), ("target", views.target.tolist())):
        if len(set(frames)) < len(frames):
            return f"a {role} frame is listed twice"
    try:
        index.views(source.scene(key))
    except DataError as error:
        return str(error)
    return None


def has_clips(views: ViewIndices) -> bool:
    """Whether the targets are frames at equal distances, such as consecutive frames, as FVD needs them."""
    frames: Sequence[int] = views.target.tolist()
    return len({b - a for a, b in pairwise(frames)}) <= 1
