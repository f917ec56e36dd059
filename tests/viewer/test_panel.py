"""The panel through the viewer's own server: what a browser would send, and what comes of it."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.viewer.utils import parse_object
from nerfstudio.viewer.viewer_elements import ViewerControl
from PIL import Image
from support.small_runs import GENERATOR, IMAGE_SIZE, NUM_CONTEXT, small_pipeline
from support.viewer_panel import Panel, Picture
from viewer_client import MOVING

from scenetok_ns.data.anchors import home_pose, trajectory
from scenetok_ns.data.camera_path_files import write_camera_path
from scenetok_ns.models.presets import Preset
from scenetok_ns.models.tokens import SceneTokens
from scenetok_ns.viewer.generation import from_pose
from scenetok_ns.viewer.shown_scene import ShownScene
from scenetok_ns.viewer.view_part import ViewPart


@pytest.fixture
def panel(data: Path, tmp_path: Path) -> Iterator[Panel]:
    panel = Panel(small_pipeline(data).eval(), tmp_path)
    yield panel
    panel.close()


@pytest.fixture
def generator(data: Path, tmp_path: Path) -> Iterator[Panel]:
    panel = Panel(small_pipeline(data, preset=GENERATOR).eval(), tmp_path)
    panel.wait(lambda: panel.says("Generation").startswith("generated"))
    panel.client.look((0.0, 0.0, 0.0), aspect=1.0)
    panel.picture = panel.at_rest()
    yield panel
    panel.close()


def quality(message: dict[str, Any]) -> int:
    """The first number of a JPEG's table of quantisation."""
    return Image.open(io.BytesIO(message["rgb_bytes"])).quantization[0][0]


def changed(a: Picture, b: Picture) -> bool:
    return a.shape != b.shape or np.abs(a.astype(float) - b).mean() > 0.5


def test_depth_is_sent_along_where_it_is_composed(panel: Panel) -> None:
    """It takes longer than the picture, so it is off at first."""
    panel.client.look((0.0, 0.0, 0.5), aspect=1.0)
    messages = panel.background(lambda message: quality(message) < MOVING)
    assert [message["depth_bytes"] for message in messages] == [None] * len(messages)
    panel.viewer.control_panel._layer_depth.value = True

    def varies(message: dict[str, Any]) -> bool:
        sent = message["depth_bytes"]
        return sent is not None and np.asarray(Image.open(io.BytesIO(sent)).convert("RGB")).std() > 0

    assert panel.background(varies)


def test_a_browser_that_comes_or_goes_ends_no_generation(panel: Panel) -> None:
    """For a moment the viewer has a client without its thread."""
    thread = panel.viewer.render_statemachines.pop(0)
    panel.pipeline.SceneTok.session.ask_again()  # as reports of a generation do
    panel.viewer.render_statemachines[0] = thread
    panel.pipeline.SceneTok.session.ask_again()
    panel.wait(lambda: thread.state == "high" and thread.next_action is None)


def test_each_element_of_the_view_changes_the_picture_and_back(panel: Panel) -> None:
    first = panel.picture
    for name, value, usual in (
        ("View/Seed", 3, 0),
        ("View/Guidance", 3.0, 1.0),
        ("View/Steps at rest", 6, 2),
        ("View/Tokens used", 2, 8),
    ):
        assert changed(panel.set(name, value), first), name
        assert not changed(panel.set(name, usual), first), name
    assert not changed(panel.set("View/Steps while moving", 1), first)
    assert changed(panel.set("View/New sample"), first) and panel.element("View/Seed").value == 1


def test_what_means_nothing_is_not_in_the_page(panel: Panel) -> None:
    """The page has no step count while nothing trains, and no quality menu for models of one or two steps."""
    panel.wait(lambda: panel.viewer.stats_markdown.content.startswith("Resolution: "))
    assert "Step" not in panel.viewer.stats_markdown.content
    session = panel.pipeline.SceneTok.session
    settings = session.view.settings
    assert "Quality at rest" not in [element.name for element in panel.pipeline.SceneTok.part("View").folder.elements]
    session.view.settings = replace(settings, rest=replace(settings.rest, steps=25))
    part = ViewPart(session)
    assert part.folder.element("Quality at rest").value == "still: sharp"
    session.view.settings = replace(settings, rest=replace(settings.rest, steps=1))
    assert not [element.name for element in ViewPart(session).folder.elements if element.name.startswith("Steps")]


