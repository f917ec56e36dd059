"""Initial weights: what fits is taken, fewer scene tokens go to the first places, and the rest is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.released_files import random_state, small_preset, write_lightning

from scenetok_ns.models.presets import Preset
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.models.weight_files import CheckpointError
from scenetok_ns.training.initial_weights import SCENE_TOKENS, load_initial_weights


def larger(preset: Preset) -> Preset:
    """Twice as many scene tokens, one more block, and tokens of another width."""
    compressor = replace(preset.compressor, num_tokens=2 * preset.compressor.num_tokens)
    return replace(preset, compressor=compressor, denoiser=replace(preset.denoiser, depth=3))


def test_all_of_an_equal_model_is_taken(tmp_path: Path) -> None:
    state = random_state(small_preset())
    model = SceneTok(small_preset())
    report = load_initial_weights(model, write_lightning(tmp_path / "x.ckpt", state))
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert report.taken == list(model.state_dict()) and not report.left and not report.sliced and not report.unused
    assert report.lines() == [f"Initial weights: {len(state)} tensors of {tmp_path / 'x.ckpt'}"]


def test_a_smaller_model_s_tokens_are_the_first_ones(tmp_path: Path) -> None:
    state = random_state(small_preset())
    gone, misshapen = "denoiser.cnd_proj.weight", "denoiser.cnd_proj.bias"
    del state[gone]
    state[misshapen] = torch.zeros(7)
    save_file(state | {"denoiser.more": torch.zeros(1), "autoencoder.x": torch.zeros(1)}, tmp_path / "x.safetensors")
    model = SceneTok(larger(small_preset()))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    report = load_initial_weights(model, tmp_path / "x.safetensors")
    after = model.state_dict()
    count = small_preset().compressor.num_tokens
    assert torch.equal(after[SCENE_TOKENS][:, :count], state[SCENE_TOKENS])
    assert torch.equal(after[SCENE_TOKENS][:, count:], before[SCENE_TOKENS][:, count:])
    third = [key for key in after if ".blocks.2." in key]
    assert third and set(report.left) == {gone, misshapen, *third}
    assert all(torch.equal(after[key], before[key]) for key in report.left)
    assert all(torch.equal(after[key], state[key]) for key in report.taken)
    assert report.unused == ["denoiser.more"]
    lines = "\n".join(report.lines())
    assert f"{SCENE_TOKENS}: the first {count} of {2 * count} scene tokens" in lines
    assert "not from the file, where it has none: denoiser." in lines
    assert f"not from the file, where its shape is another: {misshapen}" in lines
    assert "unused: denoiser.more" in lines


def test_more_scene_tokens_than_the_model_s_are_not_cut(tmp_path: Path) -> None:
    path = write_lightning(tmp_path / "x.ckpt", random_state(larger(small_preset())))
    report = load_initial_weights(SceneTok(small_preset()), path)
    assert SCENE_TOKENS in report.left and not report.sliced


def test_files_of_something_else_are_refused(tmp_path: Path) -> None:
    save_file({"encoder.weight": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"has nothing that fits preset .*: it holds 0 tensors of networks"):
        load_initial_weights(SceneTok(small_preset()), tmp_path / "x.safetensors")
    (tmp_path / "y.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="not a readable weights file"):
        load_initial_weights(SceneTok(small_preset()), tmp_path / "y.safetensors")
