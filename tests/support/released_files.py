"""Small files in the form of the released Lightning checkpoints."""

from __future__ import annotations

import collections
import pathlib
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scenetok_ns.models.presets import CameraConfig, Preset, SceneGeneratorConfig, SceneSamplerConfig, load_preset
from scenetok_ns.models.released_checkpoints import expected_tensors

SURPLUS_KEYS = {
    "denoiser.model.y_embedder.embedding_table.weight": "class embedding of LightningDiT",
    "denoiser.model.pos_embed": "position table of LightningDiT",
    "compressor.norm.weight": "norm of an earlier compressor",
    "compressor.scene_norm.weight": "norm of an earlier compressor",
    "compressor.null_tokens": "null token of an earlier compressor",
    "denoiser.model.feat_rope.freqs_cos": "rotary table",
    "ema.module.denoiser.x": "averaged weights of the trainer",
    "scheduler.x": "constants of the noise schedule",
}
"""Key -> beginning of the reason why it is left out."""


def small_preset(*, generator: bool = False) -> Preset:
    """Networks of a few thousand weights. Matrices of hidden_size^2 are square, so transposing keeps their shapes."""
    tiny = load_preset("scenetok-tiny")
    preset = replace(
        tiny,
        compressor=replace(tiny.compressor, hidden_size=32, depth=2, num_heads=2, num_tokens=8, token_dim=4),
        denoiser=replace(tiny.denoiser, hidden_size=32, depth=2, num_heads=2, null_token=False),
    )
    if not generator:
        return preset
    camera = CameraConfig("plucker", normalize=True, embedding="patch_embed", patch_size=4, input_size=32, dropout=0.1)
    return replace(
        preset,
        data=replace(preset.data, views=replace(preset.data.views, max_condition_views=3)),
        scene_generator=SceneGeneratorConfig(hidden_size=32, depth=2, num_heads=2, patch_size=2, camera=camera),
        scene_sampler=SceneSamplerConfig(steps=2, timestep_shift=4.0),
        tokenizer_checkpoint="tokenizer.ckpt",
    )


def random_state(preset: Preset, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.randn(meta.shape, generator=generator) for key, meta in expected_tensors(preset).items()}


def write_lightning(path: Path, state: dict[str, Any], **more: Any) -> Path:
    """Write `state` as a checkpoint, with the other records of the published trainer."""
    weight = next(iter(state.values()))
    records = {
        "epoch": 3,
        "global_step": 150_000,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": collections.OrderedDict(state),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 4, "completed": 3}}}},
        "callbacks": {
            "ModelCheckpoint{'monitor': None, 'mode': 'min', 'every_n_train_steps': 1000}": {
                "best_model_score": torch.tensor(0.5),
                "best_k_models": {},
                "dirpath": pathlib.PurePath("checkpoints").as_posix(),
            }
        },
        "optimizer_states": [
            {"state": {0: {"exp_avg": torch.zeros(3), "step": torch.tensor(1.0)}}, "param_groups": []}
        ],
        "lr_schedulers": [{"_milestones": [2000], "milestones": collections.Counter([500_000]), "_last_lr": [1e-5]}],
        "MixedPrecision": {"scale": float(weight.numel() if isinstance(weight, Tensor) else 0)},
    }
    torch.save(records | more, path)
    return path


@contextmanager
def foreign_classes(*names: str) -> Iterator[list[type]]:
    """Create classes under the names of packages that are not installed, while a file is written."""
    modules = set()
    made = []
    for name in names:
        module, _, attribute = name.rpartition(".")
        parts = module.split(".")
        for end in range(1, len(parts) + 1):
            prefix = ".".join(parts[:end])
            if prefix not in sys.modules:
                sys.modules[prefix] = types.ModuleType(prefix)
                modules.add(prefix)
        base = dict if attribute == "AttributeDict" else object
        cls = type(attribute, (base,), {"__module__": module})
        setattr(sys.modules[module], attribute, cls)
        made.append(cls)
    try:
        yield made
    finally:
        for name in modules:
            del sys.modules[name]
