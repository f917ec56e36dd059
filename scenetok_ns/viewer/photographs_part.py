"""The folder Own photographs: uploads from the browser, for a generator or as a small capture without poses."""

from __future__ import annotations

from collections.abc import Callable

from nerfstudio.viewer.viewer_elements import ViewerElement

from scenetok_ns.data.capture.photographs import FEWEST
from scenetok_ns.data.scenes import DataError
from scenetok_ns.data.sources.photograph import read_photograph
from scenetok_ns.viewer.background import Work
from scenetok_ns.viewer.captured_scene import EncodedScene, capture_uploads, encode_capture, if_usable
from scenetok_ns.viewer.elements import Folder, QuietButton, Upload
from scenetok_ns.viewer.generation_part import GenerationPart
from scenetok_ns.viewer.part import Part
from scenetok_ns.viewer.session import Session
from scenetok_ns.viewer.viewer_files import PICTURES

Made = tuple[EncodedScene, tuple[str, ...]]


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
            self.session.list_files()
            there = len(files.photograph_names())
            if self._generation is None:
                return f"{there} photograph{'s' * (there > 1)}: upload more from all around, then make a scene of them"
            joint = self._generation.joint_choice(there) if len(paths) > 1 else None
            self._generation.list_photographs(joint or paths[-1].name)
            if joint is not None:
                return f"{there} photographs uploaded: the folder Generation makes a scene of them"
            if len(paths) > 1 and there >= FEWEST:
                return f"{there} photographs: make a scene of them; Generate uses {paths[-1].name} alone"
            return f"{paths[-1].name} uploaded: the folder Generation makes a scene of it"

        self.session.attempt(self.folder.status, take)

    def _forget(self) -> str:
        count = self.session.open_files.forget_photographs()
        if self._generation is not None:
            self._generation.list_photographs(None)
        self.session.list_files()
        return f"{count} photographs deleted"

    def _check_number(self) -> None:
        """Raise DataError, with the way that helps, if there are too few photographs for a capture."""
        count, generation = len(self.session.open_files.photograph_names()), self._generation
        if count >= FEWEST:
            return
        there = f"{count} photograph{'s' * (count != 1)}, but this needs at least {FEWEST}"
        if count == 0:
            raise DataError(f"{there}: upload some first")
        if generation is None:
            raise DataError(f"{there}: upload more. `scenetok gallery` makes scenes of one to three photographs")
        choice = generation.joint_choice(count) or self.session.open_files.photograph_names()[0]
        raise DataError(f"{there}: choose '{choice}' under Photograph in the folder Generation, and press Generate")

    def _start_capture(self) -> None:
        self._check_number()
        session = self.session
        work: Work[Made]

        def run(on_step: Callable[[int, int], None]) -> Made:
            made = capture_uploads(session, work.on_step)
            with session.evaluating():
                encoded = if_usable(made, lambda folder: encode_capture(session, folder, "photographs"))
                return encoded, made.warnings

        def done(made: Made) -> str:
            encoded, warnings = made
            encoded.display(session)
            session.list_files()
            session.ask_again()
            more = f" ({'; '.join(warnings)})" if warnings else ""
            return f"encoded {len(encoded.views.indices)} of {encoded.scene.num_frames} photographs{more}"

        work = Work(run, session.lock, share=not session.trains, report=self.says, done=done, doing="making a scene")
        session.start(work, "finding the cameras of the photographs")

    def _stop(self) -> str:
        return "stopping" if self.session.stop() else "nothing is being made"
