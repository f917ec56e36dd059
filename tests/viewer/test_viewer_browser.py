"""The viewer in a real browser: what a person sees and does, from the first picture to a rendered camera path.

Needs a Chromium; screenshots are left in the folder SCREENSHOTS (of the environment), if it is set.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mediapy
import numpy as np
import pytest
import torch
from chromium import find_chromium
from PIL import Image
from support.tool_processes import free_port, page, running, tool, wait_for
from viewer_page import SAME, ViewerPage, errors_in

from scenetok_ns.models.tokens import SceneTokens
from scenetok_ns.tools.ffmpeg import put_ffmpeg_on_path

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium on this machine (set CHROMIUM to its path)"),
]

Picture = np.ndarray


def unlike(*others: Picture) -> Callable[[Picture], bool]:
    return lambda picture: all(np.abs(picture - other).mean() > SAME for other in others)


def like(other: Picture) -> Callable[[Picture], bool]:
    return lambda picture: np.abs(picture - other).mean() <= SAME


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("browser")


@pytest.fixture(scope="module")
def viewer(root: Path) -> Iterator[Callable[[Path], int]]:
    """Starts ns-viewer on a run; gives its port."""
    started = []

    def start(run: Path) -> int:
        port, log = free_port(), root / f"viewer{len(started)}.log"
        process = running(log, "ns-viewer", "--load-config", run / "config.yml", "--viewer.websocket-port", port)
        started.append((process, log))
        wait_for(lambda: page(port), process.__enter__(), log)
        return port

    yield start
    for process, log in started:
        process.__exit__(None, None, None)
        assert errors_in(log.read_text()) == []


@pytest.fixture(scope="module")
def rooms(root: Path) -> Path:
    tool("scenetok", "demo-data", "--output", root / "rooms", "--train-scenes", 1, "--test-scenes", 2, "--frames", 24)
    return root / "rooms"


def test_exploring_a_scene(root: Path, rooms: Path, viewer: Callable[[Path], int]) -> None:
    """Rooms and the weights in the package: the picture changes when it should and only then, from page to video."""
    tool("scenetok", "new-run", "scenetok-tiny", "--data", rooms, "--output", root / "run", "--steps", 3)
    with ViewerPage() as web:
        web.enter(viewer(root / "run")).settle()
        web.keep("opened")
        first = web.settle()
        assert first[:, 310:660].std() > 10 and first[:, :100].std() < 5  # a room, and the border beside it
        web.turn(60)
        turned = web.shows(unlike(first))
        for label, other in (("Seed", 7), ("Steps at rest", 6), ("Tokens used", 12)):
            usual = web.value(label)
            web.fill(label, other)
            web.shows(unlike(turned))
            web.keep(f"{label.lower().replace(' ', '_')}_{other}")
            web.fill(label, usual)
            web.shows(like(turned))
        web.press("New sample")
        web.shows(unlike(turned))
        assert web.value("Seed") == "1"
        web.fill("Seed", 0)
        web.shows(like(turned))
        web.unfold("Tokens and files")
        saved(web, root / "run")
        assert like(turned)(web.settle())
        web.choose_output("uncertainty")
        web.shows(unlike(turned))
        web.keep("uncertainty")
        web.choose_output("depth")
        web.shows(unlike(turned))
        web.keep("depth")
        web.choose_output("rgb")
        web.shows(like(turned))
        names = [path["key"] for path in torch.load(next((rooms / "test").glob("*.torch")), weights_only=True)]
        web.choose("Scene", names[1])
        second = web.shows(unlike(turned))
        assert web.value("Scene") == names[1]
        web.press("Show Train Cams", renders=False)
        web.is_covered = True
        web.settle()
        web.is_covered = False
        web.keep("second_scene")
        web.press("Hide Train Cams", renders=False)
        web.press("Open saved tokens")
        web.shows(unlike(second))
        video(web, root, rooms / "camera_paths")
        assert web.complaints() == []


def video(web: ViewerPage, root: Path, folder: Path) -> None:
    """The Render tab: two keyframes, the preview, the export, and ns-render."""
    web.press("Render", renders=False)
    web.press("Add Keyframe", renders=False)
    web.turn(-80)
    web.settle()
    web.press("Add Keyframe", renders=False)
    before = web.view()
    web.press("Preview Render")
    web.shows(unlike(before))  # the beginning of the path
    web.keep("render_tab")
    web.press("Exit Render Preview")
    web.press("Generate Command", renders=False)
    file, path = web.wait(lambda: exported(folder), 60)
    assert len(path["camera_path"]) > 8 and len(path["keyframes"]) == 2
    # The default path, but short and small.
    path |= {"camera_path": path["camera_path"][:8], "render_width": 96, "render_height": 64, "seconds": 1.0}
    file.write_text(json.dumps(path))
    options = ("--camera-path-filename", file, "--output-format", "images", "--output-path", root / "frames")
    tool("ns-render", "camera-path", "--load-config", root / "run" / "config.yml", *options)
    frames = [np.asarray(Image.open(name)) for name in sorted((root / "frames").glob("*.jpg"))]
    assert len(frames) == 8 and frames[0].shape == (64, 96, 3)
    assert np.abs(frames[0].astype(float) - frames[-1]).mean() > 0.3


def exported(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The camera path in the folder, once the viewer has written all of it."""
    for file in folder.glob("*.json"):
        with contextlib.suppress(json.JSONDecodeError):
            return file, json.loads(file.read_text())
    return None


