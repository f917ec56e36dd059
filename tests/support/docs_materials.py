"""Materials for the commands of the docs: small data sets, runs and files, created where a page needs them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from support.room_pictures import walk, write_photographs

from scenetok_ns.cli.main import entrypoint
from scenetok_ns.data.anchors import trajectory
from scenetok_ns.data.camera_path_files import write_camera_path
from scenetok_ns.data.demo.writer import write_demo_data

FRAMES = 20
"""Number of frames of a scene: 12 context views and 8 others."""


class Materials:
    """Creates materials by name. Data sets are created once and copied."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self.makers: dict[str, Callable[[Path], None]] = {
            "rooms": lambda path: self._copy("re10k", path),
            "rooms in DL3DV's layout": lambda path: self._copy("dl3dv", path),
            "capture": self._capture,
            "photographs": self._photographs,
            "photograph": self._photograph,
            "camera path": self._camera_path,
            "evaluation index": self._evaluation_index,
            "tokenizer run": self._tokenizer,
            "generator run": self._generator,
            "token file": self._tokens,
        }

    def make(self, name: str, path: Path) -> None:
        if name not in self.makers:
            raise ValueError(f"no material {name!r}; there are {', '.join(self.makers)}")
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            self.makers[name](path)

    def data(self, layout: str = "re10k") -> Path:
        folder = self.store / layout
        if not folder.exists():
            write_demo_data(folder, layout, {"train": 2, "test": 2}, FRAMES, 128, 0)  # type: ignore[arg-type]
        return folder

    def _copy(self, layout: str, path: Path) -> None:
        shutil.copytree(self.data(layout), path)

    def _scene(self) -> Path:
        """A scene in DL3DV's layout: a folder with transforms.json and pictures."""
        return next((self.data("dl3dv") / "test").glob("*/nerfstudio"))

    def _capture(self, path: Path) -> None:
        """Create a capture as ns-process-data writes it."""
        shutil.copytree(self._scene(), path)
        pictures = next(path.glob("images*"))
        transforms = json.loads((path / "transforms.json").read_text())
        with Image.open(next(pictures.iterdir())) as picture:
            factor = picture.width / transforms["w"]
        for name in ("w", "h", "fl_x", "fl_y", "cx", "cy"):
            transforms[name] *= factor
        transforms["w"], transforms["h"] = round(transforms["w"]), round(transforms["h"])
        (path / "transforms.json").write_text(json.dumps(transforms))
        if pictures.name != "images":
            pictures.rename(path / "images")

    def _photographs(self, path: Path) -> None:
        """Create photographs of a walk through a room, without poses."""
        write_photographs(path, walk(9))

    def _photograph(self, path: Path) -> None:
        with Image.open(next(self._scene().glob("images*/*"))) as picture:
            exif = Image.Exif()
            exif.get_ifd(0x8769)[0xA405] = 35  # 35 mm equivalent focal length
            picture.convert("RGB").resize((192, 144)).save(path, exif=exif)

    def _camera_path(self, path: Path) -> None:
        write_camera_path(path, trajectory("forward")[:8], 60.0, 128)

    def _evaluation_index(self, path: Path) -> None:
        scenes = json.loads((self.data() / "test" / "index.json").read_text())
        views = {"context": list(range(0, FRAMES, 2)), "target": [1, 3, 5]}
        path.write_text(json.dumps({key: views for key in scenes}))

    def _tokenizer(self, path: Path) -> None:
        _scenetok("open", "scenetok-tiny", "--data", self.data(), "--steps", 1, "--output", path)

    def _generator(self, path: Path) -> None:
        words = ("--data", self.data(), "--steps", 1, "--scene-steps", 2, "--output", path)
        _scenetok("open", "scenegen-tiny", *words)

    def _tokens(self, path: Path) -> None:
        _scenetok("encode", "--run", "scenetok-tiny", "--data", self.data(), "--output", path)


def _scenetok(*words: object) -> None:
    entrypoint(list(map(str, words)))
