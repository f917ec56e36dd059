"""The folder Own photographs: uploaded through the browser, for a generator or as a small capture without poses."""

from __future__ import annotations

from collections.abc import Callable

import torch
from nerfstudio.viewer.viewer_elements import ViewerElement

from scenetok_ns.bridge.capture_kinds import find_dataparser
from scenetok_ns.bridge.scene_views import SceneViews, read_capture
from scenetok_ns.data.capture.capture_folder import CaptureOptions, make_capture
from scenetok_ns.data.scenes import Scene
from scenetok_ns.data.sources.photograph import read_photograph
from scenetok_ns.models.tokens import SceneTokens
from scenetok_ns.viewer.background import Work
from scenetok_ns.viewer.elements import Folder, QuietButton, Upload
from scenetok_ns.viewer.generation_part import GenerationPart
from scenetok_ns.viewer.part import Part
from scenetok_ns.viewer.session import Session
from scenetok_ns.viewer.viewer_files import PICTURES

STAGES = {
    "pictures": "reading pictures",
    "features": "finding features",
    "matches": "matching pairs",
    "cameras": "finding cameras",
}
"""What the stages of a capture are called."""
Made = tuple[SceneTokens, SceneViews, Scene, list[str]]


class PhotographsPart(Part):
    """See the module."""

    def __init__(self, session: Session, generation: GenerationPart | None) -> None:
        super().__init__(session)
        self._generation = generation
        kinds = ",".join((*PICTURES, ".zip"))
        hint = "One at a time, or many in a ZIP archive. They stay in the run's folder"
        elements: list[ViewerElement] = [Upload("Upload photographs", kinds, self._uploaded, hint)]
        if session.renderer.encodes:
            find = self.does(self._start_capture)
            hint = "Finds the cameras of all uploaded photographs, as scenetok capture does, and encodes the scene"
            elements += [
                QuietButton("Make a scene of them", find, hint=hint, is_main=True),
                QuietButton("Stop it", self.does(self._stop)),
            ]
        elements.append(QuietButton("Forget them", self.does(self._forget), hint="Deletes the uploaded photographs"))
        self.folder = Folder("Own photographs", elements, is_open=generation is not None)

    def _uploaded(self, name: str, content: bytes) -> None:
        def take() -> str:
            files = self.session.open_files
            paths = files.take_photographs(name, content)
            try:
                for path in paths:
                    read_photograph(path)
            except ValueError:
                for path in paths:
                    path.unlink(missing_ok=True)
                raise
            there = len(files.photograph_names())
            if self._generation is None:
                return f"{there} photograph{'s' * (there > 1)}: upload more from all around, then make a scene of them"
            self._generation.list_photographs(paths[-1].name)
            return f"{paths[-1].name}: press Generate"

        self.session.attempt(self.folder.status, take)

    def _forget(self) -> str:
        count = self.session.open_files.forget_photographs()
        if self._generation is not None:
            self._generation.list_photographs(None)
        return f"{count} photographs deleted"

    def _start_capture(self) -> str:
        session = self.session
        files = session.open_files
        photographs, target = files.photographs, files.new_folder("captures")
        work: Work[Made]

        def run(on_step: Callable[[int, int], None]) -> Made:
            def stage(name: str, done: int, total: int) -> None:
                with session.lock:  # on_step gives it away and takes it again
                    work.on_step(done, total, STAGES.get(name, name))

            session.lock.release()  # the model isn't needed before the cameras are known
            try:
                made = make_capture(photographs, target, CaptureOptions(), stage)
            finally:
                session.lock.acquire()
            with session.evaluating():
                return _encoded(session, made.folder, [*made.warnings])

        def done(made: Made) -> str:
            tokens, views, scene, warnings = made
            session.remember()
            session.shown.take(tokens, views, scene)
            session.redraw()
            session.ask_again()
            more = f" ({'; '.join(warnings)})" if warnings else ""
            return f"encoded {len(views.indices)} of {scene.num_frames} photographs{more}"

        work = Work(run, session.lock, share=not session.trains, report=self.says, done=done, doing="making a scene")
        session.start(work)
        return "finding the cameras of the photographs"

    def _stop(self) -> str:
        return "stopping" if self.session.stop() else "nothing is being made"


@torch.no_grad()
def _encoded(session: Session, folder: object, warnings: list[str]) -> Made:
    """Tokens of a capture, encoded from views spread over it."""
    renderer = session.renderer
    preset = renderer.preset
    dataparser = find_dataparser(folder).setup()  # type: ignore[arg-type]
    source = read_capture(dataparser, "test", typical_spread=preset.data.camera_spread)
    indices = source.fixed_views(preset.data.views.num_context, fewer=True).context
    scene = source.read()
    views = scene.load_views(indices, (preset.data.image_size,) * 2)
    tokens = renderer.encode_views(views, "photographs", source.pose_scale)
    return tokens, session.shown.views_of(scene, indices), scene, warnings
