"""The worker with jobs that need no device: turns, interrupts, errors, threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from scenetok_ns.models.engine import worker as module
from scenetok_ns.models.engine.worker import LOOK_AHEAD, CancelledJob, Worker


def counting(length: int, log: list[str] | None = None, name: str = ""):
    def start(report) -> Iterator[int]:
        for i in range(length):
            report(i, length)
            if log is not None:
                log.append(f"{name}{i}")
            yield i

    return start


def wait_until(condition) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "waited for 10 seconds"
        time.sleep(0.002)


def test_results_come_in_order_and_steps_in_the_callers_thread() -> None:
    steps: list[tuple[int, int, threading.Thread]] = []
    results = Worker("test").run(counting(4), lambda *report: steps.append((*report, threading.current_thread())))
    assert list(results) == [0, 1, 2, 3]
    assert steps == [(i, 4, threading.main_thread()) for i in range(4)]


def test_work_is_done_in_one_other_thread_whoever_asks() -> None:
    seen: set[threading.Thread] = set()

    def start(report) -> Iterator[int]:
        for i in range(5):
            seen.add(threading.current_thread())
            yield i

    worker, totals = Worker("the worker"), []
    callers = [threading.Thread(target=lambda: totals.append(sum(worker.run(start)))) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(10)
    assert totals == [10] * 4 and {thread.name for thread in seen} == {"the worker"} and len(seen) == 1


def test_it_works_ahead_but_not_far() -> None:
    log: list[str] = []
    results = Worker("test").run(counting(10, log))
    assert next(results) == 0
    wait_until(lambda: len(log) == 1 + LOOK_AHEAD)
    time.sleep(0.05)
    assert len(log) == 1 + LOOK_AHEAD
    assert list(results) == list(range(1, 10))


def test_jobs_take_turns() -> None:
    worker, log = Worker("test"), []
    gate = threading.Event()

    def waiting(report) -> Iterator[int]:
        gate.wait(10)
        yield 0

    first = threading.Thread(target=lambda: list(worker.run(waiting)))
    first.start()
    others = [threading.Thread(target=lambda n=n: list(worker.run(counting(3, log, n)))) for n in "ab"]
    for count, other in enumerate(others, start=2):
        other.start()
        wait_until(lambda count=count: len(worker._jobs) == count)
    gate.set()
    for thread in (first, *others):
        thread.join(10)
    assert log[:4] == ["a0", "b0", "a1", "b1"]


def test_what_a_caller_raises_between_steps_ends_its_job_alone() -> None:
    class StopError(Exception):
        pass

    worker, ended = Worker("test"), threading.Event()

    def endless(report) -> Iterator[int]:
        try:
            for i in range(10**9):
                report(i, 10**9)
        except CancelledJob:
            ended.set()
            raise
        yield 0

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise StopError

    with pytest.raises(StopError):
        next(worker.run(endless, stop))
    assert ended.wait(10)
    assert list(worker.run(counting(3))) == [0, 1, 2]


def test_errors_reach_the_caller_and_the_worker_lives() -> None:
    def broken(report) -> Iterator[int]:
        yield 1
        raise ValueError("no good")

    worker = Worker("test")
    results = worker.run(broken)
    assert next(results) == 1
    with pytest.raises(ValueError, match="no good"):
        next(results)
    assert list(worker.run(counting(2))) == [0, 1]


def test_a_caller_that_goes_away_leaves_nothing_behind() -> None:
    worker, closed = Worker("test"), threading.Event()

    def start(report) -> Iterator[int]:
        try:
            yield from range(100)
        finally:
            closed.set()

    results = worker.run(start)
    assert next(results) == 0
    results.close()
    assert closed.wait(10)
    wait_until(lambda: not worker._jobs)


def test_an_idle_thread_ends_and_the_next_job_starts_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.01)
    worker = Worker("test")
    assert list(worker.run(counting(2))) == [0, 1]
    wait_until(lambda: worker._thread is None)
    assert list(worker.run(counting(2))) == [0, 1]


def test_the_worker_outlives_a_job_that_fails_in_letting_go(caplog: pytest.LogCaptureFixture) -> None:
    worker = Worker("test")

    def start(report) -> Iterator[int]:
        try:
            yield from range(9)
        finally:
            raise OSError("no way home")

    results = worker.run(start)
    next(results)
    results.close()
    assert list(worker.run(counting(3))) == [0, 1, 2]
    wait_until(lambda: "no way home" in caplog.text)
