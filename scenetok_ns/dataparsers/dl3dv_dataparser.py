"""Dataparser dl3dv-data: DL3DV, or any folder of scenes with transforms.json."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from scenetok_ns.data.scenes import SceneSource
from scenetok_ns.data.sources.dl3dv import DL3DVSource, home_of_scene, scenes_in
from scenetok_ns.dataparsers.scene_dataparser import SceneDataParser, SceneDataParserConfig


@dataclass
class Dl3dvDataParserConfig(SceneDataParserConfig):
    """DL3DV: a folder for each scene with transforms.json and images_4 or images_8."""

    _target: type = field(default_factory=lambda: Dl3dvDataParser)
    data: Path = Path("data/dl3dv")
    """Folder with train/ and test/, or with scenes (or folders of scenes, such as 1K to 11K), or a single scene."""
    image_folder: str | None = None
    """Folder with the images of each scene; None: the first of images_4, images_8, images_2, images."""


@dataclass
class Dl3dvDataParser(SceneDataParser):
    config: Dl3dvDataParserConfig

    def open_folder(self, folder: Path) -> SceneSource:
        return DL3DVSource(folder, self.config.image_folder)

    def holds_scenes(self, folder: Path) -> bool:
        splits = {"train", "val", "test", self.config.train_split, self.config.eval_split}
        inside = (path for path in folder.iterdir() if path.is_dir() and path.name not in splits)
        return home_of_scene(folder) is not None or any(scenes_in(path).homes for path in inside)
