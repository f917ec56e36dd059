"""Folders for tests of commands: data, runs with small networks, a photograph with a camera path."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from support.command_line import scenetok, scenetok_in
from support.released_files import random_state, write_lightning
from support.small_runs import GENERATOR, PRESET, write_small_re10k

from scenetok_ns.data.anchors import trajectory
from scenetok_ns.data.camera_path_files import write_camera_path
from scenetok_ns.data.demo.writer import write_demo_data
from scenetok_ns.models.presets import config_folder, load_preset


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a data set, a small preset, a checkpoint of that preset, and the run imported from the checkpoint."""
    folder = tmp_path_factory.mktemp("workplace")
    write_demo_data(folder / "data", "re10k", {"train": 1, "test": 2}, 16, 128, 0)
    values = yaml.safe_load((config_folder() / "scenetok-tiny.yaml").read_text())
    del values["embedded_weights"]
    values["compressor"].update(hidden_size=32, depth=1, num_heads=2, num_tokens=16, token_dim=8)
    values["denoiser"].update(hidden_size=32, depth=1, num_heads=2)
    values["data"]["views"]["num_context"] = 4
    (folder / "small.yaml").write_text(yaml.dump(values))
    state = {key: 0.1 * value for key, value in random_state(load_preset(str(folder / "small.yaml"))).items()}
    write_lightning(folder / "small.ckpt", state)
    scenetok_in(folder, "import", checkpoint="small.ckpt", preset="small.yaml", data="data", output="run")
    return folder


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with data, a photograph, a camera path, and runs of a generator and of its tokenizer."""
    folder = tmp_path_factory.mktemp("work")
    write_small_re10k(folder / "data")
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "photo.jpg", quality=95)
    write_camera_path(folder / "path.json", trajectory("sideways", 6), fov=60.0, side=24)
    for preset in (GENERATOR, PRESET):
        state = {key: 0.2 * value for key, value in random_state(load_preset(str(preset))).items()}
        checkpoint = write_lightning(folder / f"{preset.stem}.ckpt", state)
        options = {"preset": preset, "checkpoint": checkpoint, "data": folder / "data", "output": folder / preset.stem}
        scenetok("import", **options)
    return folder
