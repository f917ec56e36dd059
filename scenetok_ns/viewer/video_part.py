"""The folder Video: a path through the displayed scene, rendered jointly, played and downloaded in the page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch

from scenetok_ns.data.camera_path_files import CameraPath, read_path, write_path
from scenetok_ns.data.camera_paths import PATH_NAMES, PathName
from scenetok_ns.data.scenes import DataError
from scenetok_ns.models.tokens import SceneTokens
from scenetok_ns.rendering.shot_files import ShotFiles, file_names
from scenetok_ns.rendering.shots import Shot, path_around, render_shots
from scenetok_ns.rendering.token_renderer import RenderSettings
from scenetok_ns.viewer.background import Work
from scenetok_ns.viewer.elements import Choice, Folder, Prose, QuietButton, Setting
from scenetok_ns.viewer.page_text import command_text, media, paragraph
from scenetok_ns.viewer.part import Part
from scenetok_ns.viewer.renderer import ViewSettings
from scenetok_ns.viewer.session import Session
from scenetok_ns.viewer.shown_run import TOKENS, render_command
from scenetok_ns.viewer.stock_page import RenderTab

KEYFRAMES = "keyframes of the Render tab"
JOINTLY, SPLAT = "the model, jointly", "the splat"
USUAL_FRAMES, MOST_FRAMES = 48, 2000
USUAL_SIDE, LEAST_SIDE, MOST_SIDE = 512, 16, 4096
USUAL_RATE, FASTEST = 24.0, 240.0
LARGEST_PREVIEW = 24 * 2**20
"""Maximum size in bytes of a video that the panel plays; larger ones can only be downloaded."""
PATH_FILE, RENDERS = "path.json", "renders"
SNAPSHOT = "snapshot.png"


@dataclass(frozen=True)
class VideoRequest:
    """Everything that a video depends on. Its files are in `folder`."""

    folder: Path
    tokens: SceneTokens
    """Tokens as read back from their file."""
    path: CameraPath
    settings: ViewSettings
    frame_rate: float
    command: str
    """Shell command that renders the same video; empty for a splat, which has no command."""
    is_splat: bool = False
    """Whether the loaded splat draws the video instead of the model."""

    @property
    def video(self) -> Path:
        return self.folder / RENDERS / f"{self.name}.mp4"

    @property
    def name(self) -> str:
        """Name of the scene in file names."""
        return file_names([self.tokens.scene or "scene"])[0]


class VideoPart(Part):
    """See the module."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.tab: RenderTab | None = None
        self._finished: VideoRequest | None = None
        self.path = Choice("Path", "orbit", [*PATH_NAMES, KEYFRAMES], hint="Or your keyframes of the Render tab")
        self.frames = Setting("Frames", USUAL_FRAMES, cb_hook=lambda element: None)
        self.width = Setting("Width", USUAL_SIDE)
        self.height = Setting("Height", USUAL_SIDE)
        self.rate = Setting("Frames a second", USUAL_RATE)
        hint = "The splat: the one in use (Tokens and files), sharp and steady; the model knows more"
        self.source = Choice("Pictures by", JOINTLY, [JOINTLY, SPLAT], hint=hint)
        has_gpu = session.renderer.device.type == "cuda" or torch.cuda.is_available()
        self.preview = Prose()
        self.line = Prose()
        self.folder = Folder(
            "Video",
            [
                *(self.path, self.frames, self.width, self.height, self.rate),
                *([self.source] if has_gpu else []),
                QuietButton(
                    "Render video", self.does(self._render), hint="All frames jointly, as scenetok render", is_main=True
                ),
                QuietButton("Stop video", self.does(self._stop)),
                self.preview,
                QuietButton("Download video", self.does(self._download)),
                self.line,
                QuietButton("Snapshot", self.does(self._snapshot), hint="This view at this size, as PNG (key x)"),
            ],
        )

    def _size(self) -> tuple[int, int]:
        """Height and width. Raises DataError."""
        width, height = int(self.width.value), int(self.height.value)
        if not LEAST_SIDE <= min(width, height) <= max(width, height) <= MOST_SIDE:
            raise DataError(f"Width and Height must be from {LEAST_SIDE} to {MOST_SIDE}, got {width} and {height}")
        return height, width

    def request(self, folder: Path) -> VideoRequest:
        """Create a request from the elements; write its tokens and path to `folder`. Raises DataError and OSError."""
        size, frames, rate = self._size(), int(self.frames.value), float(self.rate.value)
        if not 1 <= frames <= MOST_FRAMES or not 1 <= rate <= FASTEST:
            raise DataError(
                f"Frames must be from 1 to {MOST_FRAMES} and Frames a second from 1 to {FASTEST:g}, "
                f"got {frames} and {rate:g}"
            )
        settings, is_splat = self.session.view.settings, self.source.value == SPLAT
        if is_splat and not self.session.view.splat.is_of(self.session.shown.current().version):
            raise DataError("there is no splat of this scene: choose one in Tokens and files, and press Use splat")
        tokens = self.session.shown.tokens(settings.num_tokens)
        keyframes = self.path.value == KEYFRAMES
        found = self._keyframes(size) if keyframes else None
        path = found or path_around(cast(PathName, self.path.value), tokens, frames, size)
        tokens.save(folder / TOKENS)
        tokens = SceneTokens.load(folder / TOKENS).to(self.session.renderer.device)
        name: str | Path = self.path.value
        if keyframes:
            name = folder / PATH_FILE
            write_path(name, path, rate)
            path = read_path(name, size, self.session.renderer.preset.data.image_size)
        line = render_command(
            self.session.run,
            folder / TOKENS,
            name,
            settings,
            frames=None if keyframes else frames,
            width=size[1],
            height=size[0],
            frame_rate=rate,
        )
        return VideoRequest(folder, tokens, path, settings, rate, "" if is_splat else line, is_splat)

    def _keyframes(self, size: tuple[int, int]) -> CameraPath:
        path = None if self.tab is None else self.tab.path()
        if path is None:
            raise DataError("add at least two keyframes in the Render tab first (Add Keyframe at several places)")
        if len(path.c2w) > MOST_FRAMES:
            raise DataError(f"the keyframe path has {len(path.c2w)} frames, more than {MOST_FRAMES}: shorten it")
        ratio = size[0] / size[1] / (path.size[0] / path.size[1])
        if abs(ratio - 1) > 0.02:
            raise DataError(
                f"the Render tab's Resolution is {path.size[1]} x {path.size[0]}; give Width and Height of that shape"
            )
        return path

    def _render(self) -> None:
        with self.session.lock:
            folder = self.session.open_files.new_folder("videos")
            request = self.request(folder)
        session = self.session
        line = paragraph("The same in a shell:") + "\n\n" + command_text(request.command)
        self.line.content = line if request.command else paragraph("Videos of a splat have no command for a shell.")

        def run(on_step: Callable[[int, int], None]) -> VideoRequest:
            with session.evaluating():
                render_video(session, request, on_step)
            return request

        work = Work(
            run,
            session.lock,
            share=not session.trains,
            report=self.says,
            done=self._done,
            doing=f"rendering {len(request.path.c2w)} frames",
        )
        session.start(work, f"rendering {len(request.path.c2w)} frames of {request.name}")

    def _done(self, request: VideoRequest) -> str:
        self._finished = request
        size = request.video.stat().st_size
        if size <= LARGEST_PREVIEW:
            self.preview.content = media(request.video.read_bytes(), "video/mp4")
        else:
            self.preview.content = paragraph("The video is too large to be played here: download it.")
        return f"{request.video.name}: {len(request.path.c2w)} frames, {size / 1e6:.1f} MB"

    def _stop(self) -> str:
        return "stopping" if self.session.stop() else "nothing is being rendered"

    def _download(self) -> str:
        if self._finished is None or not self._finished.video.is_file():
            raise DataError("there is no video yet: press Render video")
        self.session.download(self._finished.video.name, self._finished.video.read_bytes())
        return f"{self._finished.video.name} goes to your downloads"

    def _snapshot(self) -> str:
        """Send this browser's view in full quality at the given size."""
        name, content = self.session.snapshot(self._size())
        self.session.download(name, content)
        return f"{name}: {len(content):,} bytes"


@torch.no_grad()
def render_video(session: Session, request: VideoRequest, on_step: Callable[[int, int], None]) -> None:
    """Render a request as `scenetok render` does, with the session's networks, or with the loaded splat."""
    renderer = session.renderer
    settings: RenderSettings = replace(renderer.settings, sampler=request.settings.rest, seed=request.settings.seed)
    shot = Shot(request.name, request.tokens, request.path)
    with ShotFiles(shot, request.folder / RENDERS, ["mp4"], request.frame_rate) as files:
        if request.is_splat:
            for number, picture in enumerate(session.view.splat.along(request.path)):
                on_step(number, len(request.path.c2w))
                files.add(number, picture)
            return
        for _, first, frames, _ in render_shots(replace(renderer, settings=settings), [shot], on_step):
            files.add(first, frames)
