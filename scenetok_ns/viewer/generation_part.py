"""The folder Generation of a SceneGen run: a scene from photographs, while the viewer stays live."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from scenetok_ns.data.scenes import DataError
from scenetok_ns.models.tokens import SceneTokens
from scenetok_ns.viewer.background import Work
from scenetok_ns.viewer.elements import Choice, Folder, Kind, QuietButton, Range, Setting
from scenetok_ns.viewer.generation import ANCHORS, OWN_VIEWS, GenerationRequest, conditions_of
from scenetok_ns.viewer.part import Part
from scenetok_ns.viewer.session import Session
from scenetok_ns.viewer.stock_page import RenderTab
from scenetok_ns.viewer.view_part import MOST_GUIDANCE

MOST_SCENE_STEPS = 200
OF_SCENE = "those of the scene"


class GenerationPart(Part):
    """See the module."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.tab: RenderTab | None = None
        settings, preset = session.renderer.settings, session.renderer.preset
        sampler = settings.scene_sampler
        assert sampler is not None
        most, given = preset.data.views.max_condition_views, len(session.shown.given)
        self.count = Range("Photographs of the scene", min(given, most), 1, max(most, 2), 1)
        self.photograph = Choice("Photograph", OF_SCENE, [OF_SCENE], hint="Or one that you have uploaded")
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
        options = [OF_SCENE, *self.session.open_files.photograph_names()]
        if self.photograph.options != options:
            self.photograph.set_options(options)
        if choose is not None:
            self.photograph.show(choose)

    def opened(self) -> None:
        self.list_photographs(None)

    def _generate_locked(self) -> str:
        self.session.stop()
        with self.session.lock:
            return self.generate()

    def generate(self) -> str:
        """Start generating with what the panel says. Called with the viewer's lock."""
        session, settings = self.session, self.session.renderer.settings
        if settings.scene_sampler is None:
            raise DataError("generating needs a scene generator")
        name, viewer = self.photograph.value, session.open_viewer
        keyframes = None if self.tab is None else self.tab.path()
        request = GenerationRequest(
            scene=session.shown.number,
            num_condition=self.count.value,
            photograph=None if name == OF_SCENE else session.open_files.photograph(name),
            anchors=self.anchors.value,
            keyframes=None if keyframes is None else keyframes.c2w,
            seed=int(self.seed.value),
            sampler=replace(settings.scene_sampler, steps=self.steps.value, guidance=self.guidance.value),
        )
        conditions, scene, given = conditions_of(request, session.renderer, viewer.datapath / "camera_paths")
        views = session.shown.views_of(scene, torch.tensor(given))
        chosen = replace(settings, scene_seed=request.seed, scene_sampler=request.sampler)
        renderer = replace(session.renderer, settings=chosen)

        def run(on_step: Callable[[int, int], None]) -> SceneTokens:
            with session.evaluating():
                return renderer.generate(conditions, scene.key, on_step)

        def done(tokens: SceneTokens) -> str:
            session.remember()
            session.shown.take(tokens, views, scene)
            session.redraw()
            return f"generated {scene.key}"

        work = Work(
            run, session.lock, share=not session.trains, report=self.report, done=done, doing=f"generating {scene.key}"
        )
        session.start(work)
        return f"generating {scene.key}"

    def report(self, text: str, kind: Kind, done: float | None) -> None:
        """What goes on; also in the picture while there is no scene."""
        self.session.shown.note = text
        self.says(text, kind, done)
        if done is None or not self.session.shown.ready:
            self.session.ask_again()

    def _stop(self) -> str:
        return "stopping" if self.session.stop() else "nothing is being generated"
