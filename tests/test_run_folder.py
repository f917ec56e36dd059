"""Run folders of our own: whole or not there, and what stock Nerfstudio reads in them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import yaml
from nerfstudio.engine.trainer import TrainerConfig

from scenetok_ns.bridge.run_configs import read_run
from scenetok_ns.plugin.run_folder import RunFolderConfig, run_config
from scenetok_ns.tools.run_files import link_checkpoints, save_tensors, size_of, write_run_folder


@pytest.fixture
def method() -> TrainerConfig:
    return TrainerConfig(method_name="some-method", load_dir=Path("elsewhere"))


def no_checkpoint(folder: Path) -> None:
    (folder / "step-000000000.ckpt").write_bytes(b"")


def test_the_configuration_finds_its_checkpoints_from_any_folder(
    method: TrainerConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run_folder(Path("my run"), no_checkpoint, lambda: run_config(method, Path("my run")))
    monkeypatch.chdir("/")
    config = read_run(tmp_path / "my run")
    assert isinstance(config, TrainerConfig) and config.method_name == "some-method"
    assert config.get_base_dir() == tmp_path / "my run"
    assert [file.name for file in config.get_checkpoint_dir().iterdir()] == ["step-000000000.ckpt"]
    assert config.load_dir is None and method.load_dir == Path("elsewhere")
    assert read_run(tmp_path / "my run" / "config.yml") == config
    assert [path.name for path in tmp_path.iterdir()] == ["my run"]


def test_a_run_derived_from_a_run_has_its_own_folder(method: TrainerConfig, tmp_path: Path) -> None:
    first = run_config(method, tmp_path / "first")
    second = run_config(first, tmp_path / "second")
    assert isinstance(second, RunFolderConfig) and second.get_base_dir() == tmp_path / "second"
    assert first.get_base_dir() == tmp_path / "first"


@pytest.mark.parametrize(
    ("error", "message"),
    [(KeyboardInterrupt(), "^$"), (OSError(28, "No space left"), "run: No space left; nothing")],
)
def test_an_interrupted_write_leaves_nothing(
    method: TrainerConfig, tmp_path: Path, error: BaseException, message: str
) -> None:
    def interrupted(folder: Path) -> None:
        no_checkpoint(folder)
        raise error

    with pytest.raises(type(error), match=message):
        write_run_folder(tmp_path / "run", interrupted, lambda: run_config(method, tmp_path / "run"))
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_not_touched(method: TrainerConfig, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious").write_text("")
    with pytest.raises(FileExistsError, match="run exists; choose another --output"):
        write_run_folder(tmp_path / "run", no_checkpoint, lambda: run_config(method, tmp_path / "run"))
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
    """An import of a 5 GB file must fit into 1.3 times its size; here it takes a fraction of 64 MiB."""
    size = 64 * 2**20
    torch.save({"a": torch.zeros(size // 4)}, tmp_path / "source.ckpt")
    tensors = torch.load(tmp_path / "source.ckpt", map_location="cpu", weights_only=True, mmap=True)
    before, seen = anonymous_memory(), []
    save_tensors(tmp_path / "target.ckpt", tensors, progress=lambda count: seen.append(anonymous_memory()))
    assert max(seen) - before < size / 8
    assert (tmp_path / "target.ckpt").stat().st_size > size


def anonymous_memory() -> int:
    """Bytes of this process's memory that are not parts of files."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("memory is told by /proc only")
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


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"is not a run folder: it has no config\.yml"):
        read_run(tmp_path)
    (tmp_path / "config.yml").write_text(yaml.dump({"a": 1}))
    with pytest.raises(ValueError, match="does not hold the configuration of a run"):
        read_run(tmp_path)
