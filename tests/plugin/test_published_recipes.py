"""The 12 published trainings take their first step, from the weights that they start from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.published_recipes import RECIPES, first_step, small_recipe, write_data
from support.released_files import random_state, write_lightning

from scenetok_ns.models.presets import load_preset
from scenetok_ns.training.initial_weights import SCENE_TOKENS


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, all recipes at a small size, and a checkpoint of each under its released name."""
    folder = write_data(tmp_path_factory.mktemp("recipes"))
    for seed, name in enumerate([*RECIPES, "re10k-scene", "scenegen-dl3dv"]):
        preset = load_preset(str(small_recipe(name, folder)))
        if preset.checkpoint is None:
            continue
        state = random_state(preset, seed)
        if preset.scene_generator is not None:
            state = {key: value for key, value in state.items() if key.startswith("scene_generator.")}
        state = {key: 0.1 * value for key, value in state.items()}
        write_lightning(folder / preset.checkpoint, state | {"ema.module.x": torch.zeros(1)})
    return folder


def released(place: Path, name: str) -> dict[str, torch.Tensor]:
    return torch.load(place / name, weights_only=True)["state_dict"]


def test_there_are_twelve() -> None:
    assert len(RECIPES) == 12


@pytest.mark.parametrize("name", [*RECIPES, "scenegen-dl3dv"])
def test_a_recipe_takes_its_first_step(
    place: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    preset, fields = load_preset(name), {}
    start = preset.initial_checkpoint or (preset.checkpoint if preset.scene_generator is not None else None)
    if start is not None:
        fields["initial_weights"] = place / start
    if preset.tokenizer_checkpoint is not None:
        fields["tokenizer"] = place / preset.tokenizer_checkpoint
    trainer = first_step(name, place / f"{name}.yaml", place, tmp_path, **fields).setup()
    trainer.setup()
    before = {key: value.clone() for key, value in trainer.pipeline.model.scenetok.state_dict().items()}
    if start is not None:
        check_start(before, released(place, start), capsys.readouterr().out)
    loss, _, _ = trainer.train_iteration(0)
    assert loss.isfinite()
    after = trainer.pipeline.model.scenetok.state_dict()
    changed = {key.split(".")[0] for key, value in after.items() if not torch.equal(value, before[key])}
    frozen = {part for part in ("compressor", "denoiser") if getattr(preset.training, f"freeze_{part}")}
    # A fresh decoder begins with a last layer of zeros, so the first gradient ends there.
    assert ("denoiser" if preset.scene_generator is None else "scene_generator") in changed and not changed & frozen


def check_start(own: dict[str, torch.Tensor], file: dict[str, torch.Tensor], said: str) -> None:
    """The networks begin as the file says, where it fits."""
    fitting = [key for key, value in file.items() if key in own and own[key].shape == value.shape]
    assert len(fitting) > 20 and all(torch.equal(own[key], file[key]) for key in fitting)
    assert f"Initial weights: {len(fitting)} tensors of" in " ".join(said.split())
    if SCENE_TOKENS in file and file[SCENE_TOKENS].shape != own[SCENE_TOKENS].shape:
        assert own[SCENE_TOKENS].shape[1] == 2 * file[SCENE_TOKENS].shape[1]
        assert torch.equal(own[SCENE_TOKENS][:, : file[SCENE_TOKENS].shape[1]], file[SCENE_TOKENS])
        assert "compressor.scene_tokens: the first 8 of 16 scene tokens" in said


def started(place: Path, output: Path, name: str, **fields: Any) -> Any:
    trainer = first_step(name, place / f"{name}.yaml", place, output, **fields).setup()
    trainer.setup()
    return trainer


def test_a_recipe_without_its_start_says_so(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    started(place, tmp_path, "dl3dv-shift8")
    said = " ".join(capsys.readouterr().out.split())
    assert "the published training of preset dl3dv-shift8 starts from va-videodc_re10k.ckpt" in said
    assert "has the quirk" in said
    started(place, tmp_path, "dl3dv-shift8", initial_weights=place / "va-videodc_re10k.ckpt")
    assert "has the quirk" not in capsys.readouterr().out


def test_a_tokenizer_is_refused_where_it_means_nothing(place: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--pipeline\.model\.tokenizer only works with scenegen methods"):
        started(place, tmp_path, "re10k", tokenizer=place / "va-videodc_re10k.ckpt")
    assert not any(tmp_path.rglob("config.yml"))


def test_averages_begin_at_the_initial_weights(place: Path, tmp_path: Path) -> None:
    file = place / "va-videodc_re10k.ckpt"
    model = started(place, tmp_path, "re10k", initial_weights=file, ema_decay=0.9).pipeline.model
    state, given = model.state_dict(), released(place, file.name)
    weights = dict(model.scenetok.named_parameters())  # tables are no weights, and not averaged
    averaged = [key for key in given if key in weights and f"average.networks.{key}" in state]
    assert len(averaged) > 20
    assert all(torch.equal(state[f"average.networks.{key}"], given[key]) for key in averaged)
