"""Guards against misuse of viser 0.2.7 (Nerfstudio's version) by anybody who reaches the viewer's port.

viser's web server accepts `..` in a request's path, so it would send any file of this machine. viser sets any attribute
of an element that a message names, and values that a list does not offer, so Nerfstudio's Load Path would read any JSON
file. It also keeps everything that a page uploads in memory, without a limit. Nerfstudio pads pictures to the aspect
that a page names, however wide that is.

The guards replace viser's own methods by name. If viser lacks one of the names, no viewer is opened.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import math
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import viser
from viser import ViserServer

from scenetok_ns.viewer.viewer_files import LARGEST_UPLOAD

logger = logging.getLogger(__name__)

MOST_UPLOADS = 4
"""Maximum number of uploads at a time, of all browsers together."""
WIDEST = 20.0
"""Maximum ratio between the sides of a window."""
CHECKED_VERSION = "0.2.7"
"""Version of viser that the guards were written for and are tested with."""
NAMES: dict[str, tuple[str, ...]] = {
    "viser.infra._infra": ("WebsockServer.start", "WebsockMessageHandler._handle_incoming_message"),
    "viser._gui_api": (
        "GuiApi._handle_gui_updates",
        "GuiApi._handle_file_transfer_start",
        "GuiApi._handle_file_transfer_part",
    ),
    "viser._messages": ("FileTransferStart", "FileTransferPart", "GuiUpdateMessage", "ViewerCameraMessage"),
}
"""Module of viser -> names in it that the guards replace or use."""


class UnknownViserError(ValueError):
    """Raised if this version of viser cannot be guarded; the message says in one line what to do."""


def guard_viser() -> None:
    """Install the guards that need no server, for all viewers of this process. Safe to call twice.

    Raises UnknownViserError if viser lacks a name. Nothing has changed then; do not open a viewer.
    """
    found = missing_names()
    if found:
        raise UnknownViserError(
            f"the viewer needs viser {CHECKED_VERSION}, as Nerfstudio does; viser {viser_version()} has no {found[0]}, "
            "without which anybody on the network could read files of this machine: "
            f"pip install viser=={CHECKED_VERSION}"
        )
    guard_pages()
    guard_updates()
    guard_cameras()


def missing_names() -> list[str]:
    """Names in `NAMES` that this viser does not have."""
    missing = []
    for module, names in NAMES.items():
        for name in names:
            try:
                operator.attrgetter(name)(importlib.import_module(module))
            except (ImportError, AttributeError):
                missing.append(f"{module}.{name}")
    return missing


def viser_version() -> str:
    """Version of the installed viser."""
    return str(getattr(viser, "__version__", None) or importlib.metadata.version("viser"))


class PageFolder(type(Path())):  # type: ignore[misc]
    """The folder of the page's files. A path that leads out of it counts as missing."""

    def __truediv__(self, relative: Any) -> Any:
        home = Path(self)
        try:
            found = home.joinpath(relative).resolve()
            inside = found.is_relative_to(home.resolve()) and (not found.exists() or found.is_file())
        except (OSError, ValueError, RuntimeError):
            inside = False
        return home.joinpath(relative) if inside else home / "no-such-file"


def guard_pages() -> None:
    """Make all viser servers of this process send only files of their page. Safe to call twice."""
    from viser.infra import _infra

    server = _infra.WebsockServer
    if getattr(server.start, "is_guarded", False):
        return
    start = server.start

    def guarded(self: Any) -> None:
        root = getattr(self, "_http_server_root", None)
        if root is not None:
            self._http_server_root = PageFolder(root)
        start(self)

    guarded.is_guarded = True  # type: ignore[attr-defined]
    server.start = guarded  # type: ignore[method-assign]


