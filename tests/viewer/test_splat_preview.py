"""A splat in the place of previews; gsplat is stood in for by the plain rasterizer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.small_runs import randomize, small_pipeline, write_small_re10k
from support.small_splats import blobs
from support.torch_rasterizer import rasterize
from support.viewer_threads import FakeViewer, pose

from scenetok_ns.models.depth_weights import DepthSource, new_depth_head
from scenetok_ns.splats.gaussians import save_splat
from scenetok_ns.splats.rasterizer import render_splat
from scenetok_ns.viewer import splat_preview as viewer_splat

PANEL = "SceneTok"


@pytest.fixture
def splat_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(viewer_splat, "require_gsplat", lambda: None)
    monkeypatch.setattr(
        viewer_splat, "render_splat", lambda gaussians, cameras, size: render_splat(gaussians, cameras, size, rasterize)
    )
    save_splat(blobs(20), tmp_path / "scene.ply")
    return tmp_path / "scene.ply"


def test_a_splat_is_drawn_while_moving_and_the_model_at_rest(tmp_path: Path, splat_file: Path) -> None:
    pipeline = small_pipeline(write_small_re10k(tmp_path / "re10k")).eval()
    randomize(pipeline)
    model = pipeline.model
    model.scenetok.depth = DepthSource(new_depth_head(model.preset, model.scenetok.denoiser).eval())
    renderer, panel = model.viewer_renderer, pipeline.get_submodule(PANEL)
    rest, moving = (replace(model.renderer.settings.sampler, steps=steps) for steps in (2, 1))
    renderer.settings = replace(renderer.settings, rest=rest, moving=moving, previous_views=0)
    sampled = []
    render_windows = model.scenetok.render_windows
    model.scenetok.render_windows = lambda *args, **options: (
        sampled.append(options["sampler"].steps) or render_windows(*args, **options)
    )
    viewer = FakeViewer(model)
    try:
        browser = viewer.connect()
        browser.look(pose())
        browser.at_rest()
        panel._splat_file.value = str(splat_file)
        assert "20 Gaussians" in panel._use_splat()
        sampled.clear()
        browser.look(pose(0.3))
        drawn = browser.wait(lambda: [shown for state, shown in list(browser.pictures) if state == "low_move"])[0]
        resting = browser.at_rest()
        assert sampled == [2]  # no preview was sampled
        height, width = drawn["rgb"].shape[:2]
        assert (height, width) == (32, 48) and drawn["depth"].shape == (32, 48, 1)
        assert drawn["rgb"].std() > 0.05 and not torch.equal(drawn["rgb"], resting)
        panel._no_splat()
        sampled.clear()
        browser.look(pose(0.6))
        browser.at_rest()
        assert sampled == [1, 2]
        panel._use_splat()
        pipeline.model.invalidate_caches()  # other weights, another scene
        sampled.clear()
        browser.look(pose(0.9))
        browser.at_rest()
        assert sampled == [1, 2]
    finally:
        viewer.close()


def test_files_that_are_no_splats_are_told_in_the_panel(tmp_path: Path, splat_file: Path) -> None:
    panel = small_pipeline(write_small_re10k(tmp_path / "re10k")).get_submodule(PANEL)
    panel._splat_file.value = str(tmp_path / "none.ply")
    panel._hook(panel._use_splat)(None)
    assert "no splat at" in panel._status.value
