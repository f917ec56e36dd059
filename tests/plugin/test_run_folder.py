"""Run folders of our own, and what Nerfstudio reads in them."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import pytest
import torch
import yaml
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.engine.trainer import TrainerConfig

from scenetok_ns.bridge.run_configs import read_run
from scenetok_ns.data.demo.writer import write_demo_data
from scenetok_ns.plugin.methods import method_config
from scenetok_ns.plugin.run_folder import RunFolderConfig, derive_run, run_config
from scenetok_ns.tools.run_files import write_run_folder

CHECKPOINT = "nerfstudio_models/step-000000000.ckpt"


@pytest.fixture
def method() -> TrainerConfig:
    config = copy.deepcopy(method_config("scenetok-tiny"))
    config.load_dir = Path("elsewhere")
    return config


def no_checkpoint(folder: Path) -> None:
    torch.save({"step": 0, "pipeline": {}}, folder / "step-000000000.ckpt")


def test_the_configuration_finds_its_checkpoints_from_any_folder(
    method: TrainerConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run_folder(Path("my run"), no_checkpoint, lambda: run_config(method, Path("my run")))
    monkeypatch.chdir("/")
    config = read_run(tmp_path / "my run")
    assert isinstance(config, TrainerConfig) and config.method_name == "scenetok-tiny"
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


def test_a_derived_run_shares_the_checkpoint_and_leaves_the_original_as_it_is(
    method: TrainerConfig, tmp_path: Path
) -> None:
    write_run_folder(tmp_path / "first", no_checkpoint, lambda: run_config(method, tmp_path / "first"))
    before = (tmp_path / "first" / "config.yml").read_bytes()
    derived = derive_run(tmp_path / "first" / "config.yml", tmp_path / "second")
    derived.config.pipeline.model.seed = 7
    derived.write(lambda folder: (folder / "more.txt").write_text("more"))
    assert sorted(path.name for path in (tmp_path / "second").iterdir()) == [
        "config.yml",
        "more.txt",
        "nerfstudio_models",
    ]
    assert os.path.samefile(tmp_path / "first" / CHECKPOINT, tmp_path / "second" / CHECKPOINT)
    assert read_run(tmp_path / "second").pipeline.model.seed == 7
    assert (tmp_path / "first" / "config.yml").read_bytes() == before
    with pytest.raises(FileExistsError, match="second exists"):
        derived.write()


def test_a_preset_in_the_package_is_a_run_without_a_folder(tmp_path: Path) -> None:
    write_demo_data(tmp_path / "data", "re10k", {"test": 1}, 16, 128)
    derived = derive_run(Path("scenetok-tiny"), tmp_path / "run")
    derived.config.pipeline.datamanager.data = tmp_path / "data"
    expected = derived.load().model.scenetok.state_dict()
    derived.write()
    pipeline = derive_run(tmp_path / "run", tmp_path / "other").load()
    assert not pipeline.training
    loaded = pipeline.model.scenetok.state_dict()
    assert loaded.keys() == expected.keys() and all(torch.equal(loaded[key], expected[key]) for key in loaded)


def test_what_is_not_a_run_of_ours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"no trained weights of preset re10k .* folder; `scenetok download re10k --data"
    ):
        derive_run(Path("re10k"), tmp_path / "new")
    with pytest.raises(FileNotFoundError, match=r"there is no run .*nothing: expected a run folder"):
        derive_run(tmp_path / "nothing", tmp_path / "new")
    (tmp_path / "config.yml").write_text(yaml.dump(all_methods["splatfacto"]))
    with pytest.raises(ValueError, match=r"which no scenetok run has \(its method is splatfacto\)"):
        derive_run(tmp_path, tmp_path / "new")
    (tmp_path / "config.yml").write_text(yaml.dump(method_config("scenetok-tiny").machine))
    with pytest.raises(ValueError, match="does not hold the configuration of a run"):
        derive_run(tmp_path, tmp_path / "new")
