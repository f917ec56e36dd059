"""`scenetok export-splat` writes Gaussians and a report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.capture_files import write_demo_capture
from support.command_line import failure, scenetok
from support.torch_rasterizer import rasterize

from scenetok_ns.splats import fitting, rasterizer
from scenetok_ns.splats.gaussians import load_splat


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captures") / "attic"
    write_demo_capture(folder)
    return folder


def test_a_token_file_becomes_a_splat_with_a_report(
    capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rasterizer, "require_gsplat", lambda: None)
    monkeypatch.setattr(rasterizer, "gsplat_rasterize", rasterize)
    monkeypatch.setattr(fitting, "Relocation", lambda limit, iterations: None)
    tokens = tmp_path / "attic.safetensors"
    scenetok("encode", "--data", capture, "--output", tokens)
    few = ("--frames", 16, "--steps", 1, "--iterations", 2, "--gaussians", 40)
    scenetok("export-splat", "--tokens", tokens, "--output", tmp_path / "tokens.ply", *few)
    assert len(load_splat(tmp_path / "tokens.ply")) == 20  # the fit starts with half of the maximum
    report = json.loads((tmp_path / "tokens.json").read_text())
    assert report["views"] == 14 and report["held_out_views"] == 2 and report["scene"] == "attic"
    assert set(report) == {"scene", "gaussians", "views", "held_out_views", "seconds", "splat_against_renders"}
    scenetok("export-splat", "--data", capture, "--output", tmp_path / "photographs.ply", "--path", "orbit", *few)
    report = json.loads((tmp_path / "photographs.json").read_text())
    assert report["views"] == 16
    for name in ("splat_against_renders", "renders_against_photographs", "splat_against_photographs"):
        assert 3 < report[name]["psnr"] < 40 and -1 < report[name]["ssim"] < 1
    assert report["renders_against_photographs"]["psnr"] > report["splat_against_photographs"]["psnr"]


def test_what_is_refused_before_anything_is_rendered(
    capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "x.ply"
    assert "end in .ply" in failure("export-splat", "--data", capture, "--output", tmp_path / "x.splat")
    if not torch.cuda.is_available():
        assert "needs an NVIDIA GPU" in failure("export-splat", "--data", capture, "--output", out)
    monkeypatch.setattr(rasterizer, "require_gsplat", lambda: None)
    assert "--frames must be from 16 to 10000, got 3" in failure(
        "export-splat", "--data", capture, "--output", out, "--frames", 3
    )
    assert "at least 1" in failure("export-splat", "--data", capture, "--output", out, "--iterations", 0)
    assert "unknown path" in failure("export-splat", "--data", capture, "--output", out, "--path", "circle")
    for words in (("--data", capture), ("--scene", "x"), ("--num-context", 3), ("--pose-scale", 2)):
        said = failure("export-splat", "--tokens", out, "--output", out, *words)
        assert f"--tokens already gives the scene: leave out {words[0]}" in said
    said = failure(
        "export-splat", "--data", capture, "--output", out, "--path", capture / "transforms.json", "--frames", 20
    )
    assert "--frames only works with named paths" in said
    said = failure("export-dataset", "--data", capture, "--output", tmp_path / "small", "--size", 0)
    assert "--size must be at least 16" in said
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert "exists" in failure("export-dataset", "--data", capture, "--output", tmp_path / "full")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]