def saved(web: ViewerPage, run: Path) -> SceneTokens:
    """The tokens that are shown."""
    file = run / "viewer" / "scene.safetensors"
    file.unlink(missing_ok=True)
    web.press("Save tokens", renders=False)
    web.wait(file.exists, 60)
    return SceneTokens.load(file)


def test_generating_a_scene(root: Path, rooms: Path, viewer: Callable[[Path], int]) -> None:
    """From a photograph of a room, with the weights in the package: as soon as the page is there, and again."""
    generator = ("scenegen-tiny", "--data", rooms, "--output", root / "generator")
    tool("scenetok", "new-run", *generator, "--scene-steps", 12, "--steps", 3)
    with ViewerPage() as web:
        web.enter(viewer(root / "generator"))
        web.says("generated demo-", 300)
        web.unfold("Tokens and files")
        first, tokens = web.settle(), saved(web, root / "generator")
        web.keep("generated")
        assert first[:, 310:660].std() > 10  # a room
        web.choose("Where to", "turn")
        web.press("Generate")
        web.shows(unlike(first))
        web.keep("generated_along_a_turn")
        assert not torch.equal(saved(web, root / "generator").mean, tokens.mean)
        web.choose("Where to", "views of the scene")
        web.press("Generate")
        web.shows(like(first))
        assert torch.equal(saved(web, root / "generator").mean, tokens.mean)
        web.turn(60)
        web.shows(unlike(first))
        assert web.complaints() == []


SIDE, FRAMES = 512, 24


def test_from_one_photograph_to_a_video(root: Path, rooms: Path, viewer: Callable[[Path], int]) -> None:
    """Without a shell: a photograph uploaded, a room generated, an orbit of that room rendered and downloaded."""
    run, downloads = root / "shop", root / "downloads"
    downloads.mkdir()
    tool("scenetok", "new-run", "scenegen-tiny", "--data", rooms, "--output", run)
    port = viewer(run)
    photograph = root / "my room.png"
    example = torch.load(next((rooms / "test").glob("*.torch")), weights_only=True)[1]
    photograph.write_bytes(bytes(example["images"][0].numpy().tobytes()))
    with ViewerPage((1440, 900)) as web:
        web.downloads_to(downloads)
        web.enter(port)
        started = time.monotonic()
        web.upload("Upload photographs", photograph)
        web.wait(lambda: web.value("Photograph") == "my room.png")
        web.press("Generate", renders=False)
        web.says("generated my room", 300)
        web.settle()
        web.keep("photograph_generated")
        for label, value in (("Frames", FRAMES), ("Width", SIDE), ("Height", SIDE)):
            assert float(web.value(label)) in (48, SIDE)
            web.fill(label, value)
        web.press("Render video", renders=False)
        web.says(f"{FRAMES} frames, ", 300)
        web.keep("video_rendered")
        web.press("Download video", renders=False)
        put_ffmpeg_on_path()
        video = web.wait(lambda: next(downloads.glob("*.mp4"), None))
        took = time.monotonic() - started
        frames = list(mediapy.read_video(video))
        assert len(frames) == FRAMES and frames[0].shape == (SIDE, SIDE, 3)
        assert took < 120, took
        saved_tokens = next((run / "viewer" / "videos").glob("*/scene.safetensors"))
        assert SceneTokens.load(saved_tokens).scene == "my room"
        command = web.evaluate(
            "[...document.querySelectorAll('pre')].find(e => e.textContent.startsWith('sc')).textContent"
        )
        words = shlex.split(command)
        assert str(saved_tokens) in words
        tool(*words[: words.index("--output")], "--output", root / "again")
        again = list(mediapy.read_video(next((root / "again").glob("*.mp4"))))
        assert all((a == b).all() for a, b in zip(frames, again, strict=True))
        assert np.abs(frames[0].astype(float) - frames[FRAMES // 2]).mean() > SAME
        assert web.complaints() == []