def test_a_bar_and_a_line_say_that_a_scene_is_being_encoded(panel: Panel) -> None:
    scene, said = panel.pipeline.SceneTok.part("Scene"), []
    progress = scene.folder.status.progress
    scene.folder.status.progress = lambda done: (said.append((done, scene.about.content)), progress(done))[1]
    panel.set("Scene/Scene", panel.pipeline.datamanager.scenes.keys[1])
    shares = [done for done, _ in said]
    assert shares[0] == 0 and shares[-1] is None and shares[1:-1] == sorted(shares[1:-1]) and len(shares) > 2
    assert f"Encoding {NUM_CONTEXT} views" in said[1][1] and "Displayed" in scene.about.content
    assert not scene.folder.status._bar.visible


def test_scene_moves_frustums_cameras_and_picture(panel: Panel) -> None:
    first, frustums = panel.picture, panel.frustums()
    client = next(iter(panel.viewer.viser_server.get_clients().values()))
    names = panel.pipeline.datamanager.scenes.keys
    handles = panel.viewer.camera_handles
    assert not any(handle.visible for handle in handles.values())  # those ahead would cover the picture
    panel.viewer.set_camera_visibility(True)
    panel.viewer.toggle_cameravis_button()
    assert len(frustums) == NUM_CONTEXT and panel.pipeline.datamanager.scenes.active == 0
    second = panel.set("Scene/Scene", names[1])
    assert changed(second, first) and len(panel.frustums()) == NUM_CONTEXT and panel.frustums() != frustums
    assert all(handle.visible for handle in panel.viewer.camera_handles.values())
    near = 3 * panel.viewer.config.camera_frustum_scale
    assert client.camera.position == pytest.approx(panel.frustums()[0], abs=near)
    panel.element("Scene/Scene by name").value = names[2]
    assert changed(panel.set("Scene/Show scene by name"), second) and names[2] in panel.says()
    panel.element("Scene/Scene by name").value = "nowhere"
    shown = panel.frustums()
    panel.set("Scene/Show scene by name")
    assert "no scene 'nowhere' in the test split of " in panel.says() and panel.frustums() == shown
    # Training and evaluation keep their scene.
    assert panel.pipeline.datamanager.scenes.active == 0


def test_context_views_can_be_counted_and_named(panel: Panel) -> None:
    first = panel.picture
    assert changed(panel.set("Scene/Context views", 2), first) and len(panel.frustums()) == 2
    assert len(panel.element("Scene/Which ones").value.split(",")) == 2
    assert not changed(panel.set("Scene/Context views", NUM_CONTEXT), first)
    panel.element("Scene/Which ones").value = "1, 3, 5, 7"
    assert changed(panel.set("Scene/Encode these views"), first) and len(panel.frustums()) == 4
    for wrong, said in (("1, x", "expected numbers of frames"), ("99", "views 0 to 11, got [99]"), ("", "got none")):
        panel.element("Scene/Which ones").value = wrong
        panel.set("Scene/Encode these views")
        assert said in panel.says() and len(panel.frustums()) == 4


def test_tokens_are_saved_and_opened(panel: Panel, tmp_path: Path) -> None:
    first, file = panel.picture, tmp_path / "viewer" / "scene.safetensors"
    files = "Tokens and files"
    panel.press(f"{files}/Save tokens")
    panel.wait(file.exists)
    tokens = SceneTokens.load(file)
    assert torch.equal(tokens.mean, panel.pipeline.model.renderer.tokens_of(0).mean)
    assert changed(panel.set("Scene/Scene", panel.pipeline.datamanager.scenes.keys[1]), first)
    panel.wait(lambda: panel.element(f"{files}/Saved tokens").value == "scene.safetensors")
    assert not changed(panel.set(f"{files}/Open saved tokens"), first)
    assert "opened scene.safetensors" in panel.says(files)
    panel.set("View/Tokens used", 3)
    panel.press(f"{files}/Save tokens")
    panel.wait(lambda: len(SceneTokens.load(file).mean) == 3)
    assert "3 of 8 tokens" in panel.says("View")
    SceneTokens(torch.zeros(3, 9), torch.eye(4), preset="other").save(file)
    before = panel.picture
    assert not changed(panel.set(f"{files}/Open saved tokens"), before) and "3, 9" in panel.says(files)
    panel.set("View/Tokens used", 8)
    assert not changed(panel.set("Scene/Undo"), before)


