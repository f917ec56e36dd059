"""Evaluation indices: JSON files that fix the context and target views of every evaluated scene."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from scenetok_ns.data.scenes import BadScene, DataError, Scene, SceneSource, ViewIndices
from scenetok_ns.tools.json_files import JsonError, read_json
from scenetok_ns.tools.suggestions import did_you_mean_path

MOST_FRAMES = 10_000_000
"""Maximum number of frames of a scene; a larger frame number is a typing error."""


@dataclass(frozen=True)
class EvaluationIndex:
    """An evaluation index: `{scene: {"context": [...], "target": [...]}}` with frame numbers.

    This is the form in which SceneTok and pixelSplat publish their indices.
    """

    path: Path
    entries: dict[str, ViewIndices]

    @classmethod
    def load(cls, path: Path) -> EvaluationIndex:
        """Read an index. As in published files, an entry may be in a list of one, and null entries are ignored.

        The JSON file of ns-eval or `scenetok evaluate` also works, as an index of the views that were measured.

        Raises:
            DataError: The file is missing or has another content.
        """
        if not Path(path).exists():
            raise DataError(
                f"there is no evaluation index {path}{did_you_mean_path(Path(path))}: `scenetok eval-index` makes one, "
                "and the authors' repository has the published ones in assets/evaluation_index"
            )
        try:
            content = read_json(Path(path))
        except JsonError as error:
            raise DataError(f"evaluation index {path} cannot be read as JSON ({error})") from error
        if not isinstance(content, dict):
            raise DataError(f"evaluation index {path}: expected an object with an entry for each scene")
        content = _measured_views(content)
        entries = {key: _entry(path, key, value) for key, value in content.items() if value}
        if not entries:
            raise DataError(f"evaluation index {path} names no scenes")
        return cls(Path(path), entries)

    def keys_in(self, source: SceneSource) -> Sequence[str]:
        """Scenes of `source` that the index names, in the order of the index.

        A data set may be a part of the published one: scenes that it lacks are recorded as skipped.

        Raises:
            DataError: The data set has none of the index's scenes.
        """
        known = set(source.keys)
        pairs = [(name, scene_key(name, known | source.skipped.reasons.keys())) for name in self.entries]
        unknown = [name for name, key in pairs if key is None]
        if len(unknown) == len(pairs):
            raise DataError(
                f"evaluation index {self.path} names {len(unknown)} scenes, none of which the data set has; the first "
                f"is {unknown[0]!r}: give an index of this data set and split"
            )
        source.skipped.add_all(unknown, f"not in the data set, though {self.path.name} names it")
        return [key for _, key in pairs if key in known]

    def views(self, scene: Scene) -> ViewIndices:
        """Return the views of a scene. Raises DataError if it has no entry, BadScene if a frame does not exist."""
        matches = [name for name in self.entries if scene_key(name, {scene.key})]
        if not matches:
            raise DataError(f"evaluation index {self.path} has no entry for scene {scene.key!r}")
        entry = self.entries.get(scene.key, self.entries[matches[0]])
        last = int(torch.cat([entry.context, entry.target]).max())
        if last >= scene.num_frames:
            raise BadScene(
                f"{self.path.name} asks for frame {last}, but it has {scene.num_frames} frames (0 to "
                f"{scene.num_frames - 1})",
                scene.key,
            )
        return entry


def scene_key(name: str, known: set[str]) -> str | None:
    """Key of the scene that an index calls `name`; None if it is unknown.

    The key is `name`, or `name` without a trailing number such as `_1`, as in published DL3DV indices.
    """
    if name in known:
        return name
    base = re.sub(r"_\d+$", "", name)
    return base if base in known else None


def _measured_views(content: dict[str, Any]) -> dict[str, Any]:
    """Convert the results of an evaluation to an index; return other content unchanged."""
    figures = content.get("results") if "per_scene" not in content else content
    scenes = figures.get("per_scene") if isinstance(figures, dict) else None
    if not isinstance(scenes, dict) or not all(isinstance(scene, dict) for scene in scenes.values()):
        return content
    return {key: {"context": scene.get("context"), "target": scene.get("frames")} for key, scene in scenes.items()}


def _entry(path: Path, key: str, value: Any) -> ViewIndices:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    lists = [value.get(name) for name in ("context", "target")] if isinstance(value, dict) else []
    if not lists or not all(_is_frames(frames) for frames in lists):
        raise DataError(
            f'evaluation index {path}: entry of scene {key!r} should be {{"context": [...], "target": [...]}} with '
            f"frame numbers from 0 to {MOST_FRAMES - 1}"
        )
    return ViewIndices(*(torch.tensor(frames, dtype=torch.int64) for frames in lists))


def _is_frames(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(type(frame) is int and 0 <= frame < MOST_FRAMES for frame in value)
    )
