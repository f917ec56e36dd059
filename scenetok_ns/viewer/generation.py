"""Inputs of the generator from the choices of the panel."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor

from scenetok_ns.bridge.capture_kinds import find_dataparser
from scenetok_ns.bridge.scene_views import read_capture
from scenetok_ns.data.anchors import anchors_along, home_pose, trajectory
from scenetok_ns.data.camera_path_files import read_camera_path
from scenetok_ns.data.path_names import Trajectory
from scenetok_ns.data.scenes import DataError, Scene
from scenetok_ns.data.sources.photograph import GenerationInputs, PhotographSource
from scenetok_ns.models.presets import SceneSamplerConfig
from scenetok_ns.rendering.scene_renderer import SceneRenderer

OWN_VIEWS, CAMERA_PATH = "views of the scene", "camera path"
ANCHORS: list[str] = [OWN_VIEWS, *get_args(Trajectory), CAMERA_PATH]
"""Source of the anchors: the data set, a preset trajectory from the first photograph on, or the keyframes of the
viewer's Render tab; without keyframes, the path that was exported last from there."""


@dataclass(frozen=True)
class GenerationRequest:
    """Choices of the panel."""

    scene: int
    num_condition: int
    """Number of photographs of the data set's scene."""
    photograph: Path | None
    """An image file to use instead of the data set's scene."""
    capture: Path | None
    """A folder of photographs with cameras to use instead of the data set's scene."""
    anchors: str
    """One of `ANCHORS`."""
    keyframes: Float[Tensor, "n 4 4"] | None
    """Poses of the Render tab's keyframe path, if it has one."""
    seed: int
    sampler: SceneSamplerConfig


def conditions_of(
    request: GenerationRequest, renderer: SceneRenderer, camera_paths: Path
) -> tuple[GenerationInputs, Scene, list[int]]:
    """Return the inputs of a generation, the scene, and the numbers of its views that the model is given.

    `camera_paths`: Folder to which the viewer's Render tab exports. Raises DataError.
    """
    spread = renderer.preset.data.camera_spread
    count, size = renderer.preset.data.views.num_context, renderer.scenetok.image_size
    if request.photograph is not None:
        name = "forward" if request.anchors == OWN_VIEWS else request.anchors
        path = home_pose()[None] if name == CAMERA_PATH else trajectory(name)  # type: ignore[arg-type]
        source = PhotographSource(request.photograph, path)
        source.check_size(size[0])
        scene, given, scale = source.scene(source.key), [0], source.pose_scale
        anchors = path
    elif request.capture is not None:
        found = read_capture(find_dataparser(request.capture).setup(), "test", typical_spread=spread)
        scene, scale = found.read(), found.pose_scale
        given = list(range(scene.num_frames))
        name = "forward" if request.anchors in (OWN_VIEWS, CAMERA_PATH) else request.anchors
        anchors = from_pose(trajectory(name), scene.c2w[0], scale)  # type: ignore[arg-type]
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
        keyframes = request.keyframes
        anchors = read_camera_path(newest_camera_path(camera_paths)) if keyframes is None else keyframes
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
