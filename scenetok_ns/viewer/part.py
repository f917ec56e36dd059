"""A folder of the panel with what its elements do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scenetok_ns.viewer.elements import Folder, Kind
from scenetok_ns.viewer.session import Session


class Part:
    """Subclasses create `folder` in their constructor."""

    folder: Folder

    def __init__(self, session: Session) -> None:
        self.session = session

    def opened(self) -> None:
        """Called once the viewer is open and the elements are installed."""

    def does(self, act: Callable[[], str | None], *, loud: bool = True) -> Callable[[Any], None]:
        """Return a hook that calls `act` and reports its result or error in this folder (`Session.hook`)."""
        return self.session.hook(lambda: self.folder, act, loud=loud)

    def says(self, text: str, kind: Kind, done: float | None) -> None:
        """Report background work: a line, its kind, and its progress from 0 to 1; None: the work has ended."""
        self.folder.status.progress(done)
        self.session.report(self.folder.status, text, kind, loud=done is None)
