"""Measure pictures that another program rendered, with the protocol and code that measure our models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from scenetok_ns.data.evaluation_index import EvaluationIndex
from scenetok_ns.data.scenes import BadScene, SceneSource, Views
from scenetok_ns.data.view_sampling import ViewIndices
from scenetok_ns.evaluation.baselines import copied_pictures
from scenetok_ns.evaluation.measures import Measures
from scenetok_ns.evaluation.method_pictures import PictureFolder
from scenetok_ns.evaluation.protocol import environment
from scenetok_ns.evaluation.records import EvaluationFolder, SceneRecord
from scenetok_ns.evaluation.scene_evaluation import EvaluatedScene, OnScene
from scenetok_ns.models.metrics import Pictures
from scenetok_ns.tools.digests import sha256_of


@dataclass(frozen=True, eq=False)
class _Loaded:
    views: ViewIndices
    context: Views
    target: Views
    pred: torch.Tensor


@dataclass
class PictureScores:
    """Measures the pictures of one method scene by scene. After an interruption, the next run continues."""

    method: str
    source: SceneSource
    index: EvaluationIndex
    keys: list[str]
    """Scenes to measure."""
    pictures: PictureFolder
    measures: Measures
    folder: EvaluationFolder
    device: torch.device
    baselines: bool = False
    write_pictures: OnScene = lambda rendered: None
    on_scene: Callable[[str], None] = lambda key: None

    @torch.no_grad()
    def run(self) -> None:
        """Write the records of all scenes that have none yet. Raises DataError if pictures cannot be used."""
        with ThreadPoolExecutor(1) as reader:
            for key, reading in self._read_ahead(reader):
                try:
                    if reading is not None:
                        self._measure(key, reading.result())
                except BadScene as error:  # the data set's scene is unusable: our models skip it, too
                    self.source.skipped.add(error if error.key else BadScene(error.reason, key))
                    self.folder.skip(key, error.reason)
                self.on_scene(key)

    def _read_ahead(self, reader: ThreadPoolExecutor) -> Iterator[tuple[str, Future[_Loaded] | None]]:
        """Yield each scene with its pictures, or with None if it has a record. The next scene is read meanwhile."""
        ahead: list[tuple[str, Future[_Loaded] | None]] = []
        for key in self.keys:
            ahead.append((key, None if self.folder.has(key) else self._start_reading(reader, key)))
            if len(ahead) > 1:
                yield ahead.pop(0)
        yield from ahead

    def _start_reading(self, reader: ThreadPoolExecutor, key: str) -> Future[_Loaded]:
        """Open the scene at once, because sources are not thread-safe, and read its pictures in the thread."""
        try:
            scene = self.source.scene(key)
            views = self.index.views(scene)
        except BadScene as error:
            failed: Future[_Loaded] = Future()
            failed.set_exception(error)
            return failed

        def load() -> _Loaded:
            pred = self.pictures.load(key, views.target.tolist())
            size = (pred.shape[2], pred.shape[3])
            return _Loaded(views, scene.load_views(views.context, size), scene.load_views(views.target, size), pred)

        return reader.submit(load)

    def _measure(self, key: str, loaded: _Loaded) -> None:
        target, frames = loaded.target.images.to(self.device), loaded.views.target.tolist()
        pred = loaded.pred.to(self.device).float() / 255
        measured = self.measures.measure(pred=pred, target=target, frames=frames)
        made: dict[str, Pictures] = {}
        if self.baselines:
            made = copied_pictures(loaded.context, loaded.target, self.device, 1.0)
        views = dict(measured.views)
        for baseline, copied in made.items():
            values = self.measures.views(pred=copied, target=target.float() / 255)
            views |= {f"{metric}_{baseline}": numbers for metric, numbers in values.items()}
        context = loaded.views.context.tolist()
        rendered = EvaluatedScene(
            number=self.keys.index(key),
            key=key,
            context=loaded.context,
            target=loaded.target,
            frames=frames,
            context_frames=context,
            pred=pred,
            baselines=made,
            seconds=0.0,
        )
        self.write_pictures(rendered)
        self.folder.write(SceneRecord(key, context, frames, replace(measured, views=views), 0.0))

    def settings(self, data: Path, task: str) -> dict[str, Any]:
        """Collect everything that the figures depend on, for JSON."""
        size = self.pictures.load(self.keys[0], self._frames(self.keys[0])[:1]).shape[2:]
        return {
            "task": task,
            "method": self.method,
            "pictures": {"folder": str(self.pictures.root.absolute()), "digest": self.pictures.digest(self.keys)},
            "data": {
                "path": str(data.absolute()),
                "index": {"file": self.index.path.name, "sha256": sha256_of(self.index.path)},
                "scenes": self.keys,
            },
            "views": {
                "targets": "as the index says",
                "image_size": max(size),
                "crop": "scaled so that the shorter side fits, centre crop",
            },
            "baselines": self.baselines,
            "metrics": self.measures.describe() | {"wanted": list(self.measures.options.wanted)},
            "machine": environment(self.device),
        }

    def _frames(self, key: str) -> list[int]:
        return self.index.views(self.source.scene(key)).target.tolist()


def target_frames(source: SceneSource, index: EvaluationIndex) -> dict[str, list[int]]:
    """Scene -> frame numbers of its target views, for all scenes of an index that the data set can read."""
    found = {}
    for key in index.keys_in(source):
        try:
            found[key] = index.views(source.scene(key)).target.tolist()
        except BadScene as error:
            source.skipped.add(error if error.key else BadScene(error.reason, key))
    return found
