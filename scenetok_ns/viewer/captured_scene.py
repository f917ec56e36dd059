"""Captures and rooms as scenes to display: encoded from views that are spread over them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch

from scenetok_ns.bridge.capture_kinds import find_dataparser
from scenetok_ns.bridge.scene_views import CamerasInOnePlaceError, SceneViews, read_capture
from scenetok_ns.data.capture.capture_folder import Capture, CaptureOptions, make_capture
from scenetok_ns.data.capture.photographs import FEWEST, CaptureError
from scenetok_ns.data.scenes import BadScene, DataError, Scene
from scenetok_ns.models.tokens import SceneTokens
from scenetok_ns.viewer.session import Session
from scenetok_ns.viewer.viewer_files import CAPTURES

T = TypeVar("T")
STAGES = {
    "pictures": "reading pictures",
    "features": "finding features",
    "matches": "matching pairs",
    "cameras": "finding cameras",
}
"""Labels of the stages of a capture."""


class EncodedScene(NamedTuple):
    """Tokens, with the other arguments of `ShownScene.take`."""

    tokens: SceneTokens
    views: SceneViews
    """Views that the scene was encoded from."""
    scene: Scene
    """Photographs of the scene."""
    capture: Path | None = None
    """Folder of the capture that was encoded."""

    def display(self, session: Session) -> None:
        """Display the scene in the viewer. Undo returns to the previous one."""
        session.remember()
        session.shown.take(*self)
        session.redraw()


def capture_uploads(session: Session, on_step: Callable[[int, int, str], None], fewest: int = FEWEST) -> Capture:
    """Find the cameras of the uploaded photographs. Call it with the viewer's lock, which it releases for others
    meanwhile.

    Args:
        session: Panel and viewer.
        on_step: Receives the steps of work that holds the lock, and its name. An exception ends the work.
        fewest: Minimum number of photographs.

    Raises CaptureError, and what `on_step` raises.
    """
    files = session.open_files

    def stage(name: str, done: int, total: int) -> None:
        with session.lock:  # on_step gives it away and takes it again
            on_step(done, total, STAGES.get(name, name))

    session.lock.release()  # the model isn't needed before the cameras are known
    try:
        return make_capture(files.photographs, files.new_folder(CAPTURES), CaptureOptions(fewest=fewest), stage)
    except CaptureError as error:  # a browser on another machine cannot use paths of this one
        raise CaptureError(str(error).replace(str(files.photographs), "your photographs")) from error
    finally:
        session.lock.acquire()


def if_usable(capture: Capture, use: Callable[[Path], T]) -> T:
    """Return `use(folder of the capture)`. A capture that nothing can use is removed.

    Raises DataError: The photographs were taken too close together; or another error of `use`.
    """
    try:
        return use(capture.folder)
    except BadScene:
        shutil.rmtree(capture.folder, ignore_errors=True)
        raise
    except CamerasInOnePlaceError as error:
        shutil.rmtree(capture.folder, ignore_errors=True)
        placed = f"only {capture.registered} of your {capture.pictures} photographs could be placed, and they are"
        if capture.registered == capture.pictures:
            placed = f"your {capture.pictures} photographs are"
        raise DataError(f"{placed} too close together: step further sideways between photographs") from error


@torch.no_grad()
def encode_capture(session: Session, folder: Path, name: str) -> EncodedScene:
    """Encode a capture that a dataparser of Nerfstudio reads; the tokens get that name. Raises DataError."""
    renderer = session.renderer
    preset = renderer.preset
    source = read_capture(find_dataparser(folder).setup(), "test", typical_spread=preset.data.camera_spread)
    indices = source.fixed_views(preset.data.views.num_context, fewer=True).context
    scene = source.read()
    views = scene.load_views(indices, (preset.data.image_size,) * 2)
    tokens = renderer.encode_views(views, name, source.pose_scale)
    return EncodedScene(tokens, session.shown.views_of(scene, indices), scene, folder)


@torch.no_grad()
def encode_room(session: Session, number: int) -> EncodedScene:
    """Encode a scene of the data set with a model that would generate it. Raises BadScene."""
    renderer, scenes = session.renderer, session.renderer.scenes
    indices = scenes.spread_views(number, renderer.preset.data.views.num_context)
    scene = scenes.scene(number).scene
    views = scene.load_views(indices, (renderer.preset.data.image_size,) * 2)
    tokens = renderer.tokens_from(views, number)
    return EncodedScene(tokens, session.shown.views_of(scene, indices), scene)
