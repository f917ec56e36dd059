"""Photographs against pictures, and photographs that come through the browser."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.scene_files import jpeg, write_dl3dv
from support.small_runs import GENERATOR, IMAGE_SIZE, small_pipeline
from support.viewer_panel import QUIET, Panel
from viewer_client import ViewerClient
from viser.transforms import SO3

from scenetok_ns.bridge.scene_views import StockSceneSource, read_capture
from scenetok_ns.data.capture.capture_folder import Capture
from scenetok_ns.data.capture.photographs import CaptureError
from scenetok_ns.data.square_pictures import PictureRequest
from scenetok_ns.viewer import captured_scene
from scenetok_ns.viewer import generation as viewer_generation

COMPARE, OWN = "Compare with photographs", "Own photographs"


@pytest.fixture(scope="module")
def opened(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Panel]:
    panel = Panel(small_pipeline(data).eval(), tmp_path_factory.mktemp("run"))
    yield panel
    panel.close()


@pytest.fixture
def panel(opened: Panel) -> Panel:
    """Restore the state from the beginning."""
    session = opened.pipeline.SceneTok.session
    session.shown.show(0)
    session.view.comparison.chosen = None
    opened.element(f"{COMPARE}/Display").value = "picture alone"
    opened.client.look((0.0, 0.0, 0.0), aspect=1.0)
    opened.picture = opened.at_rest()
    return opened


def test_a_new_browser_sees_the_photograph_of_its_first_camera_before_any_render(panel: Panel) -> None:
    """Also where the scene is encoded already, and whatever photograph others compare with."""
    session = panel.pipeline.SceneTok.session
    session.view.comparison.chosen = 5
    scene = panel.pipeline.datamanager.scenes.scene(0).scene
    views = scene.load_views([session.shown.given[0]], (IMAGE_SIZE, IMAGE_SIZE))
    with ViewerClient(panel.viewer.viser_server.get_port()) as browser:
        with session.lock:  # nothing is rendered meanwhile
            browser.look((0.0, 0.0, 0.0), aspect=0.5)
            first = next(browser.pictures(60))
        assert first.shape == (64, 32, 3)
        square = first[16:48].astype(float)
        assert np.abs(square - views.images[0].permute(1, 2, 0).numpy()).mean() < 12
        browser.at_rest(QUIET)


def test_a_view_is_gone_to_and_compared_with_its_photograph(panel: Panel) -> None:
    session = panel.pipeline.SceneTok.session
    scene = panel.pipeline.datamanager.scenes.scene(0).scene
    views = scene.load_views([5], (IMAGE_SIZE, IMAGE_SIZE))
    for wrong in (-1, 99):
        panel.element(f"{COMPARE}/View").value = wrong
        panel.press(f"{COMPARE}/Go to view")
        panel.wait(lambda wrong=wrong: f"got {wrong}" in panel.says(COMPARE))
    panel.viewer.set_camera_visibility(True)
    panel.viewer.toggle_cameravis_button()
    panel.element(f"{COMPARE}/View").value = 5
    panel.press(f"{COMPARE}/Go to view")
    client = next(iter(panel.viewer.viser_server.get_clients().values()))
    pose = views.c2w[0].numpy()

    def is_there() -> bool:
        turned = SO3(client.camera.wxyz).as_matrix()  # set last
        return np.allclose(client.camera.position, 10 * pose[:3, 3], atol=1e-5) and np.allclose(turned, pose[:3, :3])

    panel.wait(is_there)
    # The browser answers with the camera that it was given.
    where = tuple(map(float, client.camera.position)), tuple(map(float, client.camera.wxyz))
    panel.client.look(where[0], 1.0, where[1], fov=float(client.camera.fov))
    panel.wait(lambda: " dB" in panel.says(COMPARE))
    square = session.view.views._views[-1].picture
    error = (square - views.images[0].float() / 255).square().mean()
    assert f"PSNR {-10 * math.log10(error):.2f} dB" in panel.says(COMPARE)
    kind = "context view" if 5 in session.shown.given else "held out"
    assert kind in panel.says(COMPARE)
    assert not panel.viewer.hide_images.visible  # frustums, which would be in the way
    panel.press(f"{COMPARE}/Next view")
    panel.wait(lambda: panel.element(f"{COMPARE}/View").value == 6)


def test_the_photograph_is_an_output_type(panel: Panel) -> None:
    session, before = panel.pipeline.SceneTok.session, panel.picture
    shown = {}
    for name in ("photograph", "difference", "picture | photograph", "picture alone"):
        panel.client.set(panel.element(f"{COMPARE}/Display").gui_handle._impl.id, name)
        shown[name] = panel.at_rest().astype(float)
    views = panel.pipeline.datamanager.scenes.context_views(0)
    photograph = views.images[0].permute(1, 2, 0).numpy()
    photograph = np.asarray(Image.fromarray(photograph).resize((64, 64), Image.Resampling.BILINEAR)).astype(float)
    inside = slice(12, 52)  # the camera has another field of view: the middle alone is like
    assert np.abs(shown["photograph"][inside, inside] - photograph[inside, inside]).mean() < 40
    assert np.abs(shown["picture alone"] - before).mean() < 1 < np.abs(shown["photograph"] - before).mean()
    beside = shown["picture | photograph"]
    assert np.abs(beside[:, :30] - before[:, :30]).mean() < 4
    assert np.abs(beside[:, 34:] - shown["photograph"][:, 34:]).mean() < 4
    assert session.view.comparison.wanted() == {"rgb"}


def test_a_scene_without_photographs_has_nothing_to_compare_with(panel: Panel) -> None:
    session = panel.pipeline.SceneTok.session
    path = session.files.save_tokens(session.shown.tokens(None), "scene.safetensors")
    session.shown.load(path)
    panel.press(f"{COMPARE}/Go to view")
    panel.wait(lambda: "has no photographs" in panel.says(COMPARE))
    panel.client.set(panel.element(f"{COMPARE}/Display").gui_handle._impl.id, "photograph")
    assert panel.at_rest().std() < 2  # grey


def picture(index: int = 0, size: tuple[int, int] = (48, 64)) -> bytes:
    return jpeg(index, size).numpy().tobytes()


def sent(panel: Panel, name: str, content: bytes) -> str:
    """Upload a photograph as a browser does; return the messages about it."""
    part = panel.pipeline.SceneTok.part(OWN)
    part._uploaded(name, content)
    return part.folder.status.value


def together(panel: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second photograph: both, once their cameras are found, are what the scene is generated from."""

    def captured(source: Path, output: Path, options: Any, progress: Any) -> Capture:
        assert options.fewest == 2 and len(list(source.iterdir())) == 2
        progress("features", 1, 2)
        return Capture(write_dl3dv(output, frames=2, image_folder="images", divide=1), 2, 2, (), ())

    monkeypatch.setattr(captured_scene, "make_capture", captured)
    assert "other.jpg uploaded" in sent(panel, "other.jpg", picture(1))
    panel.element("Generation/Photograph").value = "all uploaded, with cameras found"
    panel.press("Generation/Generate")
    panel.wait(lambda: panel.says("Generation").startswith("generated a scene from 2 photographs in "))
    shown = panel.pipeline.SceneTok.session.shown
    assert shown.title == "photographs" and shown.photographs is not None and shown.photographs[1] == [0, 1]
    anchors = shown.current().tokens.cameras_c2w
    torch.testing.assert_close(anchors[0].cpu(), shown.photographs[0].c2w[0])  # forward from the first photograph


