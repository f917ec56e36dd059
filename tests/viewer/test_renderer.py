"""The viewer's render threads get previews, full pictures and one sample a pose, and never an exception."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from nerfstudio.cameras.cameras import CameraType
from nerfstudio.viewer.render_state_machine import GLOBAL_BUFFER, EventName
from nerfstudio.viewer.utils import get_camera
from support.viewer_threads import Browser, FakeViewer, pose

from scenetok_ns.models.depth_weights import DepthSource, new_depth_head
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.plugin.pipeline import SceneTokPipeline
from scenetok_ns.viewer import renderer as viewer_renderer

STEPS, PREVIEW = 3, 1


class Samplings:
    """Notes every diffusion sample: its steps, and how many clean views it went on from."""

    def __init__(self, pipeline: SceneTokPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[int] = []
        self.clean: list[int] = []
        self.fail: Exception | None = None
        self.pause: threading.Event | None = None
        scenetok = pipeline.model.scenetok
        render_windows = scenetok.render_windows

        def noted(*args: Any, **options: Any) -> Any:
            if self.fail is not None:
                raise self.fail
            self.steps.append(options["sampler"].steps)
            self.clean.append(0 if options.get("clean") is None else options["clean"].latents.shape[1])
            on_step = options["on_step"]

            def paused(done: int, total: int) -> None:
                if self.pause is not None and total == STEPS and done == 1:
                    assert self.pause.wait(60)
                on_step(done, total)

            return render_windows(*args, **{**options, "on_step": paused})

        monkeypatch.setattr(scenetok, "render_windows", noted)


@pytest.fixture
def pipeline(pipeline_of: Callable[..., SceneTokPipeline]) -> SceneTokPipeline:
    pipeline = pipeline_of(STEPS)
    networks = pipeline.model.scenetok
    networks.depth = DepthSource(new_depth_head(networks.preset, networks.denoiser).eval())
    return pipeline


@pytest.fixture
def samplings(pipeline: SceneTokPipeline, monkeypatch: pytest.MonkeyPatch) -> Samplings:
    return Samplings(pipeline, monkeypatch)


@pytest.fixture
def browser(viewer: FakeViewer, samplings: Samplings) -> Browser:
    del samplings  # before the first render
    browser = viewer.connect()
    browser.look(pose())
    browser.at_rest()
    return browser


def test_a_preview_comes_first_and_is_refined_without_waiting(browser: Browser, samplings: Samplings) -> None:
    """Both in one size, and each quality sampled and sent once, though the viewer asks three times."""
    samplings.steps.clear()
    browser.look(pose(0.3))
    browser.wait(lambda: len(browser.pictures) == 2)
    states, (preview, full) = zip(*browser.pictures, strict=True)
    assert states == ("low_move", "high") and samplings.steps == [PREVIEW, STEPS]
    assert preview["rgb"].shape == full["rgb"].shape == (32, 48, 3)
    assert not torch.equal(preview["rgb"], full["rgb"])
    browser.wait(lambda: browser.flushed == 2)  # neither waits for the viewer's server to send


def test_the_photograph_stands_there_until_the_scene_is_encoded(
    viewer: FakeViewer, pipeline: SceneTokPipeline, samplings: Samplings
) -> None:
    """Then comes the preview, then the full picture; and in a training, whose weights change, no photograph again."""
    scenes = pipeline.datamanager.scenes
    browser = viewer.connect()
    browser.look(pose())
    browser.wait(lambda: len(browser.pictures) == 3)
    assert [state for state, _ in browser.pictures] == ["low_move", "low_move", "high"]
    waiting, preview = (outputs["rgb"] for _, outputs in browser.pictures[:2])
    photograph = scenes.context_views(0).images[0].permute(1, 2, 0).float() / 255
    assert (waiting[:20, 8:40] - photograph[:20]).abs().mean() < 0.01 and samplings.steps == [PREVIEW, STEPS]
    assert (waiting - preview).abs().mean() > 0.05
    browser.pictures.clear()
    pipeline.model.invalidate_caches()
    browser.look(pose(0.1))
    browser.wait(lambda: len(browser.pictures) == 2)
    assert [state for state, _ in browser.pictures] == ["low_move", "high"]


def test_the_first_picture_of_a_browser_is_as_large_as_the_others_after_slow_renders(
    viewer: FakeViewer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The viewer shrinks moving pictures by the speed that it noted, which a training run notes."""
    slow = {"events": {EventName.VIS_RAYS_PER_SEC.value: {"buffer": [1.0], "avg": 1.0}}, "max_buffer_size": 20}
    for key, value in slow.items():
        monkeypatch.setitem(GLOBAL_BUFFER, key, value)
    browser = viewer.connect()
    browser.look(pose())
    browser.wait(lambda: len(browser.pictures) >= 2)
    assert [outputs["rgb"].shape for _, outputs in browser.pictures[:2]] == [(32, 48, 3)] * 2


