"""The files of a run folder are complete or absent, and writing them takes little memory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from scenetok_ns.tools.run_files import link_checkpoints, save_tensors, size_of, write_run_folder


def no_checkpoint(folder: Path) -> None:
    (folder / "step-000000000.ckpt").write_bytes(b"")


@pytest.mark.parametrize(
    ("error", "message"),
    [(KeyboardInterrupt(), "^$"), (OSError(28, "No space left"), "run: No space left; no partial copy")],
)
def test_an_interrupted_write_leaves_nothing(tmp_path: Path, error: BaseException, message: str) -> None:
    def interrupted(folder: Path) -> None:
        no_checkpoint(folder)
        raise error

    with pytest.raises(type(error), match=message):
        write_run_folder(tmp_path / "run", interrupted, lambda: {"a": 1})
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious").write_text("")
    with pytest.raises(FileExistsError, match="run exists; choose another --output"):
        write_run_folder(tmp_path / "run", no_checkpoint, lambda: {"a": 1})
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["precious"]


def test_checkpoints_are_what_torch_load_takes_and_the_bar_counts_them(tmp_path: Path) -> None:
    tensors = {"_model.a": torch.arange(6.0).reshape(2, 3), "_model.extra": {"preset": "x"}}
    counts: list[int] = []
    save_tensors(tmp_path / "step-000000000.ckpt", tensors, progress=counts.append)
    assert sum(counts) == (tmp_path / "step-000000000.ckpt").stat().st_size >= size_of(tensors) == 24
    state = torch.load(tmp_path / "step-000000000.ckpt", map_location="cpu", weights_only=True)
    assert state["step"] == 0 and state["optimizers"] == state["schedulers"] == state["scalers"] == {}
    assert torch.equal(state["pipeline"]["_model.a"], tensors["_model.a"])


@pytest.mark.parametrize("place", [1, 5_000, 2**20])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_errors_while_writing_come_out_as_they_are(tmp_path: Path, place: int, error: BaseException) -> None:
    done = 0

    def progress(count: int) -> None:
        nonlocal done
        done += count
        if done >= place:
            raise error

    with pytest.raises(type(error)):
        save_tensors(tmp_path / "step-000000000.ckpt", {"a": torch.zeros(2**19)}, progress=progress)


def test_memory_mapped_tensors_are_copied_without_being_held(tmp_path: Path) -> None:
    """An import of a 5 GB file must need at most 1.3 times its size. Here, 64 MiB must need a fraction of that."""
    size = 64 * 2**20
    torch.save({"a": torch.zeros(size // 4)}, tmp_path / "source.ckpt")
    tensors = torch.load(tmp_path / "source.ckpt", map_location="cpu", weights_only=True, mmap=True)
    before, seen = anonymous_memory(), []
    save_tensors(tmp_path / "target.ckpt", tensors, progress=lambda count: seen.append(anonymous_memory()))
    assert max(seen) - before < size / 8
    assert (tmp_path / "target.ckpt").stat().st_size > size


def anonymous_memory() -> int:
    """Number of bytes of this process's memory that do not belong to mapped files."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("only /proc reports memory")
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1]) * 1024


def test_checkpoints_are_linked_not_copied(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    no_checkpoint(tmp_path / "a")
    link_checkpoints(tmp_path / "a", tmp_path / "b")
    assert os.path.samefile(tmp_path / "a" / "step-000000000.ckpt", tmp_path / "b" / "step-000000000.ckpt")
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        link_checkpoints(tmp_path, tmp_path / "b")
