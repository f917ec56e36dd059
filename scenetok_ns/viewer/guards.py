"""Guards against what anybody who reaches the viewer's port could do with viser 0.2.7.

Its web server takes `..` in a request's path, so that it would send any file of this machine. It sets whatever
attribute of an element a message names, and values that a list does not offer: Nerfstudio's Load Path would read any
JSON file.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import viser
from viser import _gui_api
from viser.infra import _infra

logger = logging.getLogger(__name__)


class PageFolder(type(Path())):  # type: ignore[misc]
    """The folder of the page's files. What is taken from it by a path that leads out of it does not exist."""

    def __truediv__(self, relative: Any) -> Any:
        home = Path(self)
        try:
            found = home.joinpath(relative).resolve()
            inside = found.is_relative_to(home.resolve()) and (not found.exists() or found.is_file())
        except (OSError, ValueError, RuntimeError):
            inside = False
        return home.joinpath(relative) if inside else home / "no-such-file"


def guard_pages() -> None:
    """Have all viser servers of this process send files of their page only. Safe to call twice."""
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
    """Have elements take values alone from pages, and lists what they offer. Safe to call twice."""
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
