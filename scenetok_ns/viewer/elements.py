"""Elements of the panel: Nerfstudio's viewer elements with more of what viser offers, and folders that report.

Elements hold their values without a viewer, too, and show them once `Folder.install` has run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Literal

import viser
from nerfstudio.viewer.viewer_elements import (
    ViewerButton,
    ViewerDropdown,
    ViewerElement,
    ViewerNumber,
    ViewerSlider,
    ViewerText,
)
from viser import ViserServer
from viser._messages import GuiUpdateMessage

from scenetok_ns.viewer.page_text import note, paragraph

Kind = Literal["good", "warning", "error"]
COLOURS: dict[Kind, Literal["green", "yellow", "red"]] = {"good": "green", "warning": "yellow", "error": "red"}

_touch = threading.local()


def asking_client() -> viser.ClientHandle | None:
    """Return the browser whose user changed the element that this thread handles; None: the program changed it."""
    return getattr(_touch, "client", None)


def serve(client: viser.ClientHandle | None) -> None:
    """Make this thread work for a browser, which `asking_client` then returns."""
    _touch.client = client


class _Prompt:
    """Remembers which browser touched the element, and calls `interrupt` at once."""

    renders = True
    """Whether the viewer renders again after a change."""
    interrupt: Callable[[], None] | None = None
    gui_handle: Any

    def _create_gui_handle(self, viser_server: ViserServer) -> None:
        super()._create_gui_handle(viser_server)  # type: ignore[misc]
        register = getattr(self.gui_handle, "on_click", None) or self.gui_handle.on_update
        # Before the hook, which is registered later and called in order by the same thread.
        register(self._touched)

    def _touched(self, event: Any) -> None:
        serve(event.client)
        if self.interrupt is not None:
            self.interrupt()

    def show(self, value: Any) -> None:
        """Set the value without calling the hook, which setting `value` does in another thread."""
        if self.gui_handle is None:
            self.value = value
        else:
            show_value(self.gui_handle, value)


def show_value(handle: Any, value: Any) -> None:
    """Give an element of viser a value in all browsers without calling its hooks."""
    handle._impl.value = value
    handle._impl.gui_api._websock_interface.queue_message(GuiUpdateMessage(handle._impl.id, {"value": value}))


class Button(_Prompt, ViewerButton):
    """A button after which the viewer renders again."""

    def __init__(
        self, name: str, act: Callable[[Any], None], *, hint: str | None = None, is_main: bool = False
    ) -> None:
        """`is_main`: Draw it in the page's own colour, as the main button of its folder."""
        super().__init__(name, act)
        self.hint, self.is_main = hint, is_main

    def install(self, viser_server: ViserServer) -> None:
        colour: Literal["gray"] | None = None if self.is_main else "gray"
        self.gui_handle = viser_server.gui.add_button(self.name, hint=self.hint, color=colour)
        self.gui_handle.on_click(self._touched)
        self.gui_handle.on_click(lambda _: self.cb_hook(self))


class QuietButton(Button):
    """A button that changes no picture: it neither interrupts nor renders, and does not wait for a lock."""

    renders = False


class Dropdown(_Prompt, ViewerDropdown):
    """A choice."""


class Number(_Prompt, ViewerNumber):
    """A number."""


class Slider(_Prompt, ViewerSlider):
    """A slider."""


class Text(_Prompt, ViewerText):
    """A line of text. It changes with every key pressed, so it neither interrupts nor renders."""

    renders = False


class Choice(Dropdown):
    """A choice that changes no picture by itself."""

    renders = False


class Setting(Number):
    """A number that changes no picture by itself."""

    renders = False


class Range(Slider):
    """A slider that changes no picture by itself."""

    renders = False


