"""scenetok-stream trains only the student, later on its own rollout. Runs and files render with the student."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.scripts.train import train_loop
from support.released_files import random_state
from support.small_runs import PRESET, write_small_re10k

from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.presets import load_preset
from scenetok_ns.models.student_weights import StudentSource, load_student
from scenetok_ns.plugin import stream_training
from scenetok_ns.plugin.methods import scenetok_stream
from scenetok_ns.plugin.stream_training import STUDENT_FILE, StudentPipeline
from scenetok_ns.tools.run_files import run_state, save_tensors

STEPS = 4


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write scenes, a checkpoint of small networks, and a run with their student."""
    folder = tmp_path_factory.mktemp("stream")
    write_small_re10k(folder / "photographs")
    state = {key: 0.1 * value for key, value in random_state(load_preset(str(PRESET))).items()}
    save_tensors(folder / "step-000000000.ckpt", run_state(state, "tiny_preset"))
    train_loop(0, 1, config(folder))
    return folder


def config(folder: Path, **model: Any) -> TrainerConfig:
    made = copy.deepcopy(scenetok_stream.config)
    made.output_dir, made.experiment_name, made.timestamp = folder, "small", "run"
    made.machine.device_type, made.max_num_iterations = "cpu", STEPS
    made.pipeline.datamanager.data, made.pipeline.datamanager.num_workers = folder / "photographs", 0
    made.pipeline.datamanager.batch_size = 2
    values = {"preset": str(PRESET), "tokenizer": folder / "step-000000000.ckpt", "student_steps": 2, "forced_steps": 2}
    for name, value in {**values, **model}.items():
        setattr(made.pipeline.model, name, value)
    return made


def pipeline(folder: Path, **model: Any) -> StudentPipeline:
    found = config(folder, **model).pipeline.setup(device="cpu", test_mode="val")
    found.model.initialize_training_state()
    return found


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("samples", [True, False])
def test_the_student_learns_and_nothing_else_changes(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, causal: bool, samples: bool
) -> None:
    monkeypatch.setattr(stream_training, "learns_from_samples", lambda preset: samples)
    made = pipeline(workplace, causal=causal, forced_steps=10)
    before = {name: value.clone() for name, value in made.model.scenetok.state_dict().items()}
    optimizer = torch.optim.Adam(made.model.get_param_groups()["networks"], lr=3e-3)
    losses = []
    for step in range(24):
        loss = made.get_train_loss_dict(step)[1]["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert sum(losses[-4:]) < sum(losses[:4])
    after = made.model.scenetok.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_run_leaves_a_file_that_other_runs_of_these_networks_can_use(workplace: Path) -> None:
    made = pipeline(workplace).eval()
    file = next(workplace.rglob(STUDENT_FILE))
    student = load_student(file, made.model.preset, made.model.scenetok.compressor)
    assert (student.causal, student.steps) == (True, 2)
    weights = made.model.scenetok.denoiser.state_dict()
    assert any(not torch.equal(value, weights[name]) for name, value in student.denoiser.state_dict().items())

    renderer = made.model.renderer
    views = renderer.scenes.target_views(0)
    cameras = CameraBatch(views.c2w[None, :3], views.intrinsics[None, :3])
    tokens = renderer.tokens_of(0)
    own = renderer.render(tokens, cameras)  # a student that has not learnt yet
    made.model.scenetok.students = StudentSource(file)
    trained = renderer.render(tokens, cameras)
    assert own.shape == trained.shape and not torch.equal(own, trained)


def test_what_cannot_be_trained_is_refused(workplace: Path) -> None:
    with pytest.raises(ValueError, match="takes neither --ema-decay"):
        pipeline(workplace, ema_decay=0.9)
    with pytest.raises(ValueError, match="1 to 8 steps, got 20"):
        pipeline(workplace, student_steps=20)
