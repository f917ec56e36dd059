"""Files on a disk that is full: nothing half-written, and the reason in words."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from scenetok_ns.data.demo.writer import write_demo_data
from scenetok_ns.models.weight_files import load_weights, save_weights
from scenetok_ns.tools.atomic_files import save_torch, write_atomically
from scenetok_ns.training.checkpoints import save_atomically


@pytest.fixture
def small_disk() -> Iterator[int]:
    """No file can grow beyond these bytes: writes fail as they do on a full disk."""
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
    with pytest.raises(OSError, match=r"cannot write .*/folder/file: File too large; nothing of it is left$"):
        write_atomically(path, bytes(2 * small_disk))
    assert [p.name for p in path.parent.iterdir()] == ["file"] and path.read_bytes() == b"old"


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", b"new")
    assert list(tmp_path.iterdir()) == []


def test_torch_files_fail_with_the_error_of_the_disk(tmp_path: Path, small_disk: int) -> None:
    """torch.save alone raises RuntimeError: unexpected pos ..."""
    with (tmp_path / "file").open("wb") as file, pytest.raises(OSError, match="File too large"):
        save_torch({"a": torch.zeros(small_disk)}, file)


def test_checkpoints_rooms_and_weights_on_a_full_disk(tmp_path: Path, small_disk: int) -> None:
    with pytest.raises(OSError, match=r"cannot write checkpoint .*a\.ckpt: .*File too large"):
        save_atomically({"a": torch.zeros(small_disk)}, tmp_path / "a.ckpt", scratch=tmp_path)
    with pytest.raises(OSError, match=r"cannot write .*/rooms: File too large"):
        write_demo_data(tmp_path / "rooms", "re10k", {"train": 1}, num_frames=6, size=64)
    with pytest.raises(OSError, match=r"cannot write .*/w\.safetensors: File too large"):
        save_weights({"a": nn.Linear(64, 64)}, tmp_path / "w.safetensors")
    assert list(tmp_path.iterdir()) == []
    save_weights({"a": nn.Linear(2, 2)}, tmp_path / "w.safetensors")
    load_weights({"a": nn.Linear(2, 2)}, tmp_path / "w.safetensors")
