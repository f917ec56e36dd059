"""Train on scenes that are also evaluated, without their evaluation views."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch

from scenetok_ns.data.scenes import Scene, SceneSource, ViewIndices, scene_part


class HeldOutTargets(SceneSource):
    """A source without the target views of its evaluation scenes, except targets that are also context views.

    `views` returns the evaluation views of a scene, and may raise BadScene. Frames keep their order.
    """

    def __init__(self, source: SceneSource, evaluated: Collection[str], views: Callable[[Scene], ViewIndices]) -> None:
        super().__init__(source.skipped)
        self._source, self._evaluated, self._views = source, frozenset(evaluated), views

    @property
    def keys(self) -> Sequence[str]:
        return self._source.keys

    def scene(self, key: str) -> Scene:
        scene = self._source.scene(key)
        if key not in self._evaluated:
            return scene
        views = self._views(scene)
        kept = torch.ones(scene.num_frames, dtype=torch.bool)
        kept[views.target] = False
        kept[views.context] = True
        return scene_part(scene, kept.nonzero().flatten())