def archive(count: int) -> bytes:
    """A ZIP archive of photographs."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for number in range(count):
            file.writestr(f"{number}.jpg", picture(number))
    return content.getvalue()


def test_photographs_of_an_archive_are_chosen_together_and_failures_leave_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Photographs without a scene leave no capture, and the page names no folder of this machine."""

    def in_one_place(source: Path, output: Path, options: Any, progress: Any) -> Capture:
        folder = write_dl3dv(output, frames=2, image_folder="images", divide=1)
        file = json.loads((folder / "transforms.json").read_text())
        for frame in file["frames"]:
            frame["transform_matrix"] = file["frames"][0]["transform_matrix"]
        (folder / "transforms.json").write_text(json.dumps(file))
        return Capture(folder, 3, 2, (), ())

    def refused(source: Path, output: Path, options: Any, progress: Any) -> Capture:
        raise CaptureError(f"{source}: the camera did not move")

    def read_with_scale(dataparser: Any, split: str, typical_spread: float | None) -> StockSceneSource:
        return read_capture(dataparser, split, typical_spread=1.0)  # the small preset has none

    monkeypatch.setattr(viewer_generation, "read_capture", read_with_scale)
    panel = Panel(small_pipeline(data, preset=GENERATOR).eval(), tmp_path)
    try:
        generation = panel.pipeline.SceneTok.part("Generation")
        panel.wait(lambda: panel.says("Generation").startswith("generated"))
        assert "2 photographs uploaded" in sent(panel, "two.zip", archive(2))
        assert generation.photograph.value == "all uploaded, with cameras found"
        assert generation.anchors.value == "forward"
        for captured, said in (
            (in_one_place, "only 2 of your 3 photographs could be placed, and they are too close together"),
            (refused, "your photographs: the camera did not move"),
        ):
            monkeypatch.setattr(captured_scene, "make_capture", captured)
            generation._generate_locked()
            panel.wait(lambda said=said: panel.says("Generation").startswith(said))
        assert not list((tmp_path / "viewer" / "captures").iterdir())
        generation.choose("those of the scene")
        assert generation.anchors.value == "views of the scene"
    finally:
        panel.close()


