"""The folder Start: everything that can be displayed, as a picture each, one click away."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from scenetok_ns.data.capture.writer import IMAGES
from scenetok_ns.data.scenes import DataError
from scenetok_ns.rendering.picture_files import encode_picture
from scenetok_ns.viewer.background import Work
from scenetok_ns.viewer.captured_scene import EncodedScene, encode_capture, encode_room
from scenetok_ns.viewer.elements import Button, ButtonList, Folder, Prose, QuietButton
from scenetok_ns.viewer.generation_part import OF_SCENE, GenerationPart
from scenetok_ns.viewer.page_text import Tile, paragraph, tiles
from scenetok_ns.viewer.part import Part
from scenetok_ns.viewer.scene_part import ScenePart
from scenetok_ns.viewer.session import Session
from scenetok_ns.viewer.viewer_files import PICTURES

logger = logging.getLogger(__name__)

GALLERY = "gallery.json"
"""File in the run folder with the captures that `scenetok gallery` was given: name -> folder."""
MOST_ROOMS, MOST_OTHERS = 6, 6
"""Scenes of the data set, and photographs or captures, that get a tile each."""
TILE_SIDE = 96
"""Pixels."""
Kind = Literal["room", "generate", "photograph", "capture"]
TITLES: dict[Kind, str] = {
    "room": "Scenes of the data set",
    "generate": "Generate from one photograph",
    "photograph": "Your photographs",
    "capture": "Your captures",
}
"""Heading above the tiles of a kind, in this order."""


@dataclass(frozen=True)
class Entry:
    """Something that can be displayed."""

    kind: Kind
    name: str
    place: int | Path
    """Number of the scene in the data set, or a file or folder."""

    @property
    def label(self) -> str:
        """Text of its button, which no other button of the page has."""
        verb = {"room": "Show", "generate": "Generate from", "photograph": "Generate from", "capture": "Open capture"}
        return f"{verb[self.kind]} {self.name}"


class StartPart(Part):
    """See the module."""

    def __init__(self, session: Session, scene: ScenePart, generation: GenerationPart | None) -> None:
        super().__init__(session)
        self._scene, self._generation = scene, generation
        self.gallery, self._buttons = Prose(), ButtonList("As a list")
        self.listed: list[Entry] = []
        self._filling = threading.Lock()
        self._pictures: dict[Entry, str] = {}
        self.folder = Folder("Start", [self.gallery, self._buttons])

    # --- What there is ---

    def entries(self) -> list[Entry]:
        """Everything that has a tile, in the order of the page."""
        shown, files = self.session.shown, self.session.open_files
        found = []
        if shown.photographs is not None or self.session.renderer.generates:
            names = shown.names[:MOST_ROOMS]
            found += [Entry("room", name, number) for number, name in enumerate(names)]
            if self._generation is not None:
                found += [Entry("generate", name, number) for number, name in enumerate(names[: MOST_ROOMS // 2])]
        if self._generation is not None:
            names = files.photograph_names()[-MOST_OTHERS:]
            found += [Entry("photograph", name, files.photograph(name)) for name in names]
        captures = {**gallery_captures(files.run), **files.captures()}
        return [*found, *(Entry("capture", name, folder) for name, folder in list(captures.items())[-MOST_OTHERS:])]

    # --- The page ---

    def opened(self) -> None:
        self.refresh()

    def refresh(self) -> None:
        """Update the tiles if there is something new; pictures are read in the background."""
        if self.entries() != self.listed:
            threading.Thread(target=self._fill, daemon=True, name="scenetok-tiles").start()

    def _fill(self) -> None:
        with self._filling:
            entries = self.entries()
            if entries == self.listed:
                return
            self._buttons.fill([self._button(entry) for entry in entries], self.session.connect)
            self.listed = entries
            self._pictures = {entry: self._pictures.get(entry) or self._picture(entry) for entry in entries}
            parts = []
            for kind, title in TITLES.items():
                found = [entry for entry in entries if entry.kind == kind]
                if found:
                    shown = [Tile(entry.name, entry.label, self._pictures[entry]) for entry in found]
                    parts += [paragraph(title), tiles(shown)]
            self.gallery.content = "\n\n".join(parts)

    def _button(self, entry: Entry) -> Button:
        kind = Button if entry.kind == "room" and self._generation is None else QuietButton
        return kind(entry.label, self.does(lambda: self.open(entry)))

    def _picture(self, entry: Entry) -> str:
        """A small JPEG as a data URL; empty where none can be read, as for a damaged scene."""
        try:
            return thumbnail_url(self._read(entry))
        except (ValueError, OSError) as error:
            logger.warning("no picture for %s: %s", entry.label, error)
            return ""

    def _read(self, entry: Entry) -> UInt8[Tensor, "3 h w"]:
        if isinstance(entry.place, int):
            with self.session.lock:
                scenes = self.session.renderer.scenes
                found = scenes.scene(entry.place)
                return found.scene.load_images(found.context[:1])[0]
        file = entry.place if entry.kind == "photograph" else first_picture(entry.place)
        with Image.open(file) as stored:
            stored.draft("RGB", (2 * TILE_SIDE, 2 * TILE_SIDE))
            return pil_to_tensor(ImageOps.exif_transpose(stored).convert("RGB"))

    # --- A click ---

    def open_first(self) -> str | None:
        """Display the first entry."""
        entries = self.entries()
        if not entries:
            raise DataError("there is nothing to start with: upload photographs, or add captures")
        return self.open(entries[0])

    def open(self, entry: Entry) -> str | None:
        """Display an entry, or begin to. Returns a line to report; None: a task in the background reports itself."""
        session, place = self.session, entry.place
        if isinstance(place, int) and self._generation is None:
            return self._scene.show_number(place)
        if entry.kind == "capture":
            assert isinstance(place, Path)
            self._encode(entry, lambda: encode_capture(session, place, entry.name))
            return None
        if entry.kind == "room":
            assert isinstance(place, int)
            self._encode(entry, lambda: encode_room(session, place))
            return None
        assert self._generation is not None
        session.stop()
        self._generation.choose(OF_SCENE if entry.kind == "generate" else entry.name)
        with session.lock:
            if isinstance(place, int):
                self._scene.show_number(place)
            else:
                self._generation.generate()
        return f"generating from {entry.name}; the folder Generation shows the progress"

    def _encode(self, entry: Entry, encode: Callable[[], EncodedScene]) -> None:
        session = self.session

        def run(on_step: Callable[[int, int], None]) -> EncodedScene:
            on_step(0, 1)
            with session.evaluating(), torch.no_grad():
                return encode()

        def done(made: EncodedScene) -> str:
            made.display(session)
            session.ask_again()
            return f"encoded {entry.name} from {len(made.views.indices)} photographs"

        work = Work(run, session.lock, share=not session.trains, report=self.says, done=done, doing="encoding")
        session.start(work, f"encoding {entry.name}")


def thumbnail_url(picture: UInt8[Tensor, "3 h w"]) -> str:
    """The middle square of a picture at `TILE_SIDE` pixels, as a data URL."""
    image = Image.fromarray(picture.permute(1, 2, 0).numpy())
    small = ImageOps.fit(image, (TILE_SIDE, TILE_SIDE), Image.Resampling.LANCZOS)
    return Tile.url(encode_picture(pil_to_tensor(small), "JPEG"))


def first_picture(capture: Path) -> Path:
    """A picture of a capture folder. Raises DataError if there is none."""
    for folder in (capture / IMAGES, capture):
        files = sorted(folder.iterdir()) if folder.is_dir() else []
        for file in files:
            if file.suffix.lower() in PICTURES:
                return file
    raise DataError(f"no picture in {capture}")


def gallery_captures(run: Path) -> dict[str, Path]:
    """The captures that `scenetok gallery` has listed for a run: name -> folder; those that are gone are left out."""
    try:
        listed = json.loads((run / GALLERY).read_text("utf8"))
        return {str(name): Path(folder) for name, folder in listed.items() if Path(folder).is_dir()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
