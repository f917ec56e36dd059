"""Run long work in a thread that takes turns with the render threads, so that the viewer stays live."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from scenetok_ns.viewer.elements import Kind, asking_client, serve

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
TURN_SECONDS = 0.002
"""Pause in seconds between two steps, in which waiting renders get their turn."""
REPORT_SECONDS = 0.3


class StoppedError(Exception):
    """The work was aborted."""


class Work(threading.Thread, Generic[Result]):
    """One piece of work. It holds the viewer's lock while it computes, and lets renders run between its steps."""

    def __init__(
        self,
        run: Callable[[Callable[[int, int], None]], Result],
        lock: Any,
        *,
        share: bool,
        report: Callable[[str, Kind, float | None], None],
        done: Callable[[Result], str],
        doing: str,
    ) -> None:
        """
        Args:
            run: Does the work and reports its steps.
            lock: The viewer's lock, which every use of the model needs.
            share: Release the lock between steps; False if training would continue with the model meanwhile.
            report: Receives a line, its kind, and the progress from 0 to 1 (None: the work has ended). Called without
                the lock.
            done: Takes the result and returns a line to report. Called with the lock.
            doing: Name of the work for the reports ("generating").
        """
        super().__init__(daemon=True, name=f"scenetok-{doing}")
        self._run, self._lock, self._share, self._report, self._done = run, lock, share, report, done
        self._client = asking_client()  # its camera moves to the new scene, and it gets the notification
        self._doing, self._stop_asked, self._reported = doing, threading.Event(), 0.0

    def abort(self) -> None:
        """End the work at its next step."""
        self._stop_asked.set()

    def announce(self, text: str) -> None:
        """Report the start of the work."""
        self._report(text, "good", 0.0)

    def run(self) -> None:
        serve(self._client)
        started = time.monotonic()
        try:
            with self._lock:
                said = self._done(self._run(self.on_step))
            self._report(f"{said} in {time.monotonic() - started:.1f} s", "good", None)
        except StoppedError:
            self._report("stopped", "warning", None)
        except Exception as error:
            level = logging.WARNING if isinstance(error, (ValueError, OSError)) else logging.ERROR
            logger.log(level, "%s failed: %s", self._doing, error, exc_info=level == logging.ERROR)
            self._report(str(error) or type(error).__name__, "error", None)

    def on_step(self, done: int, total: int, doing: str | None = None) -> None:
        """Hook that runs between two steps. Raises StoppedError."""
        if self._stop_asked.is_set():
            raise StoppedError
        due = time.monotonic() > self._reported + REPORT_SECONDS
        if self._share:
            self._lock.release()
        try:
            if due:
                self._reported = time.monotonic()
                self._report(f"{doing or self._doing}: step {done} of {total}", "good", done / max(total, 1))
            if self._share:
                time.sleep(TURN_SECONDS)
        finally:
            if self._share:
                self._lock.acquire()
