"""Training checkpoints: written whole or not at all, found, read safely, compared strictly."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scenetok_ns.models.run_checkpoints import averaged_weights, checkpoint_path, model_state, read_checkpoint
from scenetok_ns.training.checkpoints import random_states, restore_random_states, save_checkpoint


def test_checkpoint_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    path = folder / "step-000000001.ckpt"
    save_checkpoint({"step": 1}, path, scratch=tmp_path)
    during: list[list[str]] = []

    def full_disk(state: Any, file: Any) -> None:
        file.write(b"half")
        during.append([entry.name for entry in folder.iterdir()])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match=r"cannot write .*: No space left on device; .*free some space") as caught:
        save_checkpoint({"step": 2}, path, scratch=tmp_path)
    assert "\n" not in str(caught.value)
    assert during == [[path.name]]
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["checkpoints"]


def test_checkpoint_is_found_by_step_or_as_the_latest(tmp_path: Path) -> None:
    for step in (2, 10):
        (tmp_path / f"step-{step:09d}.ckpt").touch()
    (tmp_path / "README").touch()
    assert checkpoint_path(tmp_path).name == "step-000000010.ckpt"
    assert checkpoint_path(tmp_path, 2).name == "step-000000002.ckpt"
    with pytest.raises(FileNotFoundError, match="step 3"):
        checkpoint_path(tmp_path, 3)
    with pytest.raises(FileNotFoundError, match="nerfstudio_models"):
        checkpoint_path(tmp_path / "nowhere")


class Code:
    """Object of a hostile checkpoint: loading it would run code."""

    def __reduce__(self) -> tuple[Any, tuple[str, ...]]:
        return exec, ("raise SystemExit('the checkpoint ran code')",)


@pytest.mark.parametrize("how", ["truncated", "code", "other"])
def test_unreadable_checkpoints_are_one_line(tmp_path: Path, how: str) -> None:
    path = tmp_path / "step-000000001.ckpt"
    torch.save({"step": Code()} if how == "code" else {"weights": torch.zeros(1000)}, path)
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"step-000000001\.ckpt") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_random_states_round_trip() -> None:
    states = random_states()
    drawn = random.random(), np.random.rand(), torch.rand(1).item()
    restore_random_states(states)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == drawn


@pytest.mark.parametrize("prefix", ["_model.", "_model.module.", "module._model.", "module._model.module."])
def test_the_models_part_has_no_prefixes(prefix: str) -> None:
    state = {f"{prefix}scenetok.a": 1, f"{prefix}average.networks.a": 2, "datamanager.b": 3}
    assert model_state(state) == {"scenetok.a": 1, "average.networks.a": 2}


def test_averaged_weights_stand_in_for_trained_ones() -> None:
    state = {"scenetok.a": 1, "scenetok.b": 2, "average.networks.a": 3, "average.steps": 4, "extra": 5}
    assert averaged_weights(state) == {"scenetok.a": 3, "scenetok.b": 2, "extra": 5}
    assert averaged_weights({"scenetok.a": 1}) == {"scenetok.a": 1}
