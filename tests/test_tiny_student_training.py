"""The training of the embedded model's student, at a size where it only has to run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from scenetok_ns.data.demo.pool import ScenePool
from scenetok_ns.models.presets import load_preset
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.models.student_weights import load_student
from scenetok_ns.training.tiny import student as training
from scenetok_ns.training.tiny.run import TinyRun
from scenetok_ns.training.tiny.student import StudentOptions, StudentTask, run_training

PRESET = "scenetok-tiny"


def options(output: Path, **fields: object) -> StudentOptions:
    values = {"steps": 1, "batch_size": 1, "num_scenes": 1, "renew": 0, "frames": 28, "device": "cpu", **fields}
    return StudentOptions(output=output, **values)  # type: ignore[arg-type]


@pytest.fixture(scope="module", autouse=True)
def same_rooms() -> Iterator[None]:
    """Make the rooms of a seed once for both runs, which only read them."""
    make, made = TinyRun.pool, {}

    def pool(self: TinyRun, capacity: int, first_seed: int, **options: Any) -> ScenePool:
        key = (capacity, first_seed, *sorted((name, str(value)) for name, value in options.items()))
        if key not in made:
            made[key] = make(self, capacity, first_seed, **options)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TinyRun, "pool", pool)
        yield


@pytest.mark.parametrize(("causal", "steps"), [(True, 1), (False, 2)])
def test_a_run_leaves_a_student_of_the_models_weights_and_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, causal: bool, steps: int
) -> None:
    monkeypatch.setattr(training, "MEASURED_STEPS", (1,))
    run_training(options(tmp_path, causal=causal, student_steps=steps))
    model = SceneTok.from_preset(load_preset(PRESET))
    model.load_embedded()
    student = load_student(tmp_path / "student.safetensors", model.preset, model.compressor)
    assert (student.causal, student.steps) == (causal, steps)
    figures = json.loads((tmp_path / "figures.json").read_text())
    # A step of training leaves a trained network what it is.
    assert figures["teacher"] > 15 and abs(figures["psnr"] - figures["untrained_steps_1"]) < 3
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log if line.get("done")] == [0]


def test_only_the_student_learns(tmp_path: Path) -> None:
    settings = options(tmp_path, student_steps=2)
    run = TinyRun(settings, load_preset(PRESET))
    task = StudentTask(run, settings)
    assert {kind.stage for kind, _ in task.kinds(0.0)} == {"forced"}
    assert {kind.stage for kind, _ in task.kinds(0.9)} == {"own"}
    frozen = torch.nn.ModuleList([task.teacher, task.compressor, run.codec])
    assert not any(parameter.requires_grad for parameter in task.teacher.parameters())
    assert not any(parameter.requires_grad for parameter in task.compressor.parameters())
    moved = {id(parameter) for group in task.optimizer().groups for parameter in group.parameters}
    assert moved == {id(parameter) for parameter in task.denoiser.parameters()}
    assert not moved & {id(parameter) for parameter in frozen.parameters()}
    for ours, theirs in zip(task.denoiser.parameters(), task.teacher.parameters(), strict=True):
        assert torch.equal(ours, theirs)
