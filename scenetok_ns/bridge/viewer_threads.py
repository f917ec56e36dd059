"""Render inside Nerfstudio's viewer: cheap interrupts, and control of the thread that renders for a browser.

The viewer renders under `sys.settrace` and interrupts by raising an exception from the trace function at any Python
line. Traced Python is two to three times slower, and an exception at any line can leave a cache half updated.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from nerfstudio.viewer_legacy.server.viewer_utils import IOChangeException

LARGE_PICTURES = 1e-6
"""Target frame rate from which the viewer chooses the size of pictures while the camera moves. It is so low that the
size is always the full one, because the time of our renders does not depend on the size."""


class Untraced:
    """Runs a block without the thread's trace function, which is called only in `check`.

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
        """Run one traced line, at which the trace function can raise."""
        if self._trace is None:
            return
        sys.settrace(self._trace)
        try:
            _traced_line()
        finally:
            sys.settrace(None)


def _traced_line() -> None:
    """Run the only line that the trace function sees."""
    return


def asked_by_viewer() -> bool:
    """Whether this thread is a render thread of a viewer, which an exception would end.

    Names are compared so that the viewer need not be imported. The legacy viewer has its own class with this name.
    """
    return any(cls.__name__ == "RenderStateMachine" for cls in type(threading.current_thread()).__mro__)


def _look_at_nothing(frame: Any, event: str, arg: Any) -> None:
    """Trace no lines."""


Display = Callable[[dict[str, Any]], dict[str, Any]]
"""Converts outputs to those that a page draws as colours."""


def _send_at_once(thread: Any, display: Display, outputs: dict[str, Any], static_render: bool = True) -> None:
    """Send a picture like the viewer does, but without the 17 ms for which its server waits for more messages."""
    type(thread)._send_output_to_viewer(thread, display(outputs), static_render)
    with contextlib.suppress(KeyError):  # the browser has just been closed
        thread.client.flush()


class RenderThread:
    """The current thread, which is the viewer's render thread for one browser.

    Without changes, it requests three pictures of each pose: one while the camera moves (`low_move`), one after 0.2 s
    without a message (`low_static`), and after another 0.2 s one at full size (`high`). Threads of the legacy viewer
    always count as resting and are not changed.
    """

    def __init__(self) -> None:
        self._thread: Any = threading.current_thread()
        modules = [cls.__module__ for cls in type(self._thread).__mro__]
        self._paced = "nerfstudio.viewer.render_state_machine" in modules

    @property
    def moving(self) -> bool:
        """Whether a preview is enough."""
        return self._paced and self._thread.state != "high"

    @property
    def waiting(self) -> bool:
        """Whether the thread only requests the last preview again, as it does before it restarts an aborted full
        picture."""
        return self._paced and self._thread.state == "low_static"

    def adopt(self, display: Display) -> bool:
        """Change how the thread renders: pictures have full size, none is rendered twice, each is converted by
        `display` and sent at once, and interrupts happen only in `check`.

        The viewer records an interrupt whenever the camera moves after a rest, even if nothing is being rendered. Its
        trace function would then abort the preview that this movement requested.

        Returns:
            Whether the current picture was requested before this change. Its size then depends on the speed of earlier
            renders, and may be as low as 30 pixels.
        """
        early = self._paced and self._thread.target_fps != LARGE_PICTURES
        if self._paced:
            self._thread.target_fps = LARGE_PICTURES
            self._thread.transitions["low_move"]["static"] = "high"
            self._thread.check_interrupt = _look_at_nothing
            self._thread._send_output_to_viewer = functools.partial(_send_at_once, self._thread, display)
            if self.moving:
                self._thread.interrupt_render_flag = False
        return early

    def show(self, outputs: dict[str, Any]) -> None:
        """Send an intermediate picture while the thread goes on.

        Nothing is sent if pictures are composed with depth, which intermediate pictures do not have.
        """
        if self._paced and not self._thread.viewer.control_panel.layer_depth:
            self._thread._send_output_to_viewer(outputs, static_render=False)

    def check(self) -> None:
        """Raise IOChangeException, which the viewer expects, if the camera has moved since this full picture was
        requested. Previews are always finished: otherwise a steady movement would display none."""
        if self._paced and not self.moving and self._thread.interrupt_render_flag:
            self._thread.interrupt_render_flag = False
            raise IOChangeException

    def others_move(self) -> bool:
        """Whether another browser waits for a preview while this thread renders a full picture."""
        if not self._paced or self.moving:
            return False
        # A browser that already has its preview is no longer in this state.
        threads = list(self._thread.viewer.render_statemachines.values())
        return any(thread.state == "low_move" for thread in threads if thread is not self._thread)

    def ask_again(self) -> None:
        """Make the viewer request this picture again later. Call this before aborting it for another browser."""
        self._act("rerender")
        self._thread.interrupt_render_flag = False  # the action sets it, but there is nothing left to interrupt

    def starts_over(self) -> bool:
        """Make the viewer request this view from the beginning, with its preview first. Returns whether it does so."""
        if not self._paced:
            return False
        self._act("move")
        self._thread.interrupt_render_flag = False  # the action sets it, but there is nothing left to interrupt
        return True

    def go_on(self) -> None:
        """Make the viewer request the next better picture of the pose at once, instead of waiting for 0.2 s."""
        if self.moving and self._thread.next_action is None:
            self._act("static")

    def catch_up(self, c2w: torch.Tensor) -> None:
        """Make the viewer request a picture if the camera has moved on from `c2w` without the viewer noticing.

        That happens if two threads write its next action at the same time.
        """
        if not self._paced or self.moving or self._thread.next_action is not None:
            return
        now = self._thread.viewer.get_camera_state(self._thread.client).c2w.to(c2w)
        if now.isfinite().all() and not torch.equal(now, c2w):
            self._act("move")

    def _act(self, action: Any) -> None:
        from nerfstudio.viewer.render_state_machine import RenderAction

        self._thread.action(RenderAction(action, self._thread.viewer.get_camera_state(self._thread.client)))
