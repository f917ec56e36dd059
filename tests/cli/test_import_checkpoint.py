"""`scenetok import`: the run folder has the released tensors, or is not there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from nerfstudio.utils.eval_utils import eval_setup
from support.command_line import failure_in, scenetok_in
from support.released_files import random_state, write_lightning

from scenetok_ns.bridge.run_configs import read_run
from scenetok_ns.models.presets import load_preset
from scenetok_ns.tools.digests import sha256_of

CHECKPOINT = "nerfstudio_models/step-000000000.ckpt"
SCENES = ("demo-0-test-000000", "demo-0-test-000001")


def test_an_imported_run_holds_the_released_tensors_and_stock_tools_load_them(workplace: Path) -> None:
    state = random_state(load_preset(str(workplace / "small.yaml")))
    config, pipeline, checkpoint, step = eval_setup(workplace / "run" / "config.yml", test_mode="inference")
    assert (checkpoint, step) == (workplace / "run" / CHECKPOINT, 0)
    assert config.data == workplace / "data"
    loaded = pipeline.model.scenetok.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key].cpu(), 0.1 * value) for key, value in state.items())
    assert sorted(path.name for path in (workplace / "run").iterdir()) == ["config.yml", "nerfstudio_models"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "re10k", "output": "new"}, "preset re10k needs the weights of vavae: --vavae .../vavae-imagenet"),
        ({"vavae": "small.ckpt", "output": "new"}, "preset small does not use vavae: leave out"),
        ({"output": "run"}, "run exists; choose another --output"),
        ({"data": "nowhere", "output": "new"}, "no data at "),
        ({"checkpoint": "nothing.ckpt", "output": "new"}, "nothing.ckpt: no such file"),
        ({"preset": "scenetok-tiny", "output": "new"}, "does not fit preset scenetok-tiny: "),
        ({"tokenizer": "small.ckpt", "output": "new"}, "preset small has no scene generator"),
    ],
)
def test_wrong_imports_are_told_in_one_line_and_leave_nothing(
    workplace: Path, options: dict[str, str], message: str
) -> None:
    before = sorted(workplace.iterdir())
    said = failure_in(workplace, "import", **{"checkpoint": "small.ckpt", "preset": "small.yaml", **options})
    assert said.startswith("scenetok import: ") and message in said and "\n" not in said
    assert sorted(workplace.iterdir()) == before


def test_an_import_interrupted_while_writing_leaves_nothing(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    before = sorted(workplace.iterdir())
    with pytest.raises(SystemExit, match="scenetok import: interrupted"):
        scenetok_in(workplace, "import", checkpoint="small.ckpt", preset="small.yaml", output="new")
    assert sorted(workplace.iterdir()) == before


def test_the_file_of_another_autoencoder_is_refused_at_import(workplace: Path, tmp_path: Path) -> None:
    values = yaml.safe_load((workplace / "small.yaml").read_text())
    values["context_autoencoder"] = {"name": "vavae"}
    values["compressor"]["camera"]["patch_size"] = 16
    (tmp_path / "photographs.yaml").write_text(yaml.dump(values))
    state = random_state(load_preset(str(tmp_path / "photographs.yaml")))
    write_lightning(tmp_path / "small.ckpt", state)
    torch.save({"conv1.weight": torch.zeros(2)}, tmp_path / "other.pt")
    before = sorted(tmp_path.iterdir())
    options = {"checkpoint": "small.ckpt", "preset": "photographs.yaml", "vavae": "other.pt", "output": "new"}
    said = failure_in(tmp_path, "import", **options)
    assert "other.pt is not VA-VAE" in said and "\n" not in said
    assert sorted(tmp_path.iterdir()) == before


def test_autoencoder_weights_stay_outside_and_are_checked_when_the_run_is_loaded(
    workplace: Path, tmp_path: Path
) -> None:
    """The pixel autoencoder has no weights, so a file is put into the configuration by hand."""
    shutil.copytree(workplace / "run", tmp_path / "run", symlinks=True)
    weights = tmp_path / "vae.pt"
    weights.write_bytes(b"weights")
    config = read_run(workplace / "run")
    config.pipeline.model.context_weights = weights
    config.pipeline.model.context_weights_sha256 = sha256_of(weights)
    (tmp_path / "run" / "config.yml").write_text(yaml.dump(config))
    weights.write_bytes(b"Weights")
    with pytest.raises(ValueError, match=r"weights of the context autoencoder, .*vae\.pt, have changed"):
        eval_setup(tmp_path / "run" / "config.yml", test_mode="inference")
    weights.unlink()
    with pytest.raises(ValueError, match=r"weights of the context autoencoder are not at .*vae\.pt"):
        eval_setup(tmp_path / "run" / "config.yml", test_mode="inference")
