"""Dataparser tokens-data: a file of scene tokens, opened as a scene without photographs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs

from scenetok_ns.data.scenes import DataError
from scenetok_ns.data.sources.token_file import TokenSource


@dataclass
class TokensDataParserConfig(DataParserConfig):
    """A scene as `scenetok encode` writes it. It can be rendered, but not used for training or comparison."""

    _target: type = field(default_factory=lambda: TokensDataParser)
    data: Path = Path("scene.safetensors")
    """File of scene tokens."""


@dataclass
class TokensDataParser(DataParser):
    config: TokensDataParserConfig

    def scene_source(self, split: str) -> TokenSource:
        """Open the scene. Raises DataError for the training split, and for files that cannot be read."""
        if split == "train":
            raise DataError("a token file holds no photographs to train on; give ns-train re10k-data, dl3dv-data, ...")
        return TokenSource(Path(self.config.data))

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: Any) -> DataparserOutputs:
        raise DataError("a token file works with the scenetok methods only: it holds no photographs")
