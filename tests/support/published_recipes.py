"""The published recipes with networks of a few thousand weights, and data for a training step."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml
from nerfstudio.engine.trainer import TrainerConfig
from support.scene_files import example, write_dl3dv, write_re10k

from scenetok_ns.dataparsers.dl3dv_dataparser import Dl3dvDataParserConfig
from scenetok_ns.models.presets import config_folder, load_preset, preset_names
from scenetok_ns.plugin.methods import method_config

RECIPES = [name for name in preset_names() if load_preset(name).experiment is not None]
TOKENS_EACH = 64
"""Number of scene tokens of the full-size networks for each token here."""
LAYOUTS = {"vavae": (1, 1, 8), "video_dcae": (4, 1, 16), "wan": (17, 5, 8)}
"""Autoencoder -> its numbers of frames and latents in a chunk, and the size of the patch of pixels that replaces it."""


def small_recipe(name: str, folder: Path) -> Path:
    """Write a file with the preset `name`, with its own recipe, views and quirks but small networks on pixels."""
    values = yaml.safe_load((config_folder() / f"{name}.yaml").read_text())
    values["data"]["image_size"] = 32
    for role in ("context", "target"):
        frames, latents, patch = LAYOUTS[values[f"{role}_autoencoder"]["name"]]
        layout = {"spatial_factor": patch, "frames_per_chunk": frames, "latents_per_chunk": latents}
        values[f"{role}_autoencoder"] = {"name": "pixel", **layout}
    for network in ("compressor", "denoiser", "scene_generator"):
        if (part := values.get(network)) is not None:
            part.update(hidden_size=48 if network == "scene_generator" else 32, depth=2, num_heads=2)
            part["camera"].update(input_size=32)
    values["compressor"].update(num_tokens=values["compressor"]["num_tokens"] // TOKENS_EACH, token_dim=8)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.dump(values))
    return path


def write_data(root: Path) -> Path:
    """Write root/re10k and root/dl3dv, with scenes that are long enough for the views of the recipes."""
    for split in ("train", "test"):
        write_re10k(root / "re10k" / split, [[example(f"{split}{i}", 60, size=(36, 64)) for i in range(2)]])
        for i in range(2):
            write_dl3dv(root / "dl3dv" / split / f"{split}{i}" / "nerfstudio", 110)
    return root


def first_step(name: str, preset: Path, data: Path, output: Path, **model: Any) -> TrainerConfig:
    """Configuration of ns-train for one step of a recipe on a CPU; `model`: fields of the model's configuration."""
    config = copy.deepcopy(method_config(load_preset(name).method))
    is_dl3dv = isinstance(config.pipeline.datamanager.dataparser, Dl3dvDataParserConfig)
    config.output_dir, config.experiment_name, config.timestamp = output, name, "run"
    config.machine.device_type, config.max_num_iterations, config.vis = "cpu", 1, "tensorboard"
    config.pipeline.datamanager.data = data / ("dl3dv" if is_dl3dv else "re10k")
    config.pipeline.datamanager.num_workers, config.pipeline.datamanager.batch_size = 0, 1
    config.pipeline.datamanager.eval_scenes = 1
    config.pipeline.model.preset = str(preset)
    for field, value in model.items():
        setattr(config.pipeline.model, field, value)
    return config
