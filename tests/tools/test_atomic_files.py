"""Writing on a full disk, in an interrupt or after a kill leaves no incomplete file, and errors give the reason."""

from __future__ import annotations

import os
import platform
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from scenetok_ns.data.demo.writer import write_demo_data
from scenetok_ns.models.weight_files import load_weights, save_weights
from scenetok_ns.tools.atomic_files import atomic_file, atomic_folder, remove_leftovers, save_torch, write_atomically
from scenetok_ns.training.checkpoints import save_checkpoint


@pytest.fixture
def small_disk() -> Iterator[int]:
    """Limit files to this number of bytes, so that writes fail as on a full disk."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        yield 4096
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_failed_write_is_named_and_leaves_the_old_file(tmp_path: Path, small_disk: int) -> None:
    path = tmp_path / "folder" / "file"
    write_atomically(path, b"old")
    with pytest.raises(OSError, match=r"cannot write .*/folder/file: File too large; no partial copy is left$"):
        write_atomically(path, bytes(2 * small_disk))
    assert [p.name for p in path.parent.iterdir()] == ["file"] and path.read_bytes() == b"old"


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", b"new")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_there_once_it_is_filled(tmp_path: Path) -> None:
    output = tmp_path / "a" / "run"
    with pytest.raises(RuntimeError), atomic_folder(output) as folder:
        (folder / "file").touch()
        assert not output.exists() and folder.parent == output.parent
        raise RuntimeError
    assert list(output.parent.iterdir()) == []
    with atomic_folder(output) as folder:
        (folder / "file").touch()
    assert names(tmp_path) == ["a", "a/run", "a/run/file"]
    with pytest.raises(FileExistsError, match="run exists; choose another --output, or remove"), atomic_folder(output):
        pytest.fail("the folder is not empty")
    with pytest.raises(FileNotFoundError, match="no checkpoint"), atomic_folder(tmp_path / "other"):
        raise FileNotFoundError("no checkpoint")  # not an error of writing: it stays as it is


def test_what_killed_processes_leave_is_removed_by_whoever_writes_there_next(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        with atomic_folder(folder / "run") as run, atomic_file(folder / "file") as file:
            (run / "gigabytes").write_bytes(b"half of them")
            file.write(b"half")
            os._exit(0)

    for folder in (tmp_path / "a", tmp_path / "b", tmp_path / "b" / "below"):
        folder.mkdir()
        killed(lambda folder=folder: write(folder))
        assert len(list(folder.glob(".*.part"))) == 2
    write_atomically(tmp_path / "a" / "other", b"new")
    assert names(tmp_path / "a") == ["other"]
    remove_leftovers(tmp_path / "b", nested=False)
    assert len(names(tmp_path / "b")) == 4  # those below
    remove_leftovers(tmp_path)
    remove_leftovers(tmp_path / "nowhere")
    assert names(tmp_path / "b") == ["below"]


def test_what_others_work_on_stays(tmp_path: Path) -> None:
    node, dead = platform.node().replace(".", "-"), killed(lambda: None)
    kept = [f".run.{os.getppid()}@{node}.part", f".run.{dead}@elsewhere.part", ".run.part", f".{dead}@{node}.part"]
    gone = [f".run.{dead}@{node}.part", f".run.{dead}@elsewhere-old.part", f".before.us.{os.getpid()}@{node}.part"]
    for name in (*kept, *gone):
        (tmp_path / name / "inside").mkdir(parents=True)
    for path in (tmp_path / gone[1] / "inside", tmp_path / gone[1]):
        os.utime(path, (0, 0))
    with atomic_folder(tmp_path / "ours") as ours:
        remove_leftovers(tmp_path)
        assert ours.is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, "ours"])


def test_what_earlier_versions_left_is_removed_too(tmp_path: Path) -> None:
    node, dead = platform.node().replace(".", "-"), killed(lambda: None)
    gone = [f".render-{dead}@{node}-a1b2c3d4", ".rooms-a1b2c3d4", ".rooms.part-a_b2c3d4", ".step-1.ckpt.77.unfinished"]
    kept = [f".render-{os.getppid()}@{node}-a1b2c3d4", ".rooms.part-young_12", ".other-a1b2c3d4", ".rooms-a1b2c3"]
    for name in (*kept, *gone):
        (tmp_path / name).mkdir()
        if "young" not in name:
            os.utime(tmp_path / name, (0, 0))
    with atomic_folder(tmp_path / "rooms"):
        assert sorted(path.name for path in tmp_path.glob(".*") if ".rooms.0." not in path.name)
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, "rooms"])


def killed(work: Callable[[], None]) -> int:
    """Run `work` in a child process that then ends without clean-up. Returns its PID."""
    number = os.fork()
    if number == 0:
        try:
            work()
        finally:
            os._exit(0)
    os.waitpid(number, 0)
    return number


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_torch_files_fail_with_the_error_of_the_disk(tmp_path: Path, small_disk: int) -> None:
    """torch.save itself would raise "RuntimeError: unexpected pos ..." and hide the reason."""
    with (tmp_path / "file").open("wb") as file, pytest.raises(OSError, match="File too large"):
        save_torch({"a": torch.zeros(small_disk)}, file)


def test_checkpoints_rooms_and_weights_on_a_full_disk(tmp_path: Path, small_disk: int) -> None:
    with pytest.raises(OSError, match=r"cannot write .*a\.ckpt: File too large; .* left; free some space"):
        save_checkpoint({"a": torch.zeros(small_disk)}, tmp_path / "a.ckpt", scratch=tmp_path)
    with pytest.raises(OSError, match=r"cannot write .*/rooms: File too large"):
        write_demo_data(tmp_path / "rooms", "re10k", {"train": 1}, num_frames=6, size=64)
    with pytest.raises(OSError, match=r"cannot write .*/w\.safetensors: File too large"):
        save_weights({"a": nn.Linear(64, 64)}, tmp_path / "w.safetensors")
    assert list(tmp_path.iterdir()) == []
    save_weights({"a": nn.Linear(2, 2)}, tmp_path / "w.safetensors")
    load_weights({"a": nn.Linear(2, 2)}, tmp_path / "w.safetensors")