def test_pictures_change_when_they_should_and_only_then(
    viewer: FakeViewer, browser: Browser, samplings: Samplings, pipeline: SceneTokPipeline
) -> None:
    renderer = pipeline.model.viewer_renderer
    browser.look(pose(0.2))
    first = browser.at_rest()
    browser.look(pose(0.4))
    assert not torch.equal(browser.at_rest(), first)
    samplings.steps.clear()
    browser.look(pose(0.2))  # back again: known, and at full quality from the first moment
    assert torch.equal(browser.at_rest(), first) and samplings.steps == []
    browser.look(pose(0.2, 1e-8))  # as a browser sends back what the viewer has set
    assert torch.equal(browser.at_rest(), first) and samplings.steps == []
    viewer.control_panel.max_res = 96
    browser.look(pose(0.2))
    assert browser.at_rest().shape == (64, 96, 3) and samplings.steps == []
    for change in ({"seed": 5}, {"num_tokens": 2}):
        before = renderer.settings
        renderer.settings = replace(before, **change)
        browser.look(pose(0.2))
        assert not torch.equal(browser.at_rest(), first)
        renderer.settings = before
    viewer.control_panel.max_res = 48
    browser.look(pose(0.2))
    assert torch.equal(browser.at_rest(), first)
    browser.look(pose(0.2), fov=0.8)
    assert not torch.equal(browser.at_rest(), first)


@pytest.mark.parametrize("wide", ["border", "fill"])
@pytest.mark.parametrize("aspect", [1.5, 1.0, 0.6])
def test_the_viewer_shows_what_ns_render_renders(
    browser: Browser, pipeline: SceneTokPipeline, wide: str, aspect: float
) -> None:
    model = pipeline.model
    settings = replace(model.viewer_renderer.settings, wide=wide)
    tools = replace(model.renderer.settings, wide=wide, sampler=settings.rest)
    model.viewer_renderer.settings = settings
    browser.look(pose(0.1, 0.2), aspect=aspect)
    shown = browser.at_rest()
    camera = get_camera(browser.view, *shown.shape[:2])  # what a camera path's entry of that size becomes
    torch.testing.assert_close(replace(model.renderer, settings=tools).outputs(camera)["rgb"], shown)
    assert (shown.std(dim=(0, 1)) > 0).all()


def test_views_go_on_from_those_before(
    browser: Browser, samplings: Samplings, pipeline: SceneTokPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SceneTok, "streams", False)
    renderer = pipeline.model.viewer_renderer
    browser.look(pose(0.1))
    alone = browser.at_rest()
    renderer.settings = replace(renderer.settings, previous_views=1)
    samplings.clean.clear()
    for turn in (0.0, 0.1, 2.5):
        browser.look(pose(turn))
        last = browser.at_rest()
        if turn == 0.1:
            assert not torch.equal(last, alone)
    # Preview and full picture go on from the same view; the first has none, the last none that looks its way.
    assert samplings.clean == [0, 0, 1, 1, 0, 0]


