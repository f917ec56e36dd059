"""tokens-data opens a token file for rendering and refuses it for training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from scenetok_ns.data.scenes import DataError
from scenetok_ns.dataparsers.specifications import tokens_data
from scenetok_ns.dataparsers.tokens_dataparser import TokensDataParserConfig
from scenetok_ns.models.tokens import SceneTokens


def test_a_token_file_is_a_scene_to_show_but_not_to_train_on(tmp_path: Path) -> None:
    file = tmp_path / "scene.safetensors"
    SceneTokens(torch.randn(8, 4), torch.eye(4), preset="scenetok-tiny", scene="attic").save(file)
    assert isinstance(tokens_data.config, TokensDataParserConfig)
    parser = TokensDataParserConfig(data=file).setup()
    assert parser.scene_source("test").keys == parser.scene_source("val").keys == ["attic"]
    with pytest.raises(DataError, match="no photographs to train on"):
        parser.scene_source("train")
    with pytest.raises(DataError, match="scenetok methods only"):
        parser.get_dataparser_outputs("train")
