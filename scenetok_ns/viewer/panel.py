"""The panel in Nerfstudio's viewer: a tab with folders in the order of work."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import viser
from nerfstudio.viewer.viewer_elements import ViewerControl
from torch import nn

from scenetok_ns.dataparsers.camera_conversion import nerfstudio_to_camera_batch
from scenetok_ns.viewer.cameras import begin_without_frustums
from scenetok_ns.viewer.compare_part import ComparePart
from scenetok_ns.viewer.elements import Prose
from scenetok_ns.viewer.files_part import FilesPart
from scenetok_ns.viewer.generation_part import GenerationPart
from scenetok_ns.viewer.guards import (
    CHECKED_VERSION,
    UnknownViserError,
    guard_uploads,
    guard_viser,
    viser_version,
)
from scenetok_ns.viewer.memory import keep_large_blocks_out_of_pools
from scenetok_ns.viewer.page_text import page_script, paragraph
from scenetok_ns.viewer.part import Part
from scenetok_ns.viewer.photographs_part import PhotographsPart
from scenetok_ns.viewer.renderer import ViewerRenderer
from scenetok_ns.viewer.scene_part import ScenePart
from scenetok_ns.viewer.session import Session
from scenetok_ns.viewer.shown_run import write_shown_run
from scenetok_ns.viewer.start_part import GALLERY, StartPart
from scenetok_ns.viewer.stock_page import RenderTab, allow_two_keyframes, first_tab, hide_meaningless
from scenetok_ns.viewer.video_part import VideoPart
from scenetok_ns.viewer.view_part import ViewPart
from scenetok_ns.viewer.viewer_files import ViewerFiles, bare_name

if TYPE_CHECKING:
    from nerfstudio.viewer.viewer import Viewer

logger = logging.getLogger(__name__)

TAB = "SceneTok"
KEYS = {
    "n": "Next view",
    "p": "Previous view",
    "g": "New sample",
    "b": "Other seed (A/B)",
    "u": "Undo",
    "x": "Snapshot",
    "f": "Show Train Cams|Hide Train Cams",
}
"""Key -> the button that it presses. The page itself moves the camera with w, a, s, d, q, e and the arrows."""
OPEN_TO_ALL = ("0.0.0.0", "::", "")
NETWORK_NOTE = (
    "Anybody on your network can open this page and press its buttons. For this machine alone, start ns-viewer with "
    "--viewer.websocket-host 127.0.0.1"
)
VERSION_NOTE = (
    "This page's guards against foreign file access were tested with viser {}, and this is viser {}: do not let others "
    "reach it"
)
SHARED_NOTE = "All browsers at this viewer share one scene and these settings; each has a camera of its own."
KEYS_NOTE = "Keys: n, p next and previous view; g new sample; b A/B; u undo; f frustums; x snapshot; w a s d q e move."


class _Connection(ViewerControl):
    """Notices that a viewer has been opened, because the viewer then sets up its controls."""

    def __init__(self, opened: Callable[[Viewer], None]) -> None:
        self._opened = opened

    def _setup(self, viewer: Viewer) -> None:
        super()._setup(viewer)
        self._opened(viewer)


class ViewerPanel(nn.Module):
    """Folders of elements for the viewer, and what they do. Without a viewer nothing happens.

    The viewer finds `control` by itself; the elements are installed then, in a tab of their own.
    """

    session: Session

    def __init__(self, view: ViewerRenderer, module: nn.Module) -> None:
        """
        Args:
            view: Renderer of the viewer's pictures; the panel chooses its scene and settings.
            module: Nerfstudio's model, which is in eval mode while a scene is generated.
        """
        super().__init__()
        self._unguarded: str | None = None
        try:
            guard_viser()
        except UnknownViserError as error:  # tools without a viewer continue
            self._unguarded = str(error)
        allow_two_keyframes()
        # Not as attributes of a module: the model would become part of this one.
        object.__setattr__(self, "session", Session(view, module))
        session = self.session
        generates = session.renderer.generates
        generation = GenerationPart(session) if generates else None
        scene = ScenePart(session, generation.generate if generation else None)
        video, look = VideoPart(session), ViewPart(session)
        files, compare, photographs = FilesPart(session), ComparePart(session), PhotographsPart(session, generation)
        start = StartPart(session, scene, generation)
        parts: list[Part | None] = [start, scene, photographs, generation, look, video, compare, files]
        self._parts = [part for part in parts if part is not None]
        self._start, self._scene, self._look, self._video, self._generation = start, scene, look, video, generation
        self.control = _Connection(self._opened)

    def part(self, label: str) -> Part:
        """The part whose folder has that label."""
        return next(part for part in self._parts if part.folder.label == label)

    def _opened(self, viewer: Viewer) -> None:
        if self._unguarded is not None:
            raise SystemExit(self._unguarded)
        keep_large_blocks_out_of_pools()
        session = self.session
        session.viewer, session.files = viewer, ViewerFiles(viewer.log_filename.parent)
        guard_uploads(viewer.viser_server, lambda said: session.notify(said, "error"))
        hide_meaningless(viewer)
        begin_without_frustums(viewer)
        session.size_frustums()
        with first_tab(viewer, TAB, viser.Icon.HOME):
            for part in self._parts:
                part.folder.install(viewer.viser_server, session.connect)
            Prose(self._notes(viewer)).install(viewer.viser_server)
        for part in self._parts:
            part.opened()
        self._adapt_render_tab(viewer)
        session.redrawn.append(self._look.show_settings)
        session.redrawn.append(self._scene.say_given)
        session.listed.append(self._start.refresh)
        viewer.viser_server.on_client_connect(session.greet)
        if viewer.trainer is not None or not session.shown.generates or self._generation is None:
            return
        if (viewer.log_filename.parent / GALLERY).is_file():
            session.attempt(self._start.folder.status, self._start.open_first, loud=False)
        else:
            session.attempt(self._generation.folder.status, self._generation.generate, loud=False)

    def _notes(self, viewer: Viewer) -> str:
        notes = [SHARED_NOTE, KEYS_NOTE]
        if (version := viser_version()) != CHECKED_VERSION:
            notes.insert(0, VERSION_NOTE.format(CHECKED_VERSION, version))
            logger.warning("%s", notes[0])
        if viewer.config.websocket_host in OPEN_TO_ALL:
            notes.insert(0, NETWORK_NOTE)
        return "\n\n".join([*map(paragraph, notes), page_script(KEYS)])

    def _adapt_render_tab(self, viewer: Viewer) -> None:
        session = self.session
        tab = RenderTab.of(viewer)
        if tab is None:
            return
        self._video.tab = tab
        if self._generation is not None:
            self._generation.tab = tab
        focal = float(nerfstudio_to_camera_batch(session.shown.pictures().cameras).intrinsics[0, 0, 1, 1])
        fov = math.degrees(2 * math.atan(0.5 / focal))
        tab.start_with(fov, int(self._video.width.value))

        def write_run() -> object:
            files, settings = session.open_files, session.view.settings
            with session.lock:
                tokens = session.shown.tokens(settings.num_tokens)
                return write_shown_run(files.run, files.folder / "runs", tokens, settings)

        tab.generate_with(write_run, lambda name: bare_name(name, (".json",)))  # type: ignore[arg-type]
        with contextlib.suppress(AttributeError):
            viewer.render_tab_state.preview_fov = math.radians(fov)
