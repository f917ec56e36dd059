"""Names of token files, and folders in which a run folder for a token file may be created."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

from scenetok_ns.bridge.run_configs import read_run
from scenetok_ns.cli.token_files import check_token_file, is_free, write_tokens
from scenetok_ns.models.presets import load_preset
from scenetok_ns.models.tokens import SceneTokens


def test_names_of_token_files() -> None:
    check_token_file(Path("a.safetensors"))
    with pytest.raises(ValueError, match=r"--output: token files end in \.safetensors, got a\.pt"):
        check_token_file(Path("a.pt"))


def test_a_run_folder_is_replaced_only_by_one_for_the_same_file(tmp_path: Path) -> None:
    size = load_preset("scenetok-tiny").compressor
    tokens = SceneTokens(torch.randn(size.num_tokens, size.token_dim), torch.eye(4), preset="scenetok-tiny")
    console = Console(file=StringIO(), width=1000)
    output, run = tmp_path / "scene.safetensors", Path("scenetok-tiny")
    assert is_free(tmp_path / "scene", output)
    for _ in range(2):  # the second time, it replaces its own folder
        write_tokens(tokens, output, "float32", run, console, run_folder=True)
        assert read_run(tmp_path / "scene").data == output
        assert is_free(tmp_path / "scene", output) and not is_free(tmp_path / "scene", tmp_path / "other.safetensors")
    assert console.file.getvalue().count("scene is ready:") == 2

    (tmp_path / "scene" / "precious").touch()
    write_tokens(tokens, output, "float32", run, console, run_folder=True)
    said = console.file.getvalue()
    assert "is not free" in said and f"scenetok new-run scenetok-tiny --tokens {output} --output RUN2" in said
    assert (tmp_path / "scene" / "precious").exists()
    (tmp_path / "file").touch()
    assert not is_free(tmp_path / "file", output)
