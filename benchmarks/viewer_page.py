"""The page of Nerfstudio's viewer in a real browser, for tests and the soak."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

from chromium import Chromium
from jaxtyping import Float
from numpy import abs as absolute
from numpy import asarray, ndarray
from PIL import Image

OF_OTHERS = re.compile(
    r"googletagmanager|docs\.nerf\.studio|ERR_NAME_NOT_RESOLVED|ERR_INTERNET_DISCONNECTED|GL Driver Message|glTex"
    r"|GL_INVALID|computeBoundingSphere|favicon|Manifest|THREE\.|React|ResizeObserver|WebGL|deprecated"
)
"""Messages that the viewer's own page writes to the console in any case."""
QUIET = 1.5
"""Seconds without a new picture, after one in full quality, after which the page counts as settled."""
SAME = 1.0
"""Mean difference (of 255) up to which pictures count as equal: they may be compressed in two qualities."""
ON_SCREEN = 12.0
"""Mean difference, of 255, between a picture and what the canvas shows of it: the page draws at down to a fifth of the
resolution where it draws less than 38 times a second, as without a GPU."""
LAST_PICTURE = """
new Promise(done => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result.split(',')[1]);
    reader.readAsDataURL(new Blob([window.lastPicture]));
})
"""
CANVAS = "(r => [r.x, r.y, r.width, r.height])(document.querySelector('canvas[data-engine]').getBoundingClientRect())"
CENTRE = (480, 400)
"""Centre of the canvas beside the panel, in pixels."""
COUNT_PICTURES = """
window.pictures = {count: 0, atRest: false};
const make = URL.createObjectURL;
URL.createObjectURL = blob => {
    if (blob.type == 'image/jpeg') blob.arrayBuffer().then(data => {
        const bytes = new DataView(data);
        let first = 0, width = 0;
        for (let at = 2; at < bytes.byteLength - 9 && !width; at += 2 + bytes.getUint16(at + 2)) {
            const marker = bytes.getUint8(at + 1);
            if (marker == 0xdb && !first) first = bytes.getUint8(at + 5);
            if (marker == 0xc0) width = bytes.getUint16(at + 7);
        }
        if (width < 200) return;  // the photograph of a frustum
        window.pictures = {count: window.pictures.count + 1, atRest: first < 12};
        window.lastPicture = data;
    });
    return make.call(URL, blob);
};
"""
"""JavaScript that counts the rendered pictures that arrive, and keeps the last one. Pictures of a moving camera are
compressed more: the first number of the quantisation table is 20, and 8 at rest."""


def errors_in(log: str) -> list[str]:
    """Return the tracebacks in the output of a viewer.

    One traceback of Nerfstudio is ignored: if a page is closed while its camera moves, its last messages arrive after
    the end of the thread that renders for it.
    """
    found = re.findall(r"Traceback \(most recent call last\):\n(?:[ \t].*\n)+.*", log)
    return [text for text in found if not ("render_statemachines" in text and re.search(r"\nKeyError: \d+$", text))]


