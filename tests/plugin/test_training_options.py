"""Averaged weights, runs that continue themselves, accumulation across checkpoints, logs, kill -9."""

from __future__ import annotations

import os
import platform
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.scripts.train import train_loop
from nerfstudio.utils import comms
from support.small_runs import TESTS, final_state, small_config, small_pipeline, write_small_re10k

from scenetok_ns.data.scenes import DataError
from scenetok_ns.models.released_checkpoints import CheckpointError
from scenetok_ns.plugin.trainer import SceneTokTrainer


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_re10k(tmp_path_factory.mktemp("re10k"))


def train(data: Path, output: Path, steps: int, ema: float | None = None, **fields: Any) -> TrainerConfig:
    config = small_config(data, output, max_num_iterations=steps, **fields)
    config.pipeline.model.ema_decay = ema  # type: ignore[attr-defined]
    train_loop(0, 1, config)
    return config


def weights(state: dict[str, Any], part: str) -> dict[str, torch.Tensor]:
    """Weights in a saved run by their names within the model."""
    prefix = f"_model.{part}."
    return {
        key.removeprefix(prefix): value
        for key, value in state["pipeline"].items()
        if key.startswith(prefix) and isinstance(value, torch.Tensor)
    }


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    assert first.keys() == second.keys() and first
    return all(torch.equal(value, second[key]) for key, value in first.items())


# --- Averaged weights ---


def test_average_follows_the_weights_and_is_resumed(data: Path, tmp_path: Path) -> None:
    whole = train(data, tmp_path / "whole", 4, ema=0.9, save_only_latest_checkpoint=False, steps_per_save=1)
    states = {step: final_state(whole, step) for step in range(1, 4)}
    states[0] = final_state(train(data, tmp_path / "first", 1, ema=0.9), 0)
    expected = weights(states[0], "average.networks")  # the first update has a decay of 1/10
    for step, decay in ((1, 2 / 11), (2, 3 / 12), (3, 4 / 13)):
        now = weights(states[step], "scenetok")
        expected = {key: decay * value + (1 - decay) * now[key] for key, value in expected.items()}
    average = weights(states[3], "average.networks")
    torch.testing.assert_close(average, expected)
    assert not equal(average, {key: value for key, value in weights(states[3], "scenetok").items() if key in average})

    part = train(data, tmp_path / "part", 2, ema=0.9)
    rest = train(data, tmp_path / "rest", 2, ema=0.9, load_dir=part.get_checkpoint_dir())
    assert equal(weights(final_state(rest, 3), "average.networks"), average)


def test_average_is_used_outside_of_training_and_by_tools(data: Path, tmp_path: Path) -> None:
    config = train(data, tmp_path, 3, ema=0.9)
    state = final_state(config, 2)
    trained, average = weights(state, "scenetok"), weights(state, "average.networks")
    in_training, in_tool = (config.pipeline.setup(device="cpu", test_mode=mode) for mode in ("val", "test"))
    in_tool.eval()
    config.pipeline.model.ema_decay = None
    with pytest.raises(CheckpointError, match="ema-decay"):
        config.pipeline.setup(device="cpu", test_mode="val").load_pipeline(state["pipeline"], 2)
    for pipeline in (in_training, in_tool):
        pipeline.load_pipeline(state["pipeline"], 2)
    in_training.train()
    assert equal(in_training.model.scenetok.state_dict(), trained)
    in_training.eval()
    for pipeline in (in_training, in_tool):
        shown = pipeline.model.scenetok.state_dict()
        assert equal({key: shown[key] for key in average}, average)
    saved = {"pipeline": in_training.state_dict()}
    assert equal(weights(saved, "scenetok"), trained) and equal(weights(saved, "average.networks"), average)
    in_training.train()
    assert equal(in_training.model.scenetok.state_dict(), trained)


def test_an_average_that_is_new_starts_from_the_loaded_weights(data: Path, tmp_path: Path) -> None:
    part = train(data, tmp_path / "part", 1)
    config = small_config(data, tmp_path / "rest")
    config.pipeline.model.ema_decay = 0.9  # type: ignore[attr-defined]
    pipeline = config.pipeline.setup(device="cpu", test_mode="val")
    pipeline.load_pipeline(final_state(part, 0)["pipeline"], 0)
    networks = pipeline.model.average.networks.state_dict()
    assert equal(networks, {k: v for k, v in pipeline.model.scenetok.state_dict().items() if k in networks})


def test_a_decay_of_one_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ema_decay: expected a number between 0 and 1"):
        train(data, tmp_path, 1, ema=1.0)


# --- Runs that continue themselves ---


def test_the_same_command_starts_continues_and_ends_a_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = train(data, tmp_path / "whole", 6)
    fields = {"resume": True, "steps_per_save": 2}
    iteration = SceneTokTrainer.train_iteration

    def dies(self: SceneTokTrainer, step: int) -> Any:
        if step == 4:
            raise KeyboardInterrupt
        return iteration(self, step)

    monkeypatch.setattr(SceneTokTrainer, "train_iteration", dies)
    with pytest.raises(SystemExit) as stopped:
        train(data, tmp_path / "run", 6, **fields)
    said = " ".join(capsys.readouterr().out.split())
    assert stopped.value.code == 130 and "Stopped; step 3 is saved. Look: ns-viewer --load-config " in said
    assert re.search(r"continue: the same command with --timestamp \S+ --resume True", said)
    monkeypatch.undo()
    config = train(data, tmp_path / "run", 6, **fields)
    assert "Resuming after step" in capsys.readouterr().out
    assert equal(weights(final_state(config, 5), "scenetok"), weights(final_state(whole, 5), "scenetok"))
    before = (config.get_checkpoint_dir() / "step-000000005.ckpt").stat().st_mtime_ns
    train(data, tmp_path / "run", 6, **fields)
    assert "This run is complete: 6 steps" in " ".join(capsys.readouterr().out.split())
    assert (config.get_checkpoint_dir() / "step-000000005.ckpt").stat().st_mtime_ns == before


