"""Progress in the viewer: bars while a scene is encoded, and estimates while a picture is denoised."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support.viewer_threads import FakeViewer, pose
from torch import Tensor

from scenetok_ns.plugin.pipeline import SceneTokPipeline
from scenetok_ns.viewer import estimates, renderer
from scenetok_ns.viewer.encoding_progress import reported_encoding
from scenetok_ns.viewer.estimates import MOST, EstimateCost, Estimates
from scenetok_ns.viewer.message_picture import BAR, with_caption

STEPS = 6


@pytest.fixture
def pipeline(pipeline_of: Callable[..., SceneTokPipeline]) -> SceneTokPipeline:
    return pipeline_of(STEPS)


@pytest.fixture
def viewer(viewer: FakeViewer) -> FakeViewer:
    """Without depth, which estimates do not have."""
    viewer.control_panel.layer_depth = False
    return viewer


class Clock:
    """Replaces the module `time`; the test advances `now`."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_estimates_are_few_and_take_a_small_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """This holds whatever an estimate costs. A quick picture has no estimates."""
    clock = Clock()
    monkeypatch.setattr(estimates, "time", clock)
    for step, cost in ((0.05, 0.02), (1.0, 0.02), (1.0, 0.5), (0.01, 0.001), (60.0, 0.5)):
        shared, shown, spent = EstimateCost(), [], 0.0
        for _ in range(3):
            one, start = Estimates(shared, shown.append), clock.now
            before = len(shown)

            def frame(cost: float = cost) -> Tensor:
                clock.now += cost
                return torch.full((1, 3, 2, 2), 2.0)

            for _ in range(30):
                clock.now += step
                one.on_frame(frame)
            count = len(shown) - before
            spent += count * cost
            assert count <= MOST and count * cost <= 0.03 * (clock.now - start) + cost
            assert step < 0.02 or step * 30 * 0.03 < cost or count > 0
        assert all(float(picture.max()) == 1 for picture in shown)  # clamped to [0, 1]


def test_a_picture_is_shown_while_it_is_denoised(
    viewer: FakeViewer, pipeline: SceneTokPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Estimates approach the final picture, do not change it, and are not cached as views."""
    shown = pipeline.model.viewer_renderer
    browser = viewer.connect()
    browser.look(pose())
    browser.at_rest()
    browser.look(pose(0.3))
    alone = browser.at_rest()
    shown.views.clear()
    for name, value in (("PAUSE", 0.0), ("SHARE", 1e9)):
        monkeypatch.setattr(estimates, name, value)
    browser.look(pose(0.3))
    browser.wait(lambda: len(browser.pictures) == 2 + MOST)
    states, pictures = zip(*((state, outputs["rgb"]) for state, outputs in browser.pictures), strict=True)
    assert states == ("low_move", *["high"] * (MOST + 1))
    torch.testing.assert_close(pictures[-1], alone, rtol=0, atol=0)
    apart = [float((picture - alone).abs().mean()) for picture in pictures[1:]]
    assert apart[0] > apart[-2] > apart[-1] == 0
    torch.testing.assert_close(pictures[1], pictures[0], atol=1e-5, rtol=0)  # the first is the preview of one step
    assert len(shown.views) == 2  # preview and full picture
    browser.pictures.clear()
    shown.comparison.wanted = lambda: {"depth"}  # estimates have no depth
    browser.look(pose(0.4))
    browser.wait(lambda: len(browser.pictures) >= 2)
    assert [state for state, _ in browser.pictures] == ["low_move", "high"]


def test_an_encoding_reports_its_steps_in_order(pipeline: SceneTokPipeline) -> None:
    """It also leaves no hooks behind in the network."""
    model = pipeline.model
    compressor, steps = model.scenetok.compressor, []
    views = pipeline.datamanager.scenes.context_views(0)
    with reported_encoding(compressor, lambda done, total: steps.append((done, total))):
        tokens = model.renderer.tokens_from(views, 0)
    total = len(compressor.aggregate) + 1
    assert steps == [(done, total) for done in range(total + 1)]
    torch.testing.assert_close(model.renderer.tokens_from(views, 0).mean, tokens.mean, rtol=0, atol=0)
    assert len(steps) == total + 1 and not any(module._forward_hooks for module in compressor.modules())
    with pytest.raises(ZeroDivisionError), reported_encoding(compressor, lambda *step: steps.append(step)):
        raise ZeroDivisionError
    assert steps[-1] == (total, total)


def test_the_canvas_and_the_panel_show_how_far_an_encoding_is(
    viewer: FakeViewer, pipeline: SceneTokPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renderer, "ENCODING_PAUSE", 0.0)
    scene, reported = pipeline.model.viewer_renderer.scene, []
    scene.on_encoding = lambda done, total: reported.append(done / total)
    browser = viewer.connect()
    browser.look(pose())
    browser.wait(lambda: [1 for state, _ in browser.pictures if state == "high"] and scene.is_encoded)
    browser.wait(lambda: browser.pictures[-1][0] == "high" and reported[-1:] == [1.0] and len(browser.pictures) > 4)
    total = len(pipeline.model.scenetok.compressor.aggregate) + 1
    assert reported == [done / total for done in range(total + 1)]
    yellow = torch.tensor(BAR) / 255
    lengths = [
        int(((picture["rgb"][-1] - yellow).abs().max(dim=1).values < 0.01).sum()) for _, picture in browser.pictures
    ]
    width = browser.pictures[0][1]["rgb"].shape[1]
    bars = [round(width * done / total) for done in range(1, total)]
    assert [length for length in lengths if length] == bars
    browser.pictures.clear()
    browser.look(pose(0.1))
    browser.at_rest()
    assert len(reported) == total + 1  # once


@pytest.mark.parametrize("share", [None, 0.0, 0.25, 1.0, 7.0])
def test_a_caption_has_a_bar_for_a_share_of_work(share: float | None) -> None:
    picture = with_caption(torch.ones(200, 400, 3), "encoding", share)
    yellow = (picture[-1] - torch.tensor(BAR) / 255).abs().max(dim=1).values < 0.01
    wanted = round(400 * min(share or 0.0, 1.0))
    assert picture.shape == (200, 400, 3) and yellow[:wanted].all() and not yellow[wanted:].any()
