"""Rendering inside Nerfstudio's viewer: cheap interrupts, and who is asking.

The viewer renders under `sys.settrace` and interrupts by raising from the trace function at any Python line. Traced
Python is two to three times slower, and an exception at any line can leave a cache half updated.
"""

from __future__ import annotations

import sys
import threading
from types import TracebackType


class Untraced:
    """Runs a block without the thread's trace function, which looks only when `check` is called.

    >>> with Untraced() as untraced:
    ...     for _ in range(3):  # heavy work
    ...         untraced.check()  # raises here what the trace function raises
    """

    def __enter__(self) -> Untraced:
        self._trace = sys.gettrace()
        sys.settrace(None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        sys.settrace(self._trace)

    def check(self) -> None:
        """Let the trace function see one line, and raise if it wants to."""
        if self._trace is None:
            return
        sys.settrace(self._trace)
        try:
            _traced_line()
        finally:
            sys.settrace(None)


def _traced_line() -> None:
    """Its one line is what a trace function gets to see."""
    return


def asked_by_viewer() -> bool:
    """Whether this thread is one of a viewer's render threads, which an exception would end for good.

    By name, so that the viewer need not be imported where there is none; the legacy viewer has its own class of that
    name.
    """
    return any(cls.__name__ == "RenderStateMachine" for cls in type(threading.current_thread()).__mro__)