def guard_updates() -> None:
    """Let pages set only the values of elements, and of lists only the offered values. Safe to call twice."""
    from viser import _gui_api

    stock = _gui_api.GuiApi._handle_gui_updates
    if getattr(stock, "is_guarded", False):
        return

    def guarded(self: Any, client: Any, message: Any) -> None:
        handle = self._gui_input_handle_from_id.get(message.id)
        if handle is None or set(message.updates) != {"value"}:
            return
        if isinstance(handle, viser.GuiDropdownHandle) and message.updates["value"] not in handle.options:
            logger.warning("%s was sent a value that it does not offer; it is left out", handle._impl.label)
            return
        stock(self, client, message)

    guarded.is_guarded = True  # type: ignore[attr-defined]
    _gui_api.GuiApi._handle_gui_updates = guarded  # type: ignore[method-assign, assignment]


def guard_cameras() -> None:
    """Drop cameras that no page has: numbers that are not finite, extreme aspects. Safe to call twice."""
    from viser import _messages
    from viser.infra import _infra

    handler, camera = _infra.WebsockMessageHandler, _messages.ViewerCameraMessage
    stock = handler._handle_incoming_message
    if getattr(stock, "is_guarded", False):
        return

    def guarded(self: Any, client: Any, message: Any) -> None:
        if not isinstance(message, camera) or is_sound_camera(message):
            stock(self, client, message)

    guarded.is_guarded = True  # type: ignore[attr-defined]
    handler._handle_incoming_message = guarded  # type: ignore[method-assign, assignment]


def is_sound_camera(message: Any) -> bool:
    """Whether a camera message has finite numbers, a field of view below 180 degrees, and an aspect of a window."""
    try:
        places = [*message.wxyz, *message.position, *message.look_at, *message.up_direction]
        finite = len(places) == 13 and all(math.isfinite(value) for value in places)
        return finite and 0 < message.fov < math.pi and 1 / WIDEST <= message.aspect <= WIDEST
    except TypeError:
        return False


def guard_uploads(server: ViserServer, refused: Callable[[str], None]) -> None:
    """Limit what pages may upload: size, number at a time, and not more than was announced.

    `refused` receives the reason why an upload is dropped.
    """
    from viser import _messages

    handlers = server._websock_server._incoming_handlers
    gui = server.gui
    states = gui._current_file_upload_states
    start, part = _messages.FileTransferStart, _messages.FileTransferPart

    def start_guarded(client: Any, message: Any) -> None:
        name, size, count = message.filename, message.size_bytes, message.part_count
        if not _is_sound(name, size, count):
            refused(f"an upload of {str(size)[:20]} bytes is refused: at most {LARGEST_UPLOAD:,} are taken")
        elif len(states) >= MOST_UPLOADS:
            states.clear()  # of pages that were closed meanwhile, or that ask too much
            refused("uploads that were not finished are dropped; send the file again")
        else:
            gui._handle_file_transfer_start(client, message)

    def part_guarded(client: Any, message: Any) -> None:
        state = states.get(message.transfer_uuid)
        if state is None:
            return
        length = len(message.content) if isinstance(message.content, bytes) else LARGEST_UPLOAD
        expected = isinstance(message.part, int) and 0 <= message.part < state["part_count"]
        again = message.part in state["parts"] if expected else True
        known = message.source_component_id in gui._gui_input_handle_from_id
        if not expected or again or not known or state["transferred_bytes"] + length > state["total_bytes"]:
            states.pop(message.transfer_uuid, None)
            refused("an upload is dropped: more or other data came than was announced")
            return
        gui._handle_file_transfer_part(client, message)

    for kind, stock, guard in (
        (start, gui._handle_file_transfer_start, start_guarded),
        (part, gui._handle_file_transfer_part, part_guarded),
    ):
        handlers[kind] = [guard if handler == stock else handler for handler in handlers.get(kind, [])]


def _is_sound(name: Any, size: Any, count: Any) -> bool:
    numbers = isinstance(size, int) and isinstance(count, int)
    return numbers and isinstance(name, str) and 0 < size <= LARGEST_UPLOAD and 0 < count <= size
