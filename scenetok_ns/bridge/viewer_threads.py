"""Rendering inside Nerfstudio's viewer: cheap interrupts, and the browser that asked.

The viewer renders under `sys.settrace` and interrupts by raising from the trace function at any Python line. Traced
Python is two to three times slower, and an exception at any line can leave a cache half updated.
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
"""Frame rate for which the viewer chooses the size of its moving pictures; low enough that it always uses its size at
rest. The time of our renders does not depend on the size."""


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
    """Whether this thread is one of a viewer's render threads, which an exception would end.

    Compares names, so that the viewer is not imported without need; the legacy viewer has its own class of that
    name.
    """
    return any(cls.__name__ == "RenderStateMachine" for cls in type(threading.current_thread()).__mro__)


def _look_at_nothing(frame: Any, event: str, arg: Any) -> None:
    """A trace function that has no lines traced."""


Display = Callable[[dict[str, Any]], dict[str, Any]]
"""Outputs -> what a page draws of them as colours."""


def _send_at_once(thread: Any, display: Display, outputs: dict[str, Any], static_render: bool = True) -> None:
    """What the viewer does with a picture, without the 17 ms in which its server waits for more messages to send."""
    type(thread)._send_output_to_viewer(thread, display(outputs), static_render)
    with contextlib.suppress(KeyError):  # the browser has just been closed
        thread.client.flush()


class RenderThread:
    """The viewer's thread that renders for one browser: this one.

    Without changes, it asks for a picture of each pose three times: while the camera moves (`low_move`), again after
    0.2 s without message (`low_static`), and after as much again at full size (`high`). The legacy viewer's threads
    always count as resting, and are left to their own pace.
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
        """Whether it only asks for the last preview once more, which comes before a full picture that was given up is
        begun again."""
        return self._paced and self._thread.state == "low_static"

    def adopt(self, display: Display) -> bool:
        """Have all pictures of this browser made at the size that they have at rest, drawn as `display` says and sent
        at once, none of them twice, and interrupts left to `check`.

        The viewer notes an interrupt whenever the camera moves after a rest, also if nothing is being rendered, and its
        trace function then ends the preview that the move asked for.

        Returns:
            Whether the picture was asked for before this was set. Its size then follows the speed of earlier renders
            and may be as low as 30 pixels.
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
        """Send a picture that another follows, while the thread goes on; none where pictures are composed with depth,
        which these do not have."""
        if self._paced and not self._thread.viewer.control_panel.layer_depth:
            self._thread._send_output_to_viewer(outputs, static_render=False)

    def check(self) -> None:
        """Raise IOChangeException, which the viewer expects, if the camera has moved since this picture was asked for
        in full quality. Previews are finished: else a steady movement would show none."""
        if self._paced and not self.moving and self._thread.interrupt_render_flag:
            self._thread.interrupt_render_flag = False
            raise IOChangeException

    def others_move(self) -> bool:
        """Whether another browser waits for a preview while this thread renders a full picture."""
        if not self._paced or self.moving:
            return False
        # One that has its preview is no longer in this state: it goes on at once.
        threads = list(self._thread.viewer.render_statemachines.values())
        return any(thread.state == "low_move" for thread in threads if thread is not self._thread)

    def ask_again(self) -> None:
        """Have this picture asked for once more, later: it is about to be given up in favour of another browser."""
        self._act("rerender")
        self._thread.interrupt_render_flag = False  # set by that, but there is nothing left to interrupt

    def starts_over(self) -> bool:
        """Have the viewer ask for this view from the beginning, its preview first; whether it does so."""
        if not self._paced:
            return False
        self._act("move")
        self._thread.interrupt_render_flag = False  # set by that, but there is nothing left to interrupt
        return True

    def go_on(self) -> None:
        """Have the viewer ask for the next better picture of the pose at once, where it would wait for 0.2 s."""
        if self.moving and self._thread.next_action is None:
            self._act("static")

    def catch_up(self, c2w: torch.Tensor) -> None:
        """Have the viewer ask again if the camera has moved on from `c2w` without the viewer having noticed: two
        threads may have written its next action at once."""
        if not self._paced or self.moving or self._thread.next_action is not None:
            return
        now = self._thread.viewer.get_camera_state(self._thread.client).c2w.to(c2w)
        if now.isfinite().all() and not torch.equal(now, c2w):
            self._act("move")

    def _act(self, action: Any) -> None:
        from nerfstudio.viewer.render_state_machine import RenderAction

        self._thread.action(RenderAction(action, self._thread.viewer.get_camera_state(self._thread.client)))