def test_a_moving_camera_gets_its_pictures_from_the_stream(
    browser: Browser, samplings: Samplings, pipeline: SceneTokPipeline
) -> None:
    renderer = pipeline.model.viewer_renderer
    renderer.settings = replace(renderer.settings, previous_views=1)
    samplings.steps.clear()
    browser.look(pose(0.3))
    browser.wait(lambda: len(browser.pictures) == 2)
    (moving, preview), (rest, full) = browser.pictures
    assert (moving, rest) == ("low_move", "high") and samplings.steps == [STEPS]
    assert preview["rgb"].shape == full["rgb"].shape and not torch.equal(preview["rgb"], full["rgb"])
    # A new stream through the same view renders the same picture; another seed starts another stream.
    networks, tokens = pipeline.model.scenetok, renderer.scene.current().tokens
    last, stream = renderer.stream._last, renderer.stream._stream
    assert last is not None
    expected = networks.open_stream(tokens, seed=renderer.settings.seed).next(last.camera).frames[0, -1]
    torch.testing.assert_close(last.picture, expected)
    browser.look(pose(0.4))
    browser.wait(lambda: renderer.stream._last is not last)
    assert renderer.stream._stream is stream
    renderer.settings = replace(renderer.settings, seed=7)
    browser.look(pose(0.5))
    browser.wait(lambda: renderer.stream._stream is not stream)


def test_an_error_is_shown_and_the_viewer_goes_on(browser: Browser, samplings: Samplings) -> None:
    browser.look(pose(0.2))
    good = browser.at_rest()
    samplings.fail = torch.OutOfMemoryError("CUDA out of memory")
    browser.look(pose(0.3))
    bad = browser.at_rest()
    assert bad[0, 0].tolist() == pytest.approx([70 / 255, 10 / 255, 10 / 255]) and bad.std() > 0.01
    browser.look(pose(0.3), camera_type=CameraType.FISHEYE)
    assert torch.equal(browser.at_rest()[0, 0], bad[0, 0])
    samplings.fail = None
    browser.look(pose(0.2), camera_type=CameraType.PERSPECTIVE)
    assert torch.equal(browser.at_rest(), good)


def test_all_outputs_are_there_in_any_case(browser: Browser, samplings: Samplings) -> None:
    """Without depth the stock viewer's thread ends."""
    for fail in (None, ValueError("no")):
        samplings.fail = fail
        browser.look(pose(0.2 if fail else 0.3))
        browser.wait(lambda: [1 for state, _ in browser.pictures if state == "high"])
        for _, outputs in browser.pictures:
            assert outputs["rgb"].shape == (32, 48, 3)
            assert outputs["photograph"].shape == (32, 48, 3)
            for name in ("depth", "accumulation", "uncertainty", "difference"):
                assert outputs[name].shape == (32, 48, 1)
            shades = outputs["depth"]
            assert (shades == 0).all() if fail else shades.min() == 0 and shades.max() == 1
            assert (shades[:, :8] == 0).all() and (shades[:, 40:] == 0).all()  # beside the square
        browser.pictures.clear()