class Upload(ViewerElement[bytes]):
    """A button that takes a file from the browser. `take(name, content)` receives the file, with the viewer's lock."""

    renders = False
    gui_handle: Any

    def __init__(self, name: str, kinds: str, take: Callable[[str, bytes], None], hint: str | None = None) -> None:
        """`kinds`: Types of files that the browser offers, in the form of HTML's attribute `accept`."""
        super().__init__(name)
        self.kinds, self.take, self.hint = kinds, take, hint

    def install(self, viser_server: ViserServer) -> None:
        self._create_gui_handle(viser_server)

    def _create_gui_handle(self, viser_server: ViserServer) -> None:
        self.gui_handle = viser_server.gui.add_upload_button(
            self.name, mime_type=self.kinds, hint=self.hint, icon=viser.Icon.UPLOAD
        )
        self.gui_handle.on_upload(self._uploaded)

    def _uploaded(self, event: Any) -> None:
        serve(event.client)
        file = self.gui_handle.value
        self.gui_handle._impl.value = type(file)("", b"")  # else the server would keep it for good
        self.take(file.name, file.content)


class ButtonList(ViewerElement[str]):
    """A closed folder of buttons that come and go."""

    renders = False
    gui_handle: Any

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.buttons: list[Button] = []

    def install(self, viser_server: ViserServer) -> None:
        self._server = viser_server
        self._create_gui_handle(viser_server)

    def _create_gui_handle(self, viser_server: ViserServer) -> None:
        self.gui_handle = viser_server.gui.add_folder(self.name, expand_by_default=False)

    def fill(self, buttons: Sequence[Button], connect: Callable[[ViewerElement], None]) -> None:
        """Replace the buttons by these. Calls `connect` with each installed button."""
        for button in self.buttons:
            button.gui_handle.remove()
        self.buttons = list(buttons)
        with self.gui_handle:
            for button in self.buttons:
                button.install(self._server)
                connect(button)


class Prose(ViewerElement[str]):
    """Text in the panel, as Markdown with HTML (`page_text` makes it)."""

    renders = False
    gui_handle: Any

    def __init__(self, content: str = "") -> None:
        super().__init__("")
        self._content = content

    @property
    def content(self) -> str:
        return self._content

    @content.setter
    def content(self, content: str) -> None:
        if content == self._content:
            return
        self._content = content
        if self.gui_handle is not None:
            self.gui_handle.content = content
            self.gui_handle.visible = bool(content)

    def install(self, viser_server: ViserServer) -> None:
        self._create_gui_handle(viser_server)

    def _create_gui_handle(self, viser_server: ViserServer) -> None:
        self.gui_handle = viser_server.gui.add_markdown(self._content, visible=bool(self._content))


class Status(ViewerElement[str]):
    """Result of the last button of a folder, and a progress bar for running work."""

    renders = False
    gui_handle: Any

    def __init__(self) -> None:
        super().__init__("Status")
        self.value = ""
        self.kind: Kind = "good"
        self._bar: Any = None

    def install(self, viser_server: ViserServer) -> None:
        self._create_gui_handle(viser_server)

    def _create_gui_handle(self, viser_server: ViserServer) -> None:
        self._bar = viser_server.gui.add_progress_bar(0.0, visible=False, animated=True)
        self.gui_handle = viser_server.gui.add_markdown("", visible=False)

    def say(self, text: str, kind: Kind = "good") -> None:
        self.value, self.kind = text, kind
        if self.gui_handle is not None:
            self.gui_handle.content = note(text, COLOURS[kind]) if text else paragraph("")
            self.gui_handle.visible = bool(text)

    def progress(self, done: float | None) -> None:
        """Show progress from 0 to 1; None hides the bar."""
        if self._bar is not None:
            if done is not None:
                self._bar.value = 100.0 * min(max(done, 0.0), 1.0)
            self._bar.visible = done is not None


class Folder:
    """Elements in a folder of the panel, in the order given, and its status below them."""

    def __init__(self, label: str, elements: Sequence[ViewerElement], *, is_open: bool = True) -> None:
        self.label, self.elements, self.is_open = label, list(elements), is_open
        self.status = Status()

    def install(self, server: ViserServer, connect: Callable[[ViewerElement], None]) -> None:
        """Show the elements in the container that the calling thread is in. `connect` is given each, installed."""
        with server.gui.add_folder(self.label, expand_by_default=self.is_open):
            for element in (*self.elements, self.status):
                element.install(server)
                connect(element)

    def element(self, name: str) -> Any:
        """The element of that name."""
        return next(element for element in self.elements if element.name == name)
