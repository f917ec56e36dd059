"""The folder Tokens and files: token files and splats by bare name in the run's folder, to and from the browser."""

from __future__ import annotations

import torch
from nerfstudio.viewer.viewer_elements import ViewerElement

from scenetok_ns.data.scenes import DataError
from scenetok_ns.data.sources.token_file import TokenSource
from scenetok_ns.models.tokens import SceneTokens
from scenetok_ns.viewer.elements import Button, Choice, Folder, QuietButton, Text, Upload
from scenetok_ns.viewer.part import Part
from scenetok_ns.viewer.session import Session

TOKENS, SPLAT = ".safetensors", ".ply"
NONE = "none yet"


class FilesPart(Part):
    """See the module."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.name = Text("File name", "scene.safetensors", hint="A bare name in the folder viewer of the run")
        self.saved = Choice("Saved tokens", NONE, [NONE])
        self.splat = Choice("Splat", NONE, [NONE], hint="Of this scene, by scenetok export-splat; drawn while moving")
        elements: list[ViewerElement] = [
            self.name,
            QuietButton("Save tokens", self.does(self._save), hint="Those that are used", is_main=True),
            QuietButton("Download tokens", self.does(self._download)),
            self.saved,
            Button("Open saved tokens", self.does(self._load)),
            Upload("Upload tokens", TOKENS, self._uploaded_tokens, hint="A token file of this model"),
        ]
        if session.renderer.device.type == "cuda" or torch.cuda.is_available():
            elements += self._splat_elements()
        self._gpu = len(elements) > 6
        self.folder = Folder("Tokens and files", elements, is_open=False)

    def _splat_elements(self) -> list[ViewerElement]:
        return [
            Upload("Upload a splat", SPLAT, self._uploaded_splat, hint="Made of this scene by scenetok export-splat"),
            self.splat,
            Button("Use splat", self.does(self.use_splat)),
            Button("No splat", self.does(self.no_splat)),
        ]

    def opened(self) -> None:
        self.refresh()

    def refresh(self) -> None:
        """List the existing files."""
        files = self.session.files
        if files is None:
            return
        kinds = ((self.saved, TOKENS), (self.splat, SPLAT)) if self._gpu else ((self.saved, TOKENS),)
        for element, suffix in kinds:
            names = files.names(suffix) or [NONE]
            if element.options != names:
                element.set_options(names)

    def _tokens(self) -> SceneTokens:
        with self.session.lock, torch.no_grad():
            return self.session.shown.tokens(self.session.view.settings.num_tokens)

    def _save(self) -> str:
        path = self.session.open_files.save_tokens(self._tokens(), self.name.value)
        self.refresh()
        return f"saved {path}: {path.stat().st_size:,} bytes"

    def _download(self) -> str:
        path = self.session.open_files.save_tokens(self._tokens(), self.name.value)
        self.refresh()
        self.session.download(path.name, path.read_bytes())
        return f"{path.name}: {path.stat().st_size:,} bytes"

    def _load(self) -> str:
        if self.saved.value == NONE:
            raise DataError("there are no saved tokens yet: press Save tokens, or upload a file")
        path = self.session.open_files.existing(self.saved.value, TOKENS)
        self.session.remember()
        self.session.shown.load(path)
        self.session.redraw()
        return f"opened {path.name}"

    def _uploaded_tokens(self, name: str, content: bytes) -> None:
        def take() -> str:
            path = self.session.open_files.take(name, content, TOKENS)
            try:
                self.session.renderer.scenetok.check_tokens(TokenSource(path).tokens)
            except ValueError as error:
                path.unlink()
                raise DataError(str(error).replace(str(path), name)) from error
            self.refresh()
            self.saved.show(path.name)
            with self.session.lock:
                return self._load()

        self.session.attempt(self.folder.status, take)
        self.session.ask_again()

    def _uploaded_splat(self, name: str, content: bytes) -> None:
        def take() -> str:
            path = self.session.open_files.take(name, content, SPLAT)
            self.refresh()
            self.splat.show(path.name)
            return f"{path.name}: press Use splat"

        self.session.attempt(self.folder.status, take)

    def use_splat(self) -> str:
        """Draw the chosen splat while the camera moves."""
        path = self.session.open_files.existing(self.splat.value, SPLAT)
        version = self.session.shown.current().version
        count = self.session.view.splat.load(path, self.session.renderer.device, version)
        return f"while moving: {path.name}, {count:,} Gaussians"

    def no_splat(self) -> str:
        self.session.view.splat.clear()
        return "while moving: previews of the model"