def test_without_a_head_depth_is_swept_when_it_is_read(
    pipeline: SceneTokPipeline, browser: Browser, samplings: Samplings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stand-in for a browser reads it, as the viewer does where it composes; previews have a far plane."""
    monkeypatch.setattr(pipeline.model.scenetok, "depth", DepthSource())
    samplings.steps.clear()
    browser.look(pose(0.3))
    browser.wait(lambda: len(browser.pictures) == 2)
    preview, full = (outputs["depth"] for _, outputs in browser.pictures)
    inside = full[:, 8:40]  # the square of 32 x 48 pixels
    assert (preview == 0).all() and 0 <= inside.min() < inside.max() == 1
    assert samplings.steps == [PREVIEW, STEPS, STEPS]  # the last is of the views around
    monkeypatch.setattr(viewer_renderer, "sweep_views", lambda *args, **options: 1 / 0)
    browser.pictures.clear()
    browser.look(pose(0.4))
    browser.wait(lambda: len(browser.pictures) == 2)
    assert (browser.pictures[-1][1]["depth"] == 0).all()


def test_uncertainty_of_a_single_step_is_the_spread_of_seeds_and_that_of_ns_render(
    browser: Browser, pipeline: SceneTokPipeline, samplings: Samplings
) -> None:
    """It is rendered only while displayed, from two seeds while the camera moves, and once for each view."""
    model, many = pipeline.model, []
    renderer = model.viewer_renderer
    one = replace(renderer.settings.rest, steps=1)
    renderer.settings = replace(renderer.settings, rest=one, moving=one)
    render_many = model.scenetok.render_many

    def noted(*args: Any, **options: Any) -> Any:
        many.append(options["seeds"])
        return render_many(*args, **options)

    model.scenetok.render_many = noted  # type: ignore[method-assign]
    browser.look(pose(0.1))
    browser.at_rest()
    assert [len(seeds) for seeds in many] == [1]  # the picture alone
    renderer.comparison.wanted = lambda: {"uncertainty"}
    browser.look(pose(0.2))
    browser.wait(lambda: len(browser.pictures) == 2)
    moving, rest = (outputs["uncertainty"] for _, outputs in browser.pictures)
    assert many[1:] == [[0], [0, 1], [0, 1, 2, 3]]
    camera = get_camera(browser.view, *rest.shape[:2])
    tools = replace(model.renderer, settings=replace(model.renderer.settings, sampler=one))
    torch.testing.assert_close(tools.outputs(camera)["uncertainty"], rest, atol=1e-4, rtol=1e-4)
    assert rest[:, 8:40].std() > 0 and not torch.equal(moving, rest)
    browser.pictures.clear()
    many.clear()
    browser.look(pose(0.2, 1e-8))
    browser.at_rest()
    assert many == []


def test_a_move_ends_the_full_picture_between_steps(browser: Browser, samplings: Samplings) -> None:
    samplings.steps.clear()
    samplings.pause = threading.Event()
    browser.look(pose(0.2))
    browser.wait(lambda: samplings.steps == [PREVIEW, STEPS])
    browser.look(pose(0.4))
    pause, samplings.pause = samplings.pause, None
    pause.set()
    browser.at_rest()
    assert samplings.steps == [PREVIEW, STEPS, PREVIEW, STEPS]
    browser.look(pose(0.2))
    browser.at_rest()
    assert samplings.steps[4:] == [STEPS]  # its preview was there, the other was given up


def test_the_panel_ends_the_picture_at_work(
    browser: Browser, samplings: Samplings, viewer: FakeViewer, pipeline: SceneTokPipeline
) -> None:
    """A hook waits for the lock that a render holds."""
    samplings.steps.clear()
    samplings.pause = threading.Event()
    browser.look(pose(0.2))
    browser.wait(lambda: samplings.steps == [PREVIEW, STEPS])
    pipeline.model.viewer_renderer.interrupt()
    pause, samplings.pause = samplings.pause, None
    pause.set()
    assert viewer.train_lock.acquire(timeout=60)
    viewer.train_lock.release()
    assert [state for state, _ in browser.pictures] == ["low_move"]
    browser.look(pose(0.2))  # as the viewer asks again after every hook
    browser.at_rest()
    assert samplings.steps == [PREVIEW, STEPS, STEPS]


def test_a_full_picture_gives_way_to_the_preview_of_another_browser(
    browser: Browser, samplings: Samplings, viewer: FakeViewer
) -> None:
    other = viewer.connect()
    other.look(pose())
    other.at_rest()
    samplings.steps.clear()
    samplings.pause = threading.Event()
    browser.look(pose(0.2))
    browser.wait(lambda: samplings.steps == [PREVIEW, STEPS])
    other.look(pose(0.4))
    other.wait(lambda: other.state == "low_move")
    pause, samplings.pause = samplings.pause, None
    pause.set()
    other.at_rest()
    browser.at_rest()
    assert samplings.steps[:3] == [PREVIEW, STEPS, PREVIEW] and samplings.steps.count(PREVIEW) == 2


def test_memory_is_bounded(browser: Browser, pipeline: SceneTokPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scenetok_ns.viewer.view_cache.KEPT", 4)
    for index in range(4):
        browser.look(pose(0.1 * index))
        browser.at_rest()
    assert len(pipeline.model.viewer_renderer.views) == 4
