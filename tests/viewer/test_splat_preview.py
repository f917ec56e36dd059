"""A splat is displayed instead of previews. The plain rasterizer stands in for gsplat."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import mediapy
import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from support.small_runs import randomize, small_pipeline, write_small_re10k
from support.small_splats import blobs
from support.torch_rasterizer import rasterize
from support.viewer_threads import FakeViewer, pose

from scenetok_ns.data.poses import flip_axes
from scenetok_ns.data.scenes import DataError
from scenetok_ns.models.depth_weights import DepthSource, new_depth_head
from scenetok_ns.plugin.pipeline import SceneTokPipeline
from scenetok_ns.splats.gaussians import save_splat
from scenetok_ns.splats.rasterizer import render_splat
from scenetok_ns.tools.ffmpeg import put_ffmpeg_on_path
from scenetok_ns.viewer import splat_preview as viewer_splat
from scenetok_ns.viewer.video_part import JOINTLY, SPLAT, render_video
from scenetok_ns.viewer.viewer_files import ViewerFiles

PANEL = "SceneTok"


@pytest.fixture
def splat_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(viewer_splat, "require_gsplat", lambda: None)
    monkeypatch.setattr(
        viewer_splat, "render_splat", lambda gaussians, cameras, size: render_splat(gaussians, cameras, size, rasterize)
    )
    (tmp_path / "viewer").mkdir()
    save_splat(blobs(20), tmp_path / "viewer" / "scene.ply")
    return tmp_path / "viewer" / "scene.ply"


def files_of(pipeline: SceneTokPipeline, run: Path) -> Any:
    """The folder of files in the panel of a viewer that is open on `run`."""
    panel = pipeline.get_submodule(PANEL)
    panel.session.files = ViewerFiles(run)
    return panel.part("Tokens and files")


def test_a_splat_is_drawn_while_moving_and_the_model_at_rest(tmp_path: Path, splat_file: Path) -> None:
    pipeline = small_pipeline(write_small_re10k(tmp_path / "re10k")).eval()
    randomize(pipeline)
    model = pipeline.model
    model.scenetok.depth = DepthSource(new_depth_head(model.preset, model.scenetok.denoiser).eval())
    renderer, panel = model.viewer_renderer, files_of(pipeline, tmp_path)
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
        panel.splat.value = splat_file.name
        assert "20 Gaussians" in panel.use_splat()
        sampled.clear()
        browser.look(pose(0.3))
        drawn = browser.wait(lambda: [shown for state, shown in list(browser.pictures) if state == "low_move"])[0]
        resting = browser.at_rest()
        assert sampled == [2]  # no preview was sampled
        height, width = drawn["rgb"].shape[:2]
        assert (height, width) == (32, 48) and drawn["depth"].shape == (32, 48, 1)
        assert drawn["rgb"].std() > 0.05 and not torch.equal(drawn["rgb"], resting)
        panel.no_splat()
        sampled.clear()
        browser.look(pose(0.6))
        browser.at_rest()
        assert sampled == [1, 2]
        panel.use_splat()
        pipeline.model.invalidate_caches()  # other weights, another scene
        sampled.clear()
        browser.look(pose(0.9))
        browser.at_rest()
        assert sampled == [1, 2]
    finally:
        viewer.close()


def test_files_that_are_no_splats_are_told_in_the_panel(tmp_path: Path, splat_file: Path) -> None:
    pipeline = small_pipeline(write_small_re10k(tmp_path / "re10k"))
    panel = files_of(pipeline, tmp_path)
    (tmp_path / "outside.ply").write_bytes(splat_file.read_bytes())
    (tmp_path / "viewer" / "text.ply").write_text("no splat")
    for name, said in (("none.ply", "there is no none.ply"), ("../outside.ply", "bare name"), ("text.ply", "splat")):
        panel.splat.value = name
        panel.does(panel.use_splat)(None)
        assert said in panel.folder.status.value


def test_a_video_shows_the_splat_that_is_in_use_with_the_whole_of_its_frame(tmp_path: Path, splat_file: Path) -> None:
    pipeline = small_pipeline(write_small_re10k(tmp_path / "re10k")).eval()
    randomize(pipeline)
    files = files_of(pipeline, tmp_path)
    video, session = pipeline.get_submodule(PANEL).part("Video"), pipeline.get_submodule(PANEL).session
    video.source.value, video.frames.value, video.width.value, video.height.value = SPLAT, 3, 64, 32
    with pytest.raises(DataError, match="press Use splat"):
        video.request(tmp_path / "none")
    files.splat.value = splat_file.name
    files.use_splat()
    request = video.request(tmp_path / "made")
    assert request.command == "" and request.is_splat
    steps = []
    put_ffmpeg_on_path()
    render_video(session, request, lambda done, total: steps.append((done, total)))
    frames = mediapy.read_video(request.video)
    assert frames.shape == (3, 32, 64, 3) and steps == [(0, 3), (1, 3), (2, 3)]
    version = session.shown.current().version
    for number, (frame, picture) in enumerate(zip(frames, session.view.splat.along(request.path), strict=True)):
        focal = 16 / math.tan(math.radians(request.path.fields_of_view[number]) / 2)
        c2w = flip_axes(request.path.c2w[number : number + 1])[:, :3]
        drawn = session.view.splat.picture(Cameras(c2w, focal, focal, 32.0, 16.0, 64, 32), version)
        torch.testing.assert_close(picture[0].permute(1, 2, 0), drawn, atol=1e-5, rtol=1e-3)
        assert drawn.std() > 1e-3 and np.abs(frame - 255 * drawn.numpy()).mean() < 6  # the codec's share
    video.source.value = JOINTLY
    assert not video.request(tmp_path / "joint").is_splat