class ViewerPage(Chromium):
    """The viewer's page, operated by mouse and keys."""

    is_covered = False
    """Whether frustums may stand before the picture, so that the canvas is not compared with it."""

    def enter(self, port: int) -> ViewerPage:
        self.send("Page.addScriptToEvaluateOnNewDocument", source=COUNT_PICTURES)
        self.open(f"http://127.0.0.1:{port}")
        self._seen = 0
        self.wait("document.body !== null && document.body.innerText.includes('SceneTok')")
        return self

    def canvas(self) -> Float[ndarray, "h w 3"]:
        """Return the canvas as it is on the screen."""
        x, y, width, height = map(round, self.evaluate(CANVAS))
        return self.screenshot()[y : y + height, x : x + width].astype(float)

    def view(self) -> Float[ndarray, "h w 3"]:
        """Return the last picture that has arrived, resized to the canvas."""
        width, height = (round(side) for side in self.evaluate(CANVAS)[2:])
        data = io.BytesIO(base64.b64decode(self.evaluate(LAST_PICTURE)))
        return asarray(Image.open(data).convert("RGB").resize((width, height))).astype(float)

    def on_screen(self, picture: Float[ndarray, "h w 3"]) -> bool:
        """Return whether the canvas shows a picture."""
        return bool(absolute(self.canvas() - picture).mean() < ON_SCREEN)

    def pictures(self) -> int:
        """Number of rendered pictures that have arrived."""
        return self.evaluate("window.pictures.count")

    def settle(self, seconds: float = 120) -> Float[ndarray, "h w 3"]:
        """Wait until the last action has led to a picture in full quality, no other follows, and the canvas shows it.
        Returns the picture."""
        deadline = time.monotonic() + seconds
        self.wait(f"window.pictures.count > {self._seen} && window.pictures.atRest", seconds)
        count, since, last = self.pictures(), time.monotonic(), self.view()
        while time.monotonic() < deadline:
            time.sleep(0.2)
            now = self.view()
            if self.pictures() != count or absolute(now - last).mean() > SAME / 10:
                count, since, last = self.pictures(), time.monotonic(), now
                continue
            rests = time.monotonic() > since + QUIET and self.evaluate("window.pictures.atRest")
            if rests and (self.is_covered or self.on_screen(now)):
                return now
        raise AssertionError(f"the picture does not come to rest in {seconds} s")

    def shows(self, right: Callable[[Float[ndarray, "h w 3"]], bool], seconds: float = 120) -> Float[ndarray, "h w 3"]:
        """Return the first settled picture for which `right` is true. Fails if there is none in time."""
        deadline = time.monotonic() + seconds
        while not right(picture := self.settle()):
            if time.monotonic() >= deadline:
                self.keep("failed")
            assert time.monotonic() < deadline, f"the right picture does not come in {seconds} s"
        return picture

    def turn(self, pixels: float) -> None:
        """Turn the camera by dragging."""
        self._seen = self.pictures()
        self.drag(CENTRE, (CENTRE[0] + pixels, CENTRE[1]))

    def keep(self, name: str) -> None:
        """Save a screenshot to the folder that the environment variable SCREENSHOTS names, if it is set."""
        if folder := os.environ.get("SCREENSHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.screenshot(Path(folder, f"{name}.png"))

    def input_of(self, label: str) -> str:
        """Return JavaScript for the input beside a label: the last one if there are several."""
        return (
            "(() => { const labels = [...document.querySelectorAll('label, p, div')].filter("
            f"e => e.childElementCount == 0 && e.textContent.trim() == {json.dumps(label)});"
            "for (const e of labels.reverse()) for (let i = 0, row = e; i < 5 && row; i++, row = row.parentElement) {"
            "const found = [...row.querySelectorAll('input:not([type=hidden]), textarea')];"
            "if (found.length) return found.at(-1); }"
            "return null; })()"
        )

    def place(self, element: str) -> tuple[float, float]:
        """Return the position to click on an element, after it has stopped moving and nothing lies over it."""
        where = (
            f"(() => {{ const e = {element}; if (!e) return null; e.scrollIntoView({{block: 'center'}});"
            "const r = e.getBoundingClientRect(), x = r.x + r.width / 2, y = r.y + r.height / 2;"
            "const hit = document.elementFromPoint(x, y);"
            "return hit && (e.contains(hit) || hit.contains(e)) ? [x, y] : null; })()"
        )
        last = None
        while (now := self.wait(where, 60)) != last:
            last = now
            time.sleep(0.1)
        return now[0], now[1]

    def fill(self, label: str, value: object) -> None:
        """Write into an input as a person does: select all, type, check the text, press Enter."""
        self.place(self.input_of(label))
        self._seen = self.pictures()
        for _ in range(5):
            # Not by mouse: the end of a click may come later and remove the selection.
            self.evaluate(f"(e => {{ e.focus(); e.select(); }})({self.input_of(label)})")
            self.type(str(value))
            if self.value(label) == str(value):
                break
        else:
            raise AssertionError(f"{label} is {self.value(label)!r}, not {value}")
        self.key("Enter", 13)

    def choose(self, label: str, option: str) -> None:
        """Choose an option of a drop-down list."""
        self.click(*self.place(self.input_of(label)))
        item = (
            "[...document.querySelectorAll('[role=option]')].find("
            f"e => e.textContent.trim() == {json.dumps(option)} && e.getClientRects().length)"
        )
        place = self.place(item)
        self._seen = self.pictures()
        self.click(*place)

    def options(self, label: str) -> list[str]:
        """Return the options of a drop-down list."""
        self.click(*self.place(self.input_of(label)))
        found = "[...document.querySelectorAll('[role=option]')].filter(e => e.getClientRects().length)"
        self.wait(f"{found}.length > 0", 60)
        names = self.evaluate(f"{found}.map(e => e.textContent.trim())")
        self.key("Escape", 27)
        self.wait(f"{found}.length == 0", 60)
        return names

    def press(self, name: str, renders: bool = True) -> None:
        """Press a button or a tab. `renders` says whether the viewer then renders."""
        button = (
            "[...document.querySelectorAll('button')].find("
            f"e => e.textContent.trim() == {json.dumps(name)} && e.getClientRects().length)"
        )
        place = self.place(button)
        self._seen = self.pictures() if renders else -1
        self.click(*place)

    def choose_output(self, name: str) -> None:
        """Choose the output type in Nerfstudio's own tab."""
        self.press("Control", renders=False)
        self.choose("Output type", name)
        self.press("SceneTok", renders=False)

    def unfold(self, label: str) -> None:
        """Open or close a folder of the panel."""
        found = f"[...document.querySelectorAll('div')].filter(e => e.textContent.trim() == {json.dumps(label)}"
        self.evaluate(f"{found} && e.querySelector('svg')).at(-1).click()")
        time.sleep(0.5)

    def upload(self, label: str, file: Path) -> None:
        """Upload a file with an upload button, as its dialog would."""
        button = f"[...document.querySelectorAll('button')].find(e => e.textContent.trim() == {json.dumps(label)})"
        self.wait(f"!!({button})")
        chosen = f"document.getElementById('file_upload_' + ({button}).id)"
        found = self.send("Runtime.evaluate", expression=chosen)["result"]
        self.send("DOM.setFileInputFiles", files=[str(file)], objectId=found["objectId"])

    def downloads_to(self, folder: Path) -> None:
        """Set the folder for downloads."""
        self.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def says(self, text: str, seconds: float = 60) -> None:
        """Wait until the page displays a text."""
        self.wait(f"document.body.innerText.includes({json.dumps(text)})", seconds)

    def value(self, label: str) -> str:
        return self.evaluate(f"({self.input_of(label)}).value")

    def complaints(self) -> list[str]:
        """Return the messages in the console that are not the viewer's own."""
        return [line for line in self.console if not OF_OTHERS.search(line)]
