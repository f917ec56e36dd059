"""scenetok splat and export-dataset on the smallest model; gsplat is stood in for by the plain rasterizer."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from support.capture_files import write_demo_capture
from support.torch_rasterizer import rasterize

from scenetok_ns.cli.main import entrypoint
from scenetok_ns.cli.run_options import set_num_context, set_pose_scale
from scenetok_ns.dataparsers.tokens_dataparser import TokensDataParserConfig
from scenetok_ns.plugin.pipeline import SceneTokPipelineConfig
from scenetok_ns.plugin.refinement import RefinePipelineConfig
from scenetok_ns.rendering.views import held_out_photographs
from scenetok_ns.splats import fitting, rasterizer
from scenetok_ns.splats.gaussians import load_splat


def scenetok(command: str, *words: Any) -> None:
    entrypoint([command, *map(str, words)])


def failure(command: str, *words: Any) -> str:
    with pytest.raises(SystemExit) as stop:
        scenetok(command, *words)
    return str(stop.value.code)


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captures") / "attic"
    write_demo_capture(folder)
    return folder


def test_a_capture_becomes_a_data_set_in_its_own_world(capture: Path, tmp_path: Path) -> None:
    few = ("--views", 16, "--steps", 1, "--size", 100)
    scenetok("export-dataset", "--data", capture, "--output", tmp_path / "out", *few)
    made = json.loads((tmp_path / "out" / "transforms.json").read_text())
    for frame in (made["frames"][0], made["frames"][-1]):
        with Image.open(tmp_path / "out" / frame["file_path"]) as picture:
            assert picture.size == (100, 100) == (frame["w"], frame["h"]) and abs(frame["cx"] - 50) < 10
    taken = json.loads((capture / "transforms.json").read_text())
    assert len(made["train_filenames"]) == 16 and made["test_filenames"] == made["val_filenames"]
    photographs = {frame["file_path"]: torch.tensor(frame["transform_matrix"]) for frame in taken["frames"]}
    rendered = {frame["file_path"]: torch.tensor(frame["transform_matrix"]) for frame in made["frames"]}
    assert set(rendered) == {*made["train_filenames"], *made["test_filenames"]}
    for name in made["test_filenames"]:  # the photographs that were not encoded, at their poses
        assert min((rendered[name] - pose).abs().max() for pose in photographs.values()) < 1e-2
    centres, path = (torch.stack([pose[:3, 3] for pose in poses.values()]) for poses in (photographs, rendered))
    assert (path.mean(0) - centres.mean(0)).norm() < 0.5 * (centres - centres.mean(0)).norm(dim=1).max()


def test_a_token_file_becomes_a_splat_with_a_report(
    capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rasterizer, "require_gsplat", lambda: None)
    monkeypatch.setattr(rasterizer, "gsplat_rasterize", rasterize)
    monkeypatch.setattr(fitting, "Relocation", lambda limit, iterations: None)
    tokens = tmp_path / "attic.safetensors"
    scenetok("encode", "--data", capture, "--output", tokens)
    few = ("--views", 16, "--steps", 1, "--iterations", 2, "--gaussians", 40)
    scenetok("splat", "--tokens", tokens, "--output", tmp_path / "tokens.ply", *few)
    assert len(load_splat(tmp_path / "tokens.ply")) == 20  # half of what may become of them
    report = json.loads((tmp_path / "tokens.json").read_text())
    assert report["views"] == 14 and report["held_out_views"] == 2 and report["scene"] == "attic"
    assert set(report) == {"scene", "gaussians", "views", "held_out_views", "seconds", "splat_against_renders"}
    scenetok("splat", "--data", capture, "--output", tmp_path / "photographs.ply", "--path", "orbit", *few)
    report = json.loads((tmp_path / "photographs.json").read_text())
    assert report["views"] == 16
    for name in ("splat_against_renders", "renders_against_photographs", "splat_against_photographs"):
        assert 3 < report[name]["psnr"] < 40 and -1 < report[name]["ssim"] < 1
    assert report["renders_against_photographs"]["psnr"] > report["splat_against_photographs"]["psnr"]


def test_what_is_refused_before_anything_is_rendered(
    capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "x.ply"
    assert "end in .ply" in failure("splat", "--data", capture, "--output", tmp_path / "x.splat")
    if not torch.cuda.is_available():
        assert "needs an NVIDIA GPU" in failure("splat", "--data", capture, "--output", out)
    monkeypatch.setattr(rasterizer, "require_gsplat", lambda: None)
    assert "--views must be at least 16" in failure("splat", "--data", capture, "--output", out, "--views", 3)
    assert "at least 1" in failure("splat", "--data", capture, "--output", out, "--iterations", 0)
    assert "unknown path" in failure("splat", "--data", capture, "--output", out, "--path", "circle")
    for words in (("--data", capture), ("--scene", "x"), ("--num-context", 3), ("--pose-scale", 2)):
        said = failure("splat", "--tokens", out, "--output", out, *words)
        assert f"--tokens are scenes without photographs: leave out {words[0]}" in said
    said = failure("splat", "--data", capture, "--output", out, "--path", capture / "transforms.json", "--views", 20)
    assert "--views is for paths by name" in said
    said = failure("export-dataset", "--data", capture, "--output", tmp_path / "small", "--size", 0)
    assert "--size must be at least 16" in said
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert "exists" in failure("export-dataset", "--data", capture, "--output", tmp_path / "full")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]


@pytest.mark.parametrize("option", [set_num_context, set_pose_scale])
def test_options_of_encoding_are_refused_where_tokens_are_there_already(option: Any) -> None:
    refined: Any = SimpleNamespace(pipeline=RefinePipelineConfig())
    with pytest.raises(ValueError, match="would change nothing: this run has refined tokens"):
        option(refined, 2)
    stored: Any = SimpleNamespace(pipeline=SceneTokPipelineConfig())
    stored.pipeline.datamanager.dataparser = TokensDataParserConfig(data=Path("scene.safetensors"))
    with pytest.raises(ValueError, match="would change nothing: this run shows a token file"):
        option(stored, 2)
    for unasked in (refined, stored):
        option(unasked, None)


def test_no_context_view_is_held_out_and_not_too_many_are() -> None:
    """Published evaluation indices count context views among the targets."""
    shown: Any = SimpleNamespace(context=torch.tensor([0, 4, 8]), target=torch.arange(10))
    assert held_out_photographs(shown) == [1, 2, 3, 5, 6, 7, 9]
    many: Any = SimpleNamespace(context=torch.tensor([0]), target=torch.arange(500))
    chosen = held_out_photographs(many)
    assert len(set(chosen)) == 48 and chosen[0] == 1 and chosen[-1] == 499
