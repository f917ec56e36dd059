"""A token file is read as a scene without photographs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.scene_files import walk

from scenetok_ns.data.scenes import DataError
from scenetok_ns.data.sources.token_file import TokenSource
from scenetok_ns.models.tokens import SceneTokens


def write_tokens(path: Path, scene: str = "attic") -> SceneTokens:
    pose = torch.eye(4)
    pose[:3, 3] = torch.tensor([1.0, 2.0, 3.0])
    tokens = SceneTokens(mean=torch.randn(8, 4), reference_c2w=pose, preset="scenetok-tiny", scene=scene)
    tokens.save(path)
    return tokens


def test_the_scene_has_the_tokens_and_one_camera_at_their_reference(tmp_path: Path) -> None:
    written = write_tokens(tmp_path / "scene.safetensors")
    source = TokenSource(tmp_path / "scene.safetensors")
    assert source.keys == ["attic"] and torch.equal(source.tokens.mean, written.mean)
    scene = source.scene("attic")
    assert torch.equal(scene.c2w, written.reference_c2w[None])
    views = source.fixed_views(12)
    assert views.context.tolist() == views.target.tolist() == [0]
    picture = scene.load_views(views.context, (64, 64)).images
    assert picture.shape == (1, 3, 64, 64) and picture.min() == picture.max() == 128
    with pytest.raises(DataError, match="there is one scene, 'attic', not 'cellar'"):
        source.scene("cellar")


def test_the_cameras_of_the_photographs_are_shown(tmp_path: Path) -> None:
    lens = torch.diag(torch.tensor([0.7, 0.8, 1.0])).repeat(5, 1, 1)
    tokens = write_tokens(tmp_path / "scene.safetensors")
    replace(tokens, cameras_c2w=walk(5), cameras_intrinsics=lens).save(tmp_path / "scene.safetensors")
    source = TokenSource(tmp_path / "scene.safetensors")
    views = source.scene("attic").load_views(source.fixed_views(12).context, (32, 32))
    assert torch.equal(views.c2w, walk(5)) and torch.equal(views.intrinsics, lens) and len(views.images) == 5


def test_tokens_without_a_scene_name_are_called_after_their_file(tmp_path: Path) -> None:
    write_tokens(tmp_path / "garden.safetensors", scene="")
    assert TokenSource(tmp_path / "garden.safetensors").keys == ["garden"]


def test_unusable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.safetensors does not exist"):
        TokenSource(tmp_path / "nothing.safetensors")
    write_tokens(tmp_path / "scene.safetensors")
    whole = (tmp_path / "scene.safetensors").read_bytes()
    (tmp_path / "scene.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"scene\.safetensors cannot be read"):
        TokenSource(tmp_path / "scene.safetensors")
