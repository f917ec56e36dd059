"""Generating a scene while the viewer stays live: conditions from the panel, and a thread that takes turns."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from scenetok_ns.data.anchors import anchors_along, home_pose, trajectory
from scenetok_ns.data.camera_path_files import read_camera_path
from scenetok_ns.data.path_names import Trajectory
from scenetok_ns.data.scenes import DataError, Scene
from scenetok_ns.data.sources.photograph import GenerationInputs, PhotographSource
from scenetok_ns.models.presets import SceneSamplerConfig
from scenetok_ns.models.tokens import SceneTokens
from scenetok_ns.rendering.scene_renderer import SceneRenderer

logger = logging.getLogger(__name__)

OWN_VIEWS, CAMERA_PATH = "views of the scene", "camera path"
ANCHORS: list[str] = [OWN_VIEWS, *get_args(Trajectory), CAMERA_PATH]
"""Where the anchors come from: the data set, a preset trajectory from the first photograph on, or the path that was
exported last from the viewer's render tab."""
TURN_SECONDS = 0.002
"""Pause between two steps, in which renders that wait get their turn."""
REPORT_SECONDS = 0.5


@dataclass(frozen=True)
class GenerationRequest:
    """What the panel asks for."""

    scene: int
    num_condition: int
    """Photographs of the data set's scene."""
    photograph: Path | None
    """An image file in the place of the data set's scene."""
    anchors: str
    """One of `ANCHORS`."""
    seed: int
    sampler: SceneSamplerConfig


def conditions_of(
    request: GenerationRequest, renderer: SceneRenderer, camera_paths: Path
) -> tuple[GenerationInputs, Scene, list[int]]:
    """What a scene is generated from; and the scene and its views that are shown to the model.

    `camera_paths`: the folder that the viewer's render tab exports to. Raises DataError.
    """
    count, size = renderer.preset.data.views.num_context, renderer.scenetok.image_size
    if request.photograph is not None:
        name = "forward" if request.anchors == OWN_VIEWS else request.anchors
        path = home_pose()[None] if name == CAMERA_PATH else trajectory(name)  # type: ignore[arg-type]
        source = PhotographSource(request.photograph, path)
        source.check_size(size[0])
        scene, given, scale = source.scene(source.key), [0], source.pose_scale
        anchors = path
    else:
        scenes = renderer.scenes
        chosen = scenes.scene(request.scene)
        condition = scenes.condition_views(request.scene, request.num_condition)
        scene, given, scale = chosen.scene, condition.tolist(), scenes.pose_scale(request.scene)
        assert chosen.anchors is not None, "a generator's scenes have anchors"
        anchors = chosen.anchors
        if request.anchors not in (OWN_VIEWS, CAMERA_PATH):
            anchors = from_pose(trajectory(request.anchors), scene.c2w[given[0]], scale)  # type: ignore[arg-type]
    if request.anchors == CAMERA_PATH:
        anchors = read_camera_path(newest_camera_path(camera_paths))
    return GenerationInputs(scene.load_views(given, size), anchors_along(anchors, count), scale), scene, given


def from_pose(path: Float[Tensor, "n 4 4"], start: Float[Tensor, "4 4"], pose_scale: float) -> Float[Tensor, "n 4 4"]:
    """A trajectory from `home_pose` on as one from `start` on, in units of a capture with that scale."""
    relative = torch.linalg.inv(home_pose()) @ path
    steps = torch.ones(4, 4)
    steps[:3, 3] = 1 / pose_scale
    return start @ (relative * steps)


def newest_camera_path(folder: Path) -> Path:
    files = sorted(folder.glob("*.json"), key=lambda file: file.stat().st_mtime)
    if not files:
        raise DataError(
            f"no camera path in {folder}: add keyframes in the Render tab, and press its Generate Command button"
        )
    return files[-1]


class StoppedError(Exception):
    """The generation was aborted."""


class Generation(threading.Thread):
    """One generation. It holds the viewer's lock while it computes, and lets renders in between two steps."""

    def __init__(
        self,
        run: Callable[[Callable[[int, int], None]], SceneTokens],
        lock: Any,
        *,
        share: bool,
        report: Callable[[str, bool], None],
        done: Callable[[SceneTokens], None],
    ) -> None:
        """
        Args:
            run: makes the tokens and reports its steps.
            lock: the viewer's, under which alone the model is used.
            share: give the lock away between steps; no, where training would go on with it.
            report: is told how far it is, and whether that is the end; called without the lock.
            done: takes the tokens; called with the lock.
        """
        super().__init__(daemon=True, name="scene-generation")
        self._run, self._lock, self._share, self._report, self._done = run, lock, share, report, done
        self._stop_asked = threading.Event()
        self._reported = 0.0

    def abort(self) -> None:
        """End it at its next step."""
        self._stop_asked.set()

    def run(self) -> None:
        started = time.monotonic()
        try:
            with self._lock:
                tokens = self._run(self._on_step)
                self._done(tokens)
            self._report(f"generated in {time.monotonic() - started:.1f} s", True)
        except StoppedError:
            self._report("stopped", True)
        except Exception as error:
            logger.exception("generating a scene failed")
            self._report(str(error) or type(error).__name__, True)

    def _on_step(self, done: int, total: int) -> None:
        if self._stop_asked.is_set():
            raise StoppedError
        due = time.monotonic() > self._reported + REPORT_SECONDS
        if not self._share:
            return
        self._lock.release()
        try:
            if due:
                self._reported = time.monotonic()
                self._report(f"generating: step {done} of {total}", False)
            time.sleep(TURN_SECONDS)
        finally:
            self._lock.acquire()
