"""The folder Generation of a SceneGen run. It generates a scene from photographs while the viewer stays live."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from scenetok_ns.data.path_names import Trajectory
from scenetok_ns.data.scenes import DataError
from scenetok_ns.viewer.background import Work
from scenetok_ns.viewer.captured_scene import EncodedScene, capture_uploads, if_usable
from scenetok_ns.viewer.elements import Choice, Folder, Kind, QuietButton, Range, Setting
from scenetok_ns.viewer.generation import ANCHORS, OWN_VIEWS, GenerationRequest, conditions_of
from scenetok_ns.viewer.part import Part
from scenetok_ns.viewer.session import Session
from scenetok_ns.viewer.stock_page import RenderTab
from scenetok_ns.viewer.view_part import MOST_GUIDANCE

MOST_SCENE_STEPS = 200
FORWARD: Trajectory = "forward"
OF_SCENE, ALL_UPLOADED = "those of the scene", "all uploaded, with cameras found"


class GenerationPart(Part):
    """See the module."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.tab: RenderTab | None = None
        self._path_was_chosen = False
        settings, preset = session.renderer.settings, session.renderer.preset
        sampler = settings.scene_sampler
        assert sampler is not None
        self._most = most = preset.data.views.max_condition_views
        given = len(session.shown.given)
        self.count = Range("Photographs of the scene", min(given, most), 1, max(most, 2), 1)
        hint = f"Or one that you have uploaded, or 2 to {most} together"
        self.photograph = Choice("Photograph", OF_SCENE, [OF_SCENE], hint=hint)
        self.anchors = Choice("Where to", OWN_VIEWS, ANCHORS, hint="camera path: the keyframes of the Render tab")
        self.steps = Range("Scene steps", sampler.steps, 1, max(MOST_SCENE_STEPS, sampler.steps), 1)
        guidance = max(MOST_GUIDANCE, sampler.guidance)
        self.guidance = Range("Scene guidance", float(sampler.guidance), 1.0, guidance, 0.1, hint="1 is off")
        self.seed = Setting("Scene seed", settings.scene_seed)
        self.folder = Folder(
            "Generation",
            [
                *(self.photograph, self.count, self.anchors, self.steps, self.guidance, self.seed),
                QuietButton("Generate", self.does(self._generate_locked), is_main=True),
                QuietButton("Stop", self.does(self._stop)),
            ],
        )

    def list_photographs(self, choose: str | None) -> None:
        """Offer the uploaded photographs; `choose` one of them."""
        uploaded = self.session.open_files.photograph_names()
        several = self.joint_choice(len(uploaded))
        options = [OF_SCENE, *([several] if several else []), *uploaded]
        if self.photograph.options != options:
            self.photograph.set_options(options)
        if choose is not None:
            self.choose(choose)

    def choose(self, photograph: str) -> None:
        """Choose a photograph, and a path that fits: uploaded photographs have no other views of a scene."""
        self.photograph.show(photograph)
        if photograph != OF_SCENE and self.anchors.value == OWN_VIEWS:
            self.anchors.show(FORWARD)
            self._path_was_chosen = True
        elif photograph == OF_SCENE and self._path_was_chosen:
            if self.anchors.value == FORWARD:
                self.anchors.show(OWN_VIEWS)
            self._path_was_chosen = False

    def joint_choice(self, count: int) -> str | None:
        """The choice of `count` uploaded photographs together; None: the model takes fewer or more."""
        return ALL_UPLOADED if 2 <= count <= self._most else None

    def opened(self) -> None:
        self.list_photographs(None)

    def _generate_locked(self) -> None:
        self.session.stop()
        with self.session.lock:
            self.generate()

    def generate(self) -> None:
        """Start generating with the settings of the panel. Called with the viewer's lock."""
        session, settings = self.session, self.session.renderer.settings
        if settings.scene_sampler is None:
            raise DataError("generating needs a scene generator")
        name, viewer = self.photograph.value, session.open_viewer
        keyframes = None if self.tab is None else self.tab.path()
        request = GenerationRequest(
            scene=session.shown.number,
            num_condition=self.count.value,
            photograph=None if name in (OF_SCENE, ALL_UPLOADED) else session.open_files.photograph(name),
            capture=None,
            anchors=self.anchors.value,
            keyframes=None if keyframes is None else keyframes.c2w,
            seed=int(self.seed.value),
            sampler=replace(settings.scene_sampler, steps=self.steps.value, guidance=self.guidance.value),
        )
        paths = viewer.datapath / "camera_paths"
        posed = None if name == ALL_UPLOADED else conditions_of(request, session.renderer, paths)
        title = "photographs" if posed is None else posed[1].key
        chosen = replace(settings, scene_seed=request.seed, scene_sampler=request.sampler)
        renderer = replace(session.renderer, settings=chosen)
        generated = title
        work: Work[EncodedScene]

        def run(on_step: Callable[[int, int], None]) -> EncodedScene:
            nonlocal generated
            found = posed
            if found is None:
                made = capture_uploads(session, work.on_step, fewest=2)
                found = if_usable(
                    made, lambda folder: conditions_of(replace(request, capture=folder), session.renderer, paths)
                )
                placed = f"{made.registered} of {made.pictures}" if made.registered < made.pictures else made.pictures
                generated = f"a scene from {placed} photographs"
            conditions, scene, given = found
            with session.evaluating():
                tokens = renderer.generate(conditions, title, on_step)
            return EncodedScene(tokens, session.shown.views_of(scene, torch.tensor(given)), scene)

        def done(made: EncodedScene) -> str:
            made.display(session)
            session.list_files()
            return f"generated {generated}"

        work = Work(
            run, session.lock, share=not session.trains, report=self.report, done=done, doing=f"generating {title}"
        )
        session.start(work, f"generating {title}")

    def report(self, text: str, kind: Kind, done: float | None) -> None:
        """Report the state of the generation. While there is no scene, the picture shows it too."""
        self.session.shown.note = text
        self.says(text, kind, done)
        if done is None or not self.session.shown.ready:
            self.session.ask_again()

    def _stop(self) -> str:
        return "stopping" if self.session.stop() else "nothing is being generated"
