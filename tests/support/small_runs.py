"""The smallest method, data sets and runs that exercise the whole plugin, for its tests."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from nerfstudio.engine.trainer import TrainerConfig
from support.scene_files import example, write_dl3dv, write_re10k
from support.small_networks import randomized

from scenetok_ns.dataparsers.dl3dv_dataparser import Dl3dvDataParserConfig
from scenetok_ns.dataparsers.re10k_dataparser import Re10kDataParserConfig
from scenetok_ns.plugin.datamanager import SceneTokDataManager
from scenetok_ns.plugin.methods import scenegen_tiny, scenetok_tiny
from scenetok_ns.plugin.pipeline import SceneTokPipeline

TESTS = Path(__file__).parents[1]
"""Folder of all tests, for processes that import from it."""

PRESET = Path(__file__).with_name("tiny_preset.yaml")
GENERATOR = Path(__file__).with_name("tiny_scenegen.yaml")
"""Preset of a scene generator with the tokenizer of `PRESET`."""
IMAGE_SIZE, NUM_CONTEXT, FRAMES = 32, 3, 12
"""Image size and number of context views of the preset, and number of frames of each scene."""


def write_small_re10k(root: Path, bad_scene: bool = False) -> Path:
    """Write 4 training scenes and 3 evaluation scenes; with `bad_scene`, one more of each with a NaN pose."""
    for split, count in (("train", 4), ("test", 3)):
        scenes = [example(f"{split}{i}", FRAMES, size=(36, 64)) for i in range(count)]
        if bad_scene:
            scenes.append(example(f"{split}-bad", FRAMES))
            scenes[-1]["cameras"][1, 8] = float("nan")
        write_re10k(root / split, [scenes])
    return root


def write_unlike_re10k(root: Path) -> Path:
    """Write 3 scenes, each beginning at another frame, both for training and for evaluation."""
    scenes = []
    for index in range(3):
        scene = example(f"test{index}", FRAMES + 3 * index, size=(36, 64))
        kept = {name: scene[name][3 * index :] for name in ("cameras", "images", "timestamps")}
        scenes.append({**scene, **kept})
    for split in ("train", "test"):
        write_re10k(root / split, [scenes])
    return root


def write_small_dl3dv(root: Path) -> Path:
    for split, count in (("train", 2), ("test", 2)):
        for i in range(count):
            write_dl3dv(root / split / f"{split}{i}" / "nerfstudio", FRAMES)
    return root


def small_config(data: Path, output: Path, preset: Path = PRESET, **fields: Any) -> TrainerConfig:
    """The registered tiny method with the smallest preset of its kind, on a CPU; `fields` set fields of the trainer."""
    config = copy.deepcopy((scenegen_tiny if preset == GENERATOR else scenetok_tiny).config)
    config.output_dir, config.experiment_name, config.timestamp = output, "small", "run"
    config.machine.device_type = "cpu"
    config.max_num_iterations, config.steps_per_save = 4, 1000
    config.pipeline.model.preset = str(preset)  # type: ignore[attr-defined]
    is_re10k = any(data.glob("*/index.json"))
    config.pipeline.datamanager.dataparser = Re10kDataParserConfig() if is_re10k else Dl3dvDataParserConfig()
    config.pipeline.datamanager.data = data
    config.pipeline.datamanager.num_workers = 0
    for name, value in fields.items():
        setattr(config, name, value)
    return config


def small_pipeline(
    data: Path, test_mode: str = "test", seed: int = 0, preset: Path = PRESET, **fields: Any
) -> SceneTokPipeline:
    """A pipeline with freshly initialised weights; `fields` set fields of the data manager."""
    torch.manual_seed(seed)
    config = small_config(data, Path("unused"), preset).pipeline
    for name, value in fields.items():
        setattr(config.datamanager, name, value)
    return config.setup(device="cpu", test_mode=test_mode)


def randomize(pipeline: SceneTokPipeline) -> None:
    """Set weights with which pictures depend on tokens and cameras; freshly initialised ones give zero velocity."""
    torch.manual_seed(0)
    randomized(pipeline.model.scenetok)
    pipeline.model.invalidate_caches()


def write_run(data: Path, output: Path, preset: Path = PRESET) -> Path:
    """Write a run folder as ns-train does, with random weights."""
    config = small_config(data, output, preset)
    pipeline = config.pipeline.setup(device="cpu", test_mode="inference")
    randomize(pipeline)
    config.save_config()
    config.get_checkpoint_dir().mkdir(parents=True)
    state: dict[str, Any] = {"step": 0, "pipeline": pipeline.state_dict(), "optimizers": {}}
    state |= {"schedulers": {}, "scalers": {}}
    torch.save(state, config.get_checkpoint_dir() / "step-000000000.ckpt")
    return config.get_base_dir()


def final_state(config: TrainerConfig, step: int) -> dict[str, Any]:
    path = config.get_checkpoint_dir() / f"step-{step:09d}.ckpt"
    return torch.load(path, map_location="cpu", weights_only=True)


def small_datamanager(
    data: Path, test_mode: str = "test", dataparser: dict | None = None, **fields: object
) -> SceneTokDataManager:
    config = small_config(data, Path("unused")).pipeline
    config.datamanager.preset = config.model.preset
    for name, value in fields.items():
        setattr(config.datamanager, name, value)
    for name, value in (dataparser or {}).items():
        setattr(config.datamanager.dataparser, name, value)
    return config.datamanager.setup(device="cpu", test_mode=test_mode)
