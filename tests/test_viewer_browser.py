"""The viewer in a real browser: what a person sees and does, from the first picture to a rendered camera path.

Needs a Chromium; screenshots are left in the folder SCREENSHOTS (of the environment), if it is set.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from chromium import Chromium, find_chromium
from PIL import Image
from small_runs import GENERATOR, write_run, write_unlike_re10k
from test_tools import free_port, page, running, tool, wait_for

from scenetok_ns.models.tokens import SceneTokens

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium on this machine (set CHROMIUM to its path)"),
]

OF_OTHERS = re.compile(
    r"googletagmanager|docs\.nerf\.studio|ERR_NAME_NOT_RESOLVED|ERR_INTERNET_DISCONNECTED|GL Driver Message|glTex"
    r"|GL_INVALID|computeBoundingSphere|favicon|Manifest|THREE\.|React|ResizeObserver|WebGL|deprecated"
)
"""What the viewer's own page writes to the console without our doing."""
QUIET = 4.0
CENTRE = (480, 400)
"""Of the canvas, beside the panel."""


class Page(Chromium):
    """The viewer's page."""

    def enter(self, port: int) -> Page:
        self.open(f"http://127.0.0.1:{port}")
        self.wait("document.body !== null && document.body.innerText.includes('Custom Elements')")
        self.settle()
        return self

    def view(self) -> np.ndarray:
        """The middle of the canvas."""
        return self.screenshot()[120:680, 60:900].astype(float)

    def settle(self, seconds: float = 60) -> np.ndarray:
        """The picture once nothing moves for longer than a full picture takes on a busy machine."""
        deadline, last, since = time.monotonic() + seconds, self.view(), time.monotonic()
        while time.monotonic() < deadline:
            time.sleep(0.3)
            now = self.view()
            if np.abs(now - last).mean() > 0.05:
                since = time.monotonic()
            elif time.monotonic() > since + QUIET:
                return now
            last = now
        raise AssertionError(f"the picture does not come to rest in {seconds} s")

    def keep(self, name: str) -> None:
        if folder := os.environ.get("SCREENSHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.screenshot(Path(folder, f"{name}.png"))

    def input_of(self, label: str) -> str:
        """JavaScript for the input beside a label: the last where a row has several (a slider and its number)."""
        return (
            "(() => { const labels = [...document.querySelectorAll('label, p, div')].filter("
            f"e => e.childElementCount == 0 && e.textContent.trim() == {json.dumps(label)});"
            "for (const e of labels.reverse()) for (let i = 0, row = e; i < 5 && row; i++, row = row.parentElement) {"
            "const found = [...row.querySelectorAll('input:not([type=hidden]), textarea')];"
            "if (found.length) return found.at(-1); }"
            "return null; })()"
        )

    def place(self, element: str) -> tuple[float, float]:
        self.wait(f"!!({element})", 20)
        self.evaluate(f"({element}).scrollIntoView({{block: 'center'}})")
        time.sleep(0.3)
        box = self.evaluate(f"(r => [r.x + r.width / 2, r.y + r.height / 2])(({element}).getBoundingClientRect())")
        return box[0], box[1]

    def fill(self, label: str, value: object) -> None:
        """Write into an input as a person does: select all, type, Enter."""
        x, y = self.place(self.input_of(label))
        self.click(x, y)
        self.evaluate(f"({self.input_of(label)}).select()")
        self.type(str(value))
        self.key("Enter", 13)
        time.sleep(0.5)

    def choose(self, label: str, option: str) -> None:
        """Of a drop-down list."""
        self.click(*self.place(self.input_of(label)))
        item = (
            "[...document.querySelectorAll('[role=option]')].find("
            f"e => e.textContent.trim() == {json.dumps(option)} && e.getClientRects().length)"
        )
        self.click(*self.place(item))
        time.sleep(0.5)

    def press(self, name: str) -> None:
        button = (
            "[...document.querySelectorAll('button')].find("
            f"e => e.textContent.trim() == {json.dumps(name)} && e.getClientRects().length)"
        )
        self.click(*self.place(button))
        time.sleep(0.5)

    def value(self, label: str) -> str:
        return self.evaluate(f"({self.input_of(label)}).value")

    def complaints(self) -> list[str]:
        return [line for line in self.console if not OF_OTHERS.search(line)]


def changed(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.abs(a - b).mean() > 1)


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
        assert "Traceback" not in log.read_text(), log.read_text()[-3000:]


def test_exploring_a_scene(root: Path, viewer: Callable[[Path], int]) -> None:
    """Rooms and the weights in the package: the picture changes when it should and only then, from page to video."""
    tool("scenetok", "demo-data", "--output", root / "rooms", "--train", 1, "--test", 2, "--frames", 24)
    opened = ("--data", root / "rooms", "--output", root / "run", "--steps", 3)
    tool("scenetok", "open", "scenetok-tiny", *opened)
    with Page() as web:
        web.enter(viewer(root / "run"))
        web.keep("opened")
        web.press("Hide Train Cams")
        first = web.settle()
        assert first[:, 250:600].std() > 10 and first[:, :40].std() < 5  # a room, and the border beside it
        web.drag(CENTRE, (CENTRE[0] + 60, CENTRE[1]))
        turned = web.settle()
        assert changed(turned, first)
        web.fill("Seed", 7)
        other = web.settle()
        assert changed(other, turned)
        web.fill("Seed", 0)
        assert not changed(web.settle(), turned)
        web.fill("Steps at rest", 6)
        assert changed(web.settle(), turned)
        web.fill("Steps at rest", 3)
        assert not changed(web.settle(), turned)
        web.fill("Tokens used", 12)
        web.keep("twelve_tokens")
        assert changed(web.settle(), turned)
        web.fill("Tokens used", 128)
        web.fill("File", root / "saved.safetensors")
        web.press("Save tokens")
        web.wait(lambda: (root / "saved.safetensors").exists(), 20)
        assert not changed(web.settle(), turned)
        web.choose("Output type", "uncertainty")
        assert changed(web.settle(), turned)
        web.keep("uncertainty")
        web.choose("Output type", "rgb")
        web.settle()
        names = [path["key"] for path in torch.load(next((root / "rooms" / "test").glob("*.torch")), weights_only=True)]
        web.choose("Scene", names[1])
        second = web.settle()
        assert changed(second, turned) and web.value("Scene") == names[1]
        web.press("Show Train Cams")
        web.settle()
        web.keep("second_scene")
        web.press("Hide Train Cams")
        web.press("Load tokens")
        assert changed(web.settle(), second)
        video(web, root)
        assert web.complaints() == []


def video(web: Page, root: Path) -> None:
    """The Render tab: two keyframes, the preview, the export, and ns-render."""
    web.press("Render")
    web.press("Add Keyframe")
    web.drag(CENTRE, (CENTRE[0] - 80, CENTRE[1]))
    web.settle()
    web.press("Add Keyframe")
    before = web.view()
    web.press("Preview Render")
    assert changed(web.settle(), before)  # the beginning of the path
    web.keep("render_tab")
    web.press("Exit Render Preview")
    web.press("Generate Command")
    folder = root / "rooms" / "camera_paths"
    web.wait(lambda: list(folder.glob("*.json")), 20)
    (file,) = folder.glob("*.json")
    path = json.loads(file.read_text())
    assert len(path["camera_path"]) > 8 and len(path["keyframes"]) == 2
    # As it is, but short and small.
    path |= {"camera_path": path["camera_path"][:8], "render_width": 96, "render_height": 64, "seconds": 1.0}
    file.write_text(json.dumps(path))
    options = ("--camera-path-filename", file, "--output-format", "images", "--output-path", root / "frames")
    tool("ns-render", "camera-path", "--load-config", root / "run" / "config.yml", *options)
    frames = [np.asarray(Image.open(name)) for name in sorted((root / "frames").glob("*.jpg"))]
    assert len(frames) == 8 and frames[0].shape == (64, 96, 3)
    assert np.abs(frames[0].astype(float) - frames[-1]).mean() > 0.3


def saved(web: Page, file: Path) -> SceneTokens:
    """The tokens that are shown."""
    web.fill("File", file)
    web.press("Save tokens")
    web.wait(file.exists, 20)
    return SceneTokens.load(file)


def test_generating_a_scene(root: Path, viewer: Callable[[Path], int]) -> None:
    run = write_run(write_unlike_re10k(root / "data"), root / "runs", GENERATOR)
    with Page() as web:
        web.enter(viewer(run))
        web.wait(lambda: web.value("Progress").startswith("generated"))
        web.press("Hide Train Cams")
        made = []
        for index in range(2):
            web.press("Generate")
            web.settle()
            made.append(saved(web, root / f"made{index}.safetensors"))
        assert torch.equal(made[0].mean, made[1].mean)
        web.choose("Where to", "turn")
        web.fill("Photographs of the scene", 1)
        web.press("Generate")
        web.wait(lambda: web.value("Progress").startswith("generated"))
        web.settle()
        web.keep("generated")
        # Of random weights the anchors show in the tokens rather than in the picture.
        assert not torch.equal(saved(web, root / "turned.safetensors").mean, made[0].mean)
        assert web.complaints() == []
