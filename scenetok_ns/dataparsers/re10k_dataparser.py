"""Dataparser re10k-data: RealEstate10K and ACID."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from scenetok_ns.data.scenes import SceneSource
from scenetok_ns.data.sources.re10k import INDEX, RE10KSource
from scenetok_ns.dataparsers.scene_dataparser import SceneDataParser, SceneDataParserConfig


@dataclass
class Re10kDataParserConfig(SceneDataParserConfig):
    """RealEstate10K or ACID: .torch chunks and index.json in a folder for each split."""

    _target: type = field(default_factory=lambda: Re10kDataParser)
    data: Path = Path("data/re10k")
    """Folder with train/ and test/, each with .torch chunks, and index.json if there is one."""


@dataclass
class Re10kDataParser(SceneDataParser):
    config: Re10kDataParserConfig

    def open_folder(self, folder: Path) -> SceneSource:
        return RE10KSource(folder)

    def holds_scenes(self, folder: Path) -> bool:
        return (folder / INDEX).is_file() or any(folder.glob("*.torch"))
