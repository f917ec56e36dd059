"""Models load from a preset, run folder, checkpoint or released file with the right weights; failures take one line."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file
from support.released_files import random_state, write_lightning
from support.small_runs import GENERATOR, PRESET, small_config, write_run, write_small_re10k

from scenetok_ns.models.presets import load_preset
from scenetok_ns.models.run_checkpoints import AVERAGE
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.models.tokens import SceneTokens


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    run = write_run(write_small_re10k(folder / "data"), folder / "output")
    file = next(run.glob("*/*.ckpt"))
    torch.save({"optimizers": {}, "schedulers": {}, "scalers": {}, **torch.load(file, weights_only=True)}, file)
    return run


def state_of(run: Path) -> dict[str, torch.Tensor]:
    saved = torch.load(next(run.glob("*/*.ckpt")), weights_only=True)["pipeline"]
    prefix = "_model.scenetok."
    return {key.removeprefix(prefix): value for key, value in saved.items() if key.startswith(prefix)}


def check_weights(model: SceneTok, expected: dict[str, torch.Tensor]) -> None:
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())
    found = model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key].cpu(), expected[key]) for key in expected)


def test_a_preset_of_the_package() -> None:
    expected = SceneTok.from_preset("scenetok-tiny")
    expected.load_embedded()
    check_weights(SceneTok.from_pretrained("scenetok-tiny", device="cpu"), expected.state_dict())


def test_a_run_folder_its_config_and_its_checkpoint(run: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(run, tmp_path / "moved")
    for source in (run, str(run), run / "config.yml", moved, next(moved.glob("*/*.ckpt"))):
        model = SceneTok.from_pretrained(source, device="cpu")
        check_weights(model, state_of(run))
        assert model.preset == load_preset(str(PRESET))
    shutil.move(moved / "config.yml", tmp_path / "config.yml")
    with pytest.raises(ValueError, match=r"is of preset tiny_preset, which is not in this package: give preset="):
        SceneTok.from_pretrained(next(moved.glob("*/*.ckpt")))
    check_weights(SceneTok.from_pretrained(next(moved.glob("*/*.ckpt")), preset=str(PRESET)), state_of(run))


def test_averaged_weights_are_taken(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "averaged")
    file = next(copy.glob("*/*.ckpt"))
    saved = torch.load(file, weights_only=True)
    key = "compressor.scene_tokens"
    average = torch.full_like(saved["pipeline"][f"_model.scenetok.{key}"], 0.5)
    saved["pipeline"][f"_model.{AVERAGE}networks.{key}"] = average
    torch.save(saved, file)
    check_weights(SceneTok.from_pretrained(copy, device="cpu"), {**state_of(run), key: average})


def test_a_run_needs_no_nerfstudio(run: Path) -> None:
    code = (
        "import sys; from scenetok_ns import SceneTok; SceneTok.from_pretrained(sys.argv[1]);"
        "assert not {'nerfstudio', 'viser', 'tyro'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(run)], check=True)


def test_released_checkpoints_and_networks_in_a_file(tmp_path: Path) -> None:
    preset = load_preset(str(PRESET))
    state = random_state(preset)
    released = write_lightning(tmp_path / "mine.ckpt", state)
    model = SceneTok.from_pretrained(released, preset=str(PRESET), device="cpu")
    check_weights(model, dict(random_state(preset)))
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "mine.safetensors")
    check_weights(SceneTok.from_pretrained(tmp_path / "mine.safetensors", preset=str(PRESET)), dict(state))
    with pytest.raises(ValueError, match="does not name its preset: give preset="):
        SceneTok.from_pretrained(tmp_path / "mine.safetensors")


def test_a_generator_with_its_tokenizer_in_another_file(tmp_path: Path) -> None:
    preset = load_preset(str(GENERATOR))
    state = random_state(preset)
    parts = {"generator": {}, "tokenizer": {}}
    for key, value in state.items():
        parts["generator" if key.startswith("scene_generator.") else "tokenizer"][key] = value
    files = {name: write_lightning(tmp_path / f"{name}.ckpt", part) for name, part in parts.items()}
    found = SceneTok.from_pretrained(files["generator"], preset=str(GENERATOR), tokenizer=files["tokenizer"])
    check_weights(found, dict(state))
    with pytest.raises(ValueError, match="holds the scene generator alone: give the tokenizer's file too"):
        SceneTok.from_pretrained(files["generator"], preset=str(GENERATOR))


def test_what_cannot_be_loaded_is_one_line(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scenetok_ns.models.pretrained.find_released", lambda *_: None)
    (tmp_path / "empty").mkdir()
    other = shutil.copytree(run, tmp_path / "other")
    values = (other / "config.yml").read_text()
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "config.yml").write_text(yaml.dump({"method_name": "splatfacto"}))
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "config.yml").write_text(values[: len(values) // 2] + "\n  : [")
    SceneTokens(torch.zeros(256, 32), torch.eye(4), "scenetok-tiny").save(tmp_path / "room.safetensors")
    for source, message in [
        ("nothing", "no trained model nothing: expected a run folder, a checkpoint, or a preset"),
        (
            tmp_path / "room.safetensors",
            r"expected weights of networks, got the token file .*room",
        ),
        (tmp_path / "empty", "is not a run folder: it has no config.yml"),
        (tmp_path / "none", "does not hold the configuration of a scenetok run .its method is splatfacto"),
        (tmp_path / "cut", "cannot be read as the configuration of a scenetok run"),
        ("re10k", "the weights of preset re10k were not found: run `scenetok download re10k`"),
        ("w/small.ckpt", r"there is no file w/small.ckpt"),
        ("scenetok-tniy", r"no trained model scenetok-tniy \(did you mean scenetok-tiny\?\): expected"),
    ]:
        with pytest.raises((ValueError, OSError), match=message) as stop:
            SceneTok.from_pretrained(source)
        assert "\n" not in str(stop.value)
    with pytest.raises(ValueError, match="does not fit preset scenetok-tiny"):
        SceneTok.from_pretrained(run, preset="scenetok-tiny")
    with pytest.raises(ValueError, match="names another one"):
        SceneTok.from_pretrained("scenetok-tiny", preset="scenegen-tiny")
    shutil.rmtree(other / small_config(tmp_path, tmp_path).relative_model_dir)
    assert SceneTok.from_pretrained(other).preset.name == PRESET.stem  # the config names another checkpoint folder