def test_an_uploaded_photograph_becomes_a_scene(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    panel = Panel(small_pipeline(data, preset=GENERATOR).eval(), tmp_path)
    try:
        panel.wait(lambda: panel.says("Generation").startswith("generated"))
        assert "cannot be read as an image" in sent(panel, "text.jpg", b"no picture")
        assert "bare name" in sent(panel, "../out.jpg", picture())
        assert "room.jpg uploaded" in sent(panel, "room.jpg", picture())
        assert panel.element("Generation/Photograph").value == "room.jpg"
        panel.pipeline.SceneTok.part("Generation").folder.status.say("")
        panel.press("Generation/Generate")
        panel.wait(lambda: panel.says("Generation").startswith("generated room"))
        shown = panel.pipeline.SceneTok.session.shown
        assert shown.title == "room" and shown.photographs is not None and shown.photographs[1] == [0]
        assert panel.element("Generation/Where to").value == "forward"  # a photograph has no other views
        together(panel, monkeypatch)
        panel.press(f"{OWN}/Make a scene of them")
        panel.wait(lambda: "choose 'all uploaded, with cameras found' under Photograph" in panel.says(OWN))
        panel.press(f"{OWN}/Forget them")
        panel.wait(lambda: "2 photographs deleted" in panel.says(OWN))
        assert panel.element("Generation/Photograph").value == "those of the scene"
        assert {path.name for path in (tmp_path / "viewer" / "photographs").iterdir()} == set()
    finally:
        panel.close()


def test_unposed_photographs_go_through_scenetok_capture(panel: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def captured(source: Path, output: Path, options: Any, progress: Any) -> Capture:
        asked.update(pictures=sorted(path.name for path in source.iterdir()), output=output)
        for stage in ("pictures", "features", "cameras"):
            progress(stage, 1, 2)
        folder = write_dl3dv(output, frames=12, image_folder="images", divide=1)
        return Capture(folder, 12, 12, (), ("two pictures are blurred",))

    monkeypatch.setattr(captured_scene, "make_capture", captured)
    before = panel.picture
    for number in range(4):
        assert "upload more from all around" in sent(panel, f"{number}.jpg", picture(number))
        if number == 2:
            panel.press(f"{OWN}/Make a scene of them")
            panel.wait(lambda: "3 photographs, but this needs at least 4" in panel.says(OWN))
    panel.press(f"{OWN}/Make a scene of them")
    panel.wait(lambda: panel.says(OWN).startswith("encoded 3 of "))
    assert "two pictures are blurred" in panel.says(OWN)
    assert (
        asked["pictures"] == [f"{number}.jpg" for number in range(4)]
        and panel.folder / "viewer" / "captures" in asked["output"].parents
    )
    shown = panel.pipeline.SceneTok.session.shown
    assert shown.title == "photographs" and len(shown.photographs[1]) == 3 and shown.capture == asked["output"]
    assert panel.pipeline.SceneTok.part("Scene").advice.content == ""  # this model is not a bundled one
    panel.client.look((0.0, 0.0, 0.1), aspect=1.0)
    assert np.abs(panel.at_rest().astype(float) - before).mean() > 0.5


def test_the_view_is_downloaded_at_any_size(panel: Panel) -> None:
    """By the browser that asks, as it is seen; and nothing is sent when nobody asks."""
    client = next(iter(panel.viewer.viser_server.get_clients().values()))
    downloads: list[tuple[str, bytes]] = []
    client.send_file_download = lambda name, content: downloads.append((name, content))
    for name, value in (("Width", 96), ("Height", 96)):
        panel.element(f"Video/{name}").value = value
    panel.press("Video/Snapshot")
    panel.wait(lambda: downloads)
    found = np.asarray(Image.open(io.BytesIO(downloads[0][1]))).astype(float)
    square = panel.pipeline.SceneTok.session.view.views._views[-1].picture
    expected = 255 * PictureRequest(96, 96).fit(square[None])[0].permute(1, 2, 0).clamp(0, 1).numpy()
    assert found.shape == (96, 96, 3) and np.abs(found - expected).max() <= 0.51
    assert downloads[0][0] == "test0.png"
    panel.press("Tokens and files/Download tokens")
    panel.wait(lambda: len(downloads) == 2)
    assert downloads[1][0] == "scene.safetensors" and len(downloads[1][1]) > 100
    event = SimpleNamespace(client=None)
    panel.element("Video/Snapshot")._touched(event)
    with pytest.raises(ValueError, match="only a browser"):
        panel.pipeline.SceneTok.session.download("x", b"")
    assert torch.is_tensor(panel.pipeline.SceneTok.session.shown.current().tokens.mean)
