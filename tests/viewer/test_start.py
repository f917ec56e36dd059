"""The folder Start: rooms, photographs and captures, one click each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.scene_files import jpeg, write_dl3dv
from support.small_runs import GENERATOR, NUM_CONTEXT, small_pipeline
from support.viewer_panel import Panel

from scenetok_ns.viewer.start_part import GALLERY, Entry, first_picture, gallery_captures

START = "Start"


@pytest.fixture(scope="module")
def opened(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Panel]:
    """A generator's run with a capture in its gallery."""
    folder = tmp_path_factory.mktemp("run")
    capture = write_dl3dv(folder.parent / f"{folder.name}-kitchen", frames=12, image_folder="images", divide=1)
    (folder / GALLERY).write_text(json.dumps({"kitchen": str(capture), "gone": str(folder / "nowhere")}))
    panel = Panel(small_pipeline(data, preset=GENERATOR).eval(), folder)
    yield panel
    panel.close()


def click(panel: Panel, label: str) -> str:
    """Press a tile's button; what the folders say in the end."""
    part = panel.pipeline.SceneTok.part(START)
    panel.wait(lambda: label in [entry.label for entry in part.listed])
    button = next(button for button in part._buttons.buttons if button.name == label)
    for folder in (START, "Generation"):
        panel.pipeline.SceneTok.part(folder).folder.status.say("")
    panel.client.set(button.gui_handle._impl.id, True)
    panel.wait(lambda: " in " in panel.says(START) + panel.says("Generation"))
    return panel.says(START) + panel.says("Generation")


def test_each_tile_displays_what_it_says(opened: Panel) -> None:
    session = opened.pipeline.SceneTok.session
    scenes, renderer = session.renderer.scenes, session.renderer
    opened.wait(lambda: opened.says(START).startswith("encoded test0"))  # the gallery's first room comes by itself
    indices = scenes.spread_views(0, NUM_CONTEXT)
    views = scenes.scene(0).scene.load_views(indices, (renderer.preset.data.image_size,) * 2)
    with torch.no_grad():
        expected = renderer.tokens_from(views, 0)
    assert torch.equal(session.shown.current().tokens.mean, expected.mean)
    said = click(opened, "Show test1")
    assert said.startswith(f"encoded test1 from {NUM_CONTEXT} photographs") and session.shown.title == "test1"
    assert session.shown.photographs is not None and len(opened.frustums()) == NUM_CONTEXT
    encoded = session.shown.current().tokens.mean
    assert "generated test1" in click(opened, "Generate from test1")
    assert not torch.allclose(session.shown.current().tokens.mean, encoded)
    assert click(opened, "Open capture kitchen").startswith("encoded kitchen from 3 photographs")
    assert session.shown.title == "kitchen"
    session.undo()
    assert session.shown.title == "test1"


def test_uploads_get_tiles_of_their_own(opened: Panel) -> None:
    part = opened.pipeline.SceneTok.part(START)
    opened.pipeline.SceneTok.part("Own photographs")._uploaded("my room.jpg", jpeg(0, (48, 64)).numpy().tobytes())
    assert "generated my room" in click(opened, "Generate from my room.jpg")
    opened.wait(lambda: "my room.jpg" in part.gallery.content)
    kinds = [entry.kind for entry in part.listed]
    assert kinds == ["room"] * 3 + ["generate"] * 3 + ["photograph", "capture"]
    assert part.gallery.content.count("data:image/jpeg") == len(kinds)
    opened.press("Own photographs/Forget them")
    opened.wait(lambda: "photograph" not in [entry.kind for entry in part.listed])


def test_a_gallery_that_cannot_be_read_is_empty(tmp_path: Path) -> None:
    for text in ("", "[]", '{"a": 1}', '{"a": "/nowhere"}'):
        (tmp_path / GALLERY).write_text(text)
        assert gallery_captures(tmp_path) == {}
    with pytest.raises(ValueError, match="no picture in"):
        first_picture(tmp_path)
    assert Entry("capture", "a", tmp_path).label == "Open capture a"
