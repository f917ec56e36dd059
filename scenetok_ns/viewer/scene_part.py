"""The folder Scene: which scene is displayed, from which views, and the way back."""

from __future__ import annotations

from collections.abc import Callable

import torch
from nerfstudio.viewer.viewer_elements import ViewerElement

from scenetok_ns.bridge.scene_views import encoded_note
from scenetok_ns.data.scenes import DataError
from scenetok_ns.viewer.elements import Button, Dropdown, Folder, Prose, Slider, Text
from scenetok_ns.viewer.page_text import paragraph
from scenetok_ns.viewer.part import Part
from scenetok_ns.viewer.session import Session

LISTED_SCENES = 200
"""Maximum number of scenes in the drop-down list; others can be displayed by name."""


class ScenePart(Part):
    """See the module."""

    def __init__(self, session: Session, generate: Callable[[], None] | None) -> None:
        """`generate`: Begins to generate the scene; None: this model encodes scenes."""
        super().__init__(session)
        self._generate = generate
        shown = session.shown
        names, usual = shown.names, len(shown.given)
        listed = names[:LISTED_SCENES]
        if names[shown.number] not in listed:
            listed = [*listed, names[shown.number]]
        self.about = Prose()
        self.scene = Dropdown("Scene", names[shown.number], listed, cb_hook=self.does(self._show, loud=False))
        self.advice = Prose()
        elements: list[ViewerElement] = [self.about, self.advice, self.scene]
        self.name = Text("Scene by name", "", hint="Any scene of the split; press Show")
        if len(names) > 1:
            elements += [self.name, Button("Show scene by name", self.does(self._show_by_name))]
        encodes = not session.renderer.generates and session.renderer.encodes
        self.which = Text("Which ones", self._given(), hint="Numbers of the scene's frames; press Encode")
        if encodes and shown.photographs is not None:
            trained = session.renderer.preset.data.views.num_context
            most = max(usual, min(trained, shown.num_frames))
            spread = self.does(self._spread_context, loud=False)
            hint = f"Photographs to encode; the model was trained with up to {trained}. For more, use Which ones"
            self.context = Slider("Context views", usual, 1, most, 1, cb_hook=spread, hint=hint)
            elements += [self.context, self.which, Button("Encode these views", self.does(self._choose_context))]
        elements += [
            Button("Undo", self.does(self.session.undo), hint="Back to the scene, tokens and settings before (key u)")
        ]
        self.folder = Folder("Scene", elements)
        shown.on_encoding = self._encoding

    def _encoding(self, done: int, total: int) -> None:
        """Show a bar and a line while the scene is encoded."""
        shown = self.session.shown
        self.folder.status.progress(done / total if done < total else None)
        if done == 0:
            self.about.content = paragraph(f"Encoding {len(shown.given)} views of {shown.title} ...")
        elif done == total:
            self.about.content = paragraph(f"Displayed: {shown.title}")

    def opened(self) -> None:
        self.say_given()

    def _show(self) -> str:
        return self.show_number(self.session.shown.names.index(self.scene.value))

    def show_number(self, number: int) -> str:
        """Display a scene of the data set; a generator begins to generate it. Called with the viewer's lock."""
        return self._show_scene(lambda: self.session.shown.show(number))

    def _show_by_name(self) -> str:
        return self._show_scene(lambda: self.session.shown.show_named(self.name.value.strip()))

    def _show_scene(self, show: Callable[[], None]) -> str:
        self.session.remember()
        show()
        self.session.redraw()
        if self.session.shown.generates and self._generate is not None:
            self._generate()
        return f"scene {self.session.shown.title}"

    def _given(self) -> str:
        return ", ".join(map(str, self.session.shown.given))

    def say_given(self) -> None:
        """Update the elements that name the displayed scene and the views that it is encoded from."""
        self.which.show(self._given())
        if self.session.shown.state.own is None:
            name = self.session.shown.names[self.session.shown.number]
            if name in self.scene.options and self.scene.value != name:
                self.scene.show(name)
        self.about.content = paragraph(f"Displayed: {self.session.shown.title}")
        capture = self.session.shown.capture
        blurred = capture is not None and self.session.renderer.preset.is_embedded
        self.advice.content = paragraph(encoded_note(capture)) if blurred and capture is not None else ""

    def _spread_context(self) -> str:
        self.session.remember()
        self.session.shown.give_spread(self.context.value)
        self.say_given()
        self.session.redraw_frustums()
        return f"{len(self.session.shown.given)} context views"

    def _choose_context(self) -> str:
        words = self.which.value.replace(",", " ").split()
        if not all(word.isdecimal() and len(word) < 10 for word in words):
            raise DataError(f"expected numbers of frames like 0, 10, 20, got {self.which.value[:60]!r}")
        self.session.remember()
        self.session.shown.give(torch.tensor([int(word) for word in words], dtype=torch.int64))
        self.session.redraw_frustums()
        return f"{len(words)} context views"
