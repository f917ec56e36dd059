"""Common parts of jobs over all scenes of a data set: shards, reading ahead, skipped scenes, a report."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from scenetok_ns.data.precomputed.latent_files import check_scene_name
from scenetok_ns.data.precomputed.set_settings import SetSettings
from scenetok_ns.data.scenes import BadScene, SkippedScenes
from scenetok_ns.tools.atomic_files import remove_leftovers

T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count` parts of every split."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(
                f"shard {self.index}/{self.count}: the first number must be at least 0 and below the second"
            )

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Parse `i/n`, where i counts from 0. Raises ValueError."""
        index, slash, count = text.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal()):
            raise ValueError(f"shard {text!r}: expected i/n, such as 0/8 for the first of eight")
        return cls(int(index), int(count))

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Shard:
        """Read the shard from the variables of a SLURM job array and, inside or without one, of torchrun or srun.

        Eight jobs of four processes each are 32 shards. Without such variables, the shard is all of the work.
        """
        shard = cls()
        for index, count, first, step in _SHARD_VARIABLES:
            if index not in environment or count not in environment:
                continue
            number = _variable(environment, index) - _variable(environment, first, "0")
            part = cls(number // max(_variable(environment, step, "1"), 1), _variable(environment, count))
            shard = cls(shard.index * part.count + part.index, shard.count * part.count)
            if index == "RANK":
                break  # torchrun under srun counts all its processes already
        return shard

    def of(self, keys: Sequence[T]) -> Sequence[T]:
        """Return the shard's keys. They are consecutive, because neighbours share files in some data sets."""
        start, stop = (len(keys) * i // self.count for i in (self.index, self.index + 1))
        return keys[start:stop]


def _variable(environment: Mapping[str, str], name: str, default: str = "") -> int:
    """Read a number from the environment. Raises ValueError that names the variable."""
    text = environment.get(name, default)
    try:
        return int(text)
    except ValueError as error:
        raise ValueError(
            f"the environment variable {name} is {text!r}, expected a whole number; unset it, or give --shard"
        ) from error


_SHARD_VARIABLES = (
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_STEP"),
    ("RANK", "WORLD_SIZE", "", ""),
    # Not SLURM_NTASKS: in a batch script without srun, it may exceed 1 although there is only one process, number 0.
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "", ""),
)


@dataclass(frozen=True)
class SceneTask(Generic[T]):
    """Work on one scene, whose name is also the name of the files."""

    key: str
    complete: bool
    """Whether all its files exist."""
    open: Callable[[], Callable[[], T]]
    """Opens the scene, and returns a function that decodes its photographs. Both may raise BadScene."""
    write: Callable[[T], Iterable[Path]]
    """Creates the missing files and yields their paths one by one. May raise BadScene."""


@dataclass(frozen=True)
class JobReport:
    written: int
    """Number of files written."""
    present: int
    """Number of scenes that were complete before."""
    skipped: SkippedScenes


def run_tasks(
    root: Path, settings: SetSettings, tasks: Iterable[SceneTask[T]], workers: int, on_scene: Callable[[str], None]
) -> JobReport:
    """Create the missing files of all tasks.

    A scene that cannot be used is skipped and reported.

    Args:
        root: Folder of the set.
        settings: Settings of the set.
        tasks: Work on each scene.
        workers: Number of scenes that are decoded at the same time, ahead of the networks.
        on_scene: Called with the name of each scene after it is done.

    Raises:
        DataError: `root` holds a set with other settings.
    """
    root.mkdir(parents=True, exist_ok=True)
    settings.claim(root)
    remove_leftovers(root)
    skipped = SkippedScenes()
    written = present = 0
    for task, loaded in _load_ahead(tasks, workers):
        try:
            if loaded is None:
                present += 1
            else:
                for _ in task.write(loaded()):
                    written += 1
        except BadScene as error:
            skipped.add(error if error.key else BadScene(error.reason, task.key))
        on_scene(task.key)
    return JobReport(written, present, skipped)


def _load_ahead(tasks: Iterable[SceneTask[T]], workers: int) -> Iterator[tuple[SceneTask[T], Callable[[], T] | None]]:
    """Yield each task with a function that returns its photographs, which threads decode some scenes ahead.

    The function is None for tasks that are complete.
    """
    queue: deque[tuple[SceneTask[T], Callable[[], T] | None]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for task in tasks:
                queue.append((task, None if task.complete else _start_loading(task, pool)))
                if len(queue) > workers:
                    yield queue.popleft()
            yield from queue
        finally:
            pool.shutdown(cancel_futures=True)


def _start_loading(task: SceneTask[T], pool: ThreadPoolExecutor) -> Callable[[], T]:
    """Open the scene at once, because sources are not thread-safe, and decode its photographs in a thread."""
    future: Future[T]
    try:
        check_scene_name(task.key)
        future = pool.submit(task.open())
    except BadScene as error:
        future = Future()
        future.set_exception(error)
    return future.result