def test_a_scene_is_generated_and_explored(generator: Panel, tmp_path: Path) -> None:
    """At once when the viewer opens; then with other seeds, photographs, anchors."""
    panel, first = generator, generator.picture

    def generate() -> torch.Tensor:
        panel.pipeline.SceneTok.part("Generation").folder.status.say("")
        panel.press("Generation/Generate")
        panel.wait(lambda: panel.says("Generation").startswith("generated"))
        return panel.pipeline.SceneTok.session.shown.current().tokens.mean

    made = generate()
    assert torch.equal(generate(), made)
    panel.element("Generation/Scene seed").value = 5
    other_seed = generate()
    assert not torch.allclose(other_seed, made)
    panel.client.look((0.0, 0.0, 0.0), aspect=1.0)
    assert changed(panel.at_rest(), first)
    panel.element("Generation/Where to").value = "turn"
    turned = generate()
    assert not torch.equal(turned, other_seed)
    panel.element("Generation/Where to").value = "camera path"
    panel.press("Generation/Generate")
    panel.wait(lambda: "no camera path in" in panel.says("Generation"))
    (tmp_path / "camera_paths").mkdir()
    write_camera_path(tmp_path / "camera_paths" / "mine.json", trajectory("sideways"), fov=60.0, side=32)
    assert not torch.equal(generate(), turned)
    panel.element("Generation/Photograph").value = "/etc/none.jpg"
    panel.press("Generation/Generate")
    panel.wait(lambda: "/etc/none.jpg" in panel.says("Generation"))
    panel.press("Tokens and files/Save tokens")
    panel.wait(lambda: "saved" in panel.says("Tokens and files"))
    made = SceneTokens.load(tmp_path / "viewer" / "scene.safetensors")
    assert made.preset == panel.pipeline.model.preset.name


def test_a_generation_leaves_the_viewer_live_and_stops_when_told(
    generator: Panel, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel, first = generator, generator.picture
    before = panel.pipeline.SceneTok.session.shown.current().tokens
    panel.element("Generation/Scene steps").value = 200
    step = threading.Event()

    def slow(*args: Any) -> Any:
        step.set()
        time.sleep(0.3)
        return velocity(*args)

    velocity = panel.pipeline.model.scenetok.scene_generator.velocity
    monkeypatch.setattr(panel.pipeline.model.scenetok.scene_generator, "velocity", slow)
    panel.press("Generation/Generate")
    assert step.wait(60)
    panel.client.look((4.0, 0.0, 0.0), aspect=1.0)
    assert changed(panel.at_rest(), first)  # pictures of the old scene go on coming
    assert panel.says("Generation").startswith("generating test0: step")
    panel.press("Generation/Stop")
    panel.wait(lambda: panel.says("Generation") == "stopped")
    assert panel.pipeline.SceneTok.session.shown.current().tokens is before


def test_training_goes_on_with_its_own_scene_and_the_lock_is_held_while_generating(data: Path, tmp_path: Path) -> None:
    trainer = SimpleNamespace(training_state="training")
    panel = Panel(small_pipeline(data, preset=GENERATOR).eval(), tmp_path, trainer=trainer)
    try:
        assert panel.says("Generation") == ""  # nobody asked yet
        panel.press("Generation/Generate")
        panel.wait(lambda: panel.says("Generation").startswith("generated"))
        assert not panel.pipeline.model.training
    finally:
        panel.close()


def test_anchors_from_a_trajectory_begin_at_the_photograph() -> None:
    start = trajectory("turn")[-1] @ torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
    path = from_pose(trajectory("forward"), start, pose_scale=4.0)
    torch.testing.assert_close(path[0], start)
    moved = path[-1, :3, 3] - start[:3, 3]
    torch.testing.assert_close(moved, 0.25 * start[:3, 2])  # one unit of the training data, straight ahead
    torch.testing.assert_close(from_pose(trajectory("sideways"), home_pose(), 1.0), trajectory("sideways"))


def test_the_viewer_opens_without_autoencoders(data: Path) -> None:
    """Training from latents has none, and makes none because somebody looks at the model."""
    pipeline, made = small_pipeline(data), []
    pipeline.model.scenetok._autoencoders[:] = [None, lambda: made.append(1)]
    assert parse_object(pipeline, ViewerControl, "Custom Elements") and not made


def test_a_capture_says_why_it_is_blurred_and_what_helps(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = small_pipeline(data).SceneTok.part("Scene")
    part.say_given()
    assert part.advice.content == ""  # a scene of a data set, and a model that is not bundled
    monkeypatch.setattr(ShownScene, "capture", tmp_path)
    part.say_given()
    assert part.advice.content == ""
    monkeypatch.setattr(Preset, "is_embedded", True)
    part.say_given()
    assert "Blurred" in part.advice.content and f"ns-train scenetok-refine --data {tmp_path}" in part.advice.content


def test_elements_work_without_a_viewer(data: Path) -> None:
    pipeline = small_pipeline(data)
    steps = pipeline.SceneTok.part("View").folder.element("Steps at rest")
    assert steps.value == pipeline.model.renderer.settings.sampler.steps
    assert not [name for name in pipeline.state_dict() if "SceneTok" in name]
    assert pipeline.model.preset.data.image_size == IMAGE_SIZE
