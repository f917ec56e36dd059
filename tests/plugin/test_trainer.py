"""Runs of ns-train: what they write, and that they resume as if nothing had happened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.scripts.train import train_loop
from support.small_runs import final_state, small_config, write_small_re10k

from scenetok_ns.data.scenes import DataError
from scenetok_ns.plugin import trainer as scenetok_trainer
from scenetok_ns.training.optimizers import learning_rate


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_re10k(tmp_path_factory.mktemp("re10k"))


def train(data: Path, output: Path, steps: int, **fields: Any) -> TrainerConfig:
    config = small_config(data, output, max_num_iterations=steps, **fields)
    train_loop(0, 1, config)
    return config


def differences(first: Any, second: Any, where: str = "") -> list[str]:
    """Return the places at which two nested states differ."""
    if isinstance(first, torch.Tensor):
        return [] if torch.equal(first, second) else [where]
    if isinstance(first, dict):
        keys = [where] if set(first) != set(second) else []
        return keys + [
            d for key in first if key in second for d in differences(first[key], second[key], f"{where}/{key}")
        ]
    if isinstance(first, (list, tuple)):
        pairs = enumerate(zip(first, second, strict=True))
        return [d for i, (a, b) in pairs for d in differences(a, b, f"{where}/{i}")]
    return [] if first == second else [where]


def test_resumed_run_equals_an_undisturbed_one(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Weights, moments, schedule and random states are equal to the bit. Warm-up and milestone fall into both parts."""
    whole = train(data, tmp_path / "whole", 8)
    assert f"ns-viewer --load-config {whole.get_base_dir()}/config.yml" in capsys.readouterr().out.replace("\n", "")
    part = train(data, tmp_path / "part", 3)
    rest = train(data, tmp_path / "rest", 5, load_dir=part.get_checkpoint_dir())
    assert differences(final_state(whole, 7), final_state(rest, 7)) == []
    assert differences(final_state(whole, 7), final_state(part, 2))
    assert [path.name for path in rest.get_checkpoint_dir().iterdir()] == ["step-000000007.ckpt"]


def test_resume_counts_as_nerfstudio_does(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nerfstudio 1.1.5 takes max_num_iterations further steps, its main branch takes them in total."""
    assert not scenetok_trainer.COUNTS_ALL_STEPS  # 1.1.5 is installed
    train(data, tmp_path, 1, resume=True)
    for counts_all_steps, expected in ((False, 2), (True, 3)):
        monkeypatch.setattr(scenetok_trainer, "COUNTS_ALL_STEPS", counts_all_steps)
        resumed = small_config(data, tmp_path, max_num_iterations=3, resume=True).setup()
        resumed.setup()
        assert resumed.config.max_num_iterations == expected
        complete = small_config(data, tmp_path, max_num_iterations=1, resume=True).setup()
        complete.setup()
        complete.train()
        assert "This run is complete: 1 steps" in capsys.readouterr().out


def test_global_random_states_go_on_after_a_resume(data: Path, tmp_path: Path) -> None:
    part = train(data, tmp_path / "part", 1)
    drawn = torch.rand(3)
    torch.manual_seed(123)
    trainer = small_config(data, tmp_path / "rest", load_dir=part.get_checkpoint_dir()).setup()
    trainer.setup()
    assert torch.equal(torch.rand(3), drawn)


def test_accumulation_is_known_to_optimizer_and_learning_rate(data: Path, tmp_path: Path) -> None:
    trainer = small_config(data, tmp_path, gradient_accumulation_steps={"networks": 3}).setup()
    trainer.setup()
    optimizer = trainer.optimizers.optimizers["networks"]
    assert optimizer.accumulation_steps == 3  # test_optimizers.py: it then uses the mean of the gradients
    assert optimizer.defaults["lr"] == learning_rate(trainer.pipeline.model.preset.training, samples_per_step=2 * 3)


def test_a_run_that_cannot_begin_leaves_nothing(tmp_path: Path) -> None:
    config = small_config(tmp_path / "nowhere", tmp_path / "outputs")
    config.save_config()  # as ns-train does before anything else
    with pytest.raises(DataError, match="no data folder"):
        train_loop(0, 1, config)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", ["no training scenes", "damaged chunk"])
def test_a_run_that_fails_at_its_first_step_leaves_nothing(tmp_path: Path, fault: str) -> None:
    data = write_small_re10k(tmp_path / "data")
    chunk = data / "train" / "000000.torch"
    if fault == "damaged chunk":
        chunk.write_bytes(chunk.read_bytes()[:1000])
    else:
        (data / "train").rename(data / "elsewhere")
    config = small_config(data, tmp_path / "outputs", vis="tensorboard")
    config.save_config()
    with pytest.raises(DataError):
        train_loop(0, 1, config)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_run_that_fails_later_keeps_what_it_has(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(scenetok_trainer, "save_checkpoint", full)
    config = small_config(data, tmp_path / "outputs", max_num_iterations=1)
    config.save_config()
    with pytest.raises(OSError, match="No space"):
        train_loop(0, 1, config)
    assert (config.get_base_dir() / "config.yml").is_file()


def test_metrics_report_gradient_norm_and_skipped_steps(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    trainer = small_config(data, tmp_path).setup(local_rank=0, world_size=1)
    trainer.setup()
    trainer.pipeline.train()
    _, _, metrics = trainer.train_iteration(0)
    assert metrics["gradient_norm"] > 0 and metrics["skipped_steps"] == 0
    trainer.optimizers.optimizers["networks"].skip_mean_norm = 0.0
    before = [p.clone() for p in trainer.pipeline.model.scenetok.parameters()]
    _, _, metrics = trainer.train_iteration(1)
    assert metrics["skipped_steps"] == 1
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.pipeline.model.scenetok.parameters(), strict=True))


def test_models_are_told_that_they_train(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = small_config(data, tmp_path).setup(local_rank=0, world_size=1)
    trainer.setup()
    told: list[str] = []
    monkeypatch.setattr(trainer.pipeline.model.scenetok, "begin_training", lambda: told.append("begin"))
    monkeypatch.setattr(Trainer, "train", lambda self: told.append("steps"))
    trainer.train()
    assert told == ["begin", "steps"]


@pytest.mark.parametrize(
    ("ended", "code", "line"),
    [(True, 0, "viewer closed"), (False, 130, "Stopped before the first checkpoint: no step is saved, and")],
)
def test_ctrl_c_says_what_it_ended(
    ended: bool, code: int, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A viewer that is open after the last step is closed; a run without a checkpoint leaves no folder."""
    trainer = scenetok_trainer.SceneTokTrainer.__new__(scenetok_trainer.SceneTokTrainer)
    trainer.world_size, trainer.local_rank, trainer.viewer_state = 1, 0, object()  # type: ignore[assignment]
    trainer.base_dir = tmp_path / "out" / "data" / "scenetok" / "run"
    trainer.checkpoint_dir = trainer.base_dir / "nerfstudio_models"
    trainer.checkpoint_dir.mkdir(parents=True)
    trainer._has_ended = ended
    with pytest.raises(SystemExit) as stopped:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            trainer._stop()
    assert stopped.value.code == code and line in " ".join(capsys.readouterr().out.split())
    assert trainer.base_dir.exists() == ended