def test_resuming_needs_a_run_with_a_name(data: Path, tmp_path: Path) -> None:
    config = small_config(data, tmp_path, resume=True, timestamp="{timestamp}")
    with pytest.raises(ValueError, match="give --timestamp a name"):
        config.set_timestamp()


def test_short_runs_save_too(data: Path, tmp_path: Path) -> None:
    config = train(data, tmp_path, 8, save_only_latest_checkpoint=False)  # 1000 steps between checkpoints
    assert [int(path.stem[5:]) for path in sorted(config.get_checkpoint_dir().iterdir())] == [2, 4, 6, 7]


def test_checkpoints_wait_for_the_end_of_an_accumulation(data: Path, tmp_path: Path) -> None:
    fields = {"gradient_accumulation_steps": {"networks": 3}, "steps_per_save": 4}
    whole = train(data, tmp_path / "whole", 12, save_only_latest_checkpoint=False, **fields)
    names = sorted(path.name for path in whole.get_checkpoint_dir().iterdir())
    assert names == ["step-000000005.ckpt", "step-000000008.ckpt", "step-000000011.ckpt"]
    rest = train(data, tmp_path / "rest", 6, load_checkpoint=whole.get_checkpoint_dir() / names[0], **fields)
    assert equal(weights(final_state(rest, 11), "scenetok"), weights(final_state(whole, 11), "scenetok"))


# --- kill -9 ---

KILLED_RUN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from support.small_runs import small_config
from nerfstudio.scripts.train import train_loop
from scenetok_ns.plugin.trainer import SceneTokTrainer

iteration = SceneTokTrainer.train_iteration

def reported(self, step):
    print("step", step, flush=True)
    return iteration(self, step)

SceneTokTrainer.train_iteration = reported
config = small_config(
    Path(sys.argv[2]), Path(sys.argv[3]), max_num_iterations=int(sys.argv[4]), steps_per_save=2, resume=True
)
train_loop(0, 1, config)
"""


@pytest.mark.slow
def test_a_run_killed_at_any_moment_ends_as_an_undisturbed_one(data: Path, tmp_path: Path) -> None:
    """kill -9 while it trains and writes checkpoints; at most the steps since the last checkpoint are taken again."""
    steps = 40
    command = [sys.executable, "-c", KILLED_RUN, str(TESTS), str(data), str(tmp_path / "run"), str(steps)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step 21"):
            time.sleep(0.01)  # anywhere in a step or in a checkpoint
            process.send_signal(signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL
    config = small_config(data, tmp_path / "run")
    (last,) = config.get_checkpoint_dir().glob("*.ckpt")
    assert int(last.stem[5:]) >= 20
    left = config.get_base_dir() / f".step-000000022.ckpt.0.{process.pid}@{platform.node().replace('.', '-')}.part"
    left.write_bytes(b"killed while writing")
    resumed = train(data, tmp_path / "run", steps, resume=True)
    whole = train(data, tmp_path / "whole", steps)
    ends = final_state(resumed, steps - 1), final_state(whole, steps - 1)
    assert equal(*(weights(state, "scenetok") for state in ends))
    assert torch.equal(*(state["random_states"]["torch"] for state in ends))
    assert not list(config.get_base_dir().rglob(".*.part")), "what the killed process was writing is still there"


# --- Logs, evaluation, input ---


def test_tensorboard_gets_losses_and_the_state_of_the_optimizer(data: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = train(data, tmp_path, 3, vis="tensorboard", steps_per_eval_batch=2, steps_per_eval_image=2)
    events = EventAccumulator(str(config.get_base_dir()))
    events.Reload()
    names = set(events.Tags()["scalars"])
    wanted = ("Train Loss", "Eval Loss", "Eval Images Metrics/psnr", "learning_rate/networks")
    metrics = ("flow", "kl", "gradient_norm", "skipped_steps")
    assert {*wanted, *(f"Train Metrics Dict/{name}" for name in metrics)} <= names, sorted(names)
    assert "Eval Images/img" in events.Tags()["images"]


def test_one_of_several_processes_evaluates(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = small_config(data, tmp_path, vis="tensorboard", steps_per_eval_batch=1).setup()
    trainer.setup()
    evaluated = []
    monkeypatch.setattr(trainer.pipeline, "get_eval_loss_dict", lambda step: evaluated.append(step) or (0, {}, {}))
    monkeypatch.setattr(comms, "get_rank", lambda: 1)
    trainer.eval_iteration(1)
    assert evaluated == []
    monkeypatch.undo()
    monkeypatch.setattr(trainer.pipeline, "get_eval_loss_dict", lambda step: evaluated.append(step) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.eval_iteration(1)


@pytest.mark.parametrize("name", ["batch_size", "num_context", "num_condition", "eval_scenes", "eval_targets"])
def test_a_count_of_nothing_is_refused(data: Path, name: str) -> None:
    with pytest.raises(DataError, match=rf"--pipeline\.datamanager\.{name.replace('_', '-')}: .* at least 1, got 0"):
        small_pipeline(data, **{name: 0})
