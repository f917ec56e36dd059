"""One thread that does the work of all callers, window by window.

Captured graphs write to buffers that all paths share, so two callers must never run them at once, and a viewer calls
from one thread for each of its clients. Callers wait here instead; an exception from their `on_step`, in their own
thread, ends only their own job. Jobs take turns, so a long path does not keep a short one waiting for its end.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")
Report = Callable[[int, int], None]

LOOK_AHEAD = 2
"""Number of results that are computed before the caller asks for them."""
IDLE_SECONDS = 30.0
"""The thread ends after this many seconds without a job; the next job starts a new thread."""


class CancelledJob(BaseException):
    """Ends a job from inside when its caller is gone."""


class _Job(Generic[T]):
    def __init__(self, start: Callable[[Report], Iterator[T]], reports: bool) -> None:
        self._start, self._reports = start, reports
        self._results: Iterator[T] | None = None
        self.messages: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self.cancelled = False
        self.ahead = 0
        """Results that wait for the caller; under the worker's lock."""

    def advance(self) -> tuple[str, Any]:
        """Compute the next result. Returns ("result", result), ("end", None) or ("error", exception)."""
        try:
            if self._results is None:
                self._results = self._start(self._report)
            return "result", next(self._results)
        except StopIteration:
            return "end", None
        except BaseException as error:
            return "error", error

    def close(self) -> BaseException | None:
        """Release everything, in the worker's thread; returns an exception that was raised meanwhile."""
        close = getattr(self._results, "close", None)  # generators have it
        self._results = None
        try:
            if close is not None:
                close()
        except BaseException as error:
            return error
        return None

    def _report(self, done: int, total: int) -> None:
        if self.cancelled:
            raise CancelledJob
        if self._reports:
            self.messages.put(("step", (done, total)))


class Worker:
    """Runs jobs, each of which is an iterator, one result at a time and in turns."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Condition()
        self._jobs: deque[_Job[Any]] = deque()
        self._thread: threading.Thread | None = None

    def run(self, start: Callable[[Report], Iterator[T]], on_step: Report | None = None) -> Iterator[T]:
        """Yield the results of `start(report)`, which runs in the worker's thread from the first `next` on.

        `on_step` receives the job's reports in the caller's thread; an exception from it ends the job.
        """
        job = _Job(start, reports=on_step is not None)
        with self._lock:
            self._jobs.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._thread.start()
            self._lock.notify()
        try:
            while True:
                kind, value = job.messages.get()
                if kind == "step":
                    if on_step is not None:
                        on_step(*value)
                elif kind == "result":
                    with self._lock:
                        job.ahead -= 1
                        self._lock.notify()
                    yield value
                elif kind == "error":
                    raise value
                else:
                    return
        finally:
            with self._lock:
                job.cancelled = True
                self._lock.notify()

    def _work(self) -> None:
        while (job := self._next()) is not None:
            kind, value = ("end", None) if job.cancelled else job.advance()
            with self._lock:
                job.ahead += kind == "result"
                if kind != "result":
                    self._jobs.remove(job)
            if kind != "result" and (failure := job.close()) is not None:
                logger.warning("%s: what a job held could not be given back: %r", self._name, failure)
                del failure
            job.messages.put((kind, value))
            del job, kind, value  # otherwise they would stay in memory while this thread waits

    def _next(self) -> _Job[Any] | None:
        """The next job that can continue; None: the thread must end."""
        with self._lock:
            while True:
                for job in list(self._jobs):
                    if job.cancelled or job.ahead < LOOK_AHEAD:
                        self._jobs.remove(job)
                        self._jobs.append(job)
                        return job
                if not self._lock.wait(IDLE_SECONDS) and not self._jobs:
                    self._thread = None
                    return None
