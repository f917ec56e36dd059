"""Files of students: what they say, and which networks they belong to."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.oracle import path
from support.small_models import small_model, views

from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.models.student_weights import Student, StudentSource, load_student, save_student
from scenetok_ns.models.weight_files import CheckpointError, save_weights


def written(model: SceneTok, file: Path, *, causal: bool = True, steps: int = 2) -> Student:
    student = Student(copy.deepcopy(model.denoiser), causal, steps)
    with torch.no_grad():
        for parameter in student.denoiser.parameters():
            parameter.mul_(0.9)
    save_student(student, file, model.preset, model.compressor)
    return student


@pytest.mark.parametrize("layout", ["1:1", "4:1", "17:5"])
@pytest.mark.parametrize("causal", [True, False])
def test_a_model_renders_with_the_student_of_a_file(tmp_path: Path, layout: str, causal: bool) -> None:
    model = small_model(layout)
    student = written(model, tmp_path / "student.safetensors", causal=causal)
    read = load_student(tmp_path / "student.safetensors", model.preset, model.compressor)
    assert (read.causal, read.steps) == (causal, 2)
    for ours, theirs in zip(read.denoiser.parameters(), student.denoiser.parameters(), strict=True):
        assert float((ours - theirs).abs().max()) <= float(theirs.abs().max()) / 100 + 1e-3
    model.students = StudentSource(tmp_path / "student.safetensors")
    tokens, cameras = model.encode(*views(4)), path(9)
    parts = list(model.stream_windows(tokens, cameras))
    frames = torch.cat([part.frames for part in parts], dim=1)
    assert frames.shape == (1, 9, 3, 16, 16) and parts[0].first_frame == 0
    assert [part.first_frame for part in parts] == sorted({part.first_frame for part in parts})
    again = torch.cat([part.frames for part in model.stream_windows(tokens, cameras)], dim=1)
    assert torch.equal(frames, again)
    model.students = StudentSource(Student(model.denoiser, causal, 2))
    own = torch.cat([part.frames for part in model.stream_windows(tokens, cameras)], dim=1)
    assert not torch.equal(frames, own)
    if causal:
        single = model.open_stream(tokens).next(cameras.select([0])).frames
        assert single.shape[1] == model.target_autoencoder.space.layout.frames_per_chunk
    else:
        assert not model.streams
        with pytest.raises(CheckpointError, match="cannot stream"):
            model.open_stream(tokens)


def test_files_of_other_networks_and_other_files_are_refused(tmp_path: Path) -> None:
    model, file = small_model(), tmp_path / "student.safetensors"
    written(model, file)
    with torch.no_grad():
        next(model.compressor.parameters()).add_(1)
    with pytest.raises(CheckpointError, match="tokens of other weights of preset scenetok-tiny"):
        load_student(file, model.preset, model.compressor)
    model.students = StudentSource(file, required=False)
    assert model.student().denoiser is model.denoiser  # two steps of its own are few
    model.students = StudentSource(file)
    with pytest.raises(CheckpointError, match="tokens of other weights"):
        model.student()
    with pytest.raises(CheckpointError, match="not a readable student"):
        load_student(tmp_path / "none.safetensors", model.preset, model.compressor)
    save_weights({"denoiser": model.denoiser}, file)
    with pytest.raises(CheckpointError, match="expected the weights of a student"):
        load_student(file, model.preset, model.compressor)


def test_a_model_of_many_steps_needs_a_student() -> None:
    model = small_model()
    assert model.streams
    model.preset = replace(model.preset, sampler=replace(model.preset.sampler, steps=25))
    assert not model.streams
    with pytest.raises(CheckpointError, match="no few-step student for these weights"):
        model.student()
