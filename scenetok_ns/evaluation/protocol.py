"""What an evaluation's figures depend on: the settings that a continued evaluation must share, and the machine."""

from __future__ import annotations

import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from scenetok_ns.evaluation.measures import Measures
from scenetok_ns.tools.digests import sha256_of

if TYPE_CHECKING:
    from scenetok_ns.evaluation.scene_evaluation import SceneEvaluation
    from scenetok_ns.plugin.datamanager import SceneTokDataManager
    from scenetok_ns.plugin.model import SceneTokModel

PACKAGES = ("scenetok-ns", "torch", "torchvision", "torchmetrics", "torch-fidelity", "nerfstudio", "diffusers", "numpy")


def settings_of(evaluation: SceneEvaluation) -> dict[str, Any]:
    """Everything that the figures depend on, for JSON."""
    model, datamanager = evaluation.model, evaluation.datamanager
    return {
        "task": "reconstruction" if model.scene_sampler is None else "generation",
        "preset": model.preset.name,
        "weights": _weights(model),
        "data": _data(datamanager),
        "views": _views(evaluation),
        "sampler": asdict(model.sampler) | {"seed": model.config.seed},
        "scene_sampler": model.scene_sampler and asdict(model.scene_sampler) | {"seed": model.config.scene_seed},
        "tokens": {
            "number": evaluation.conditions.num_tokens or model.preset.compressor.num_tokens,
            "numbers_each": model.preset.compressor.token_dim,
            "value": "mean of the compressor's Gaussian" if model.scene_sampler is None else "generated",
        },
        "baselines": evaluation.baselines,
        "scenes_together": evaluation.group_size,
        "rendering": {"by": model.scenetok.rendered_by(), "low_vram": model.config.low_vram},
        "metrics": _metrics(evaluation.measures),
        "machine": environment(model.device),
    }


def _weights(model: SceneTokModel) -> dict[str, Any]:
    def file(path: Path | None, sha256: str | None) -> dict[str, str] | None:
        return None if path is None else {"file": path.name, "sha256": sha256 or sha256_of(path)}

    config = model.config
    return {
        "networks_sha256": model.fingerprint,
        "context_autoencoder": file(config.context_weights, config.context_weights_sha256),
        "target_autoencoder": file(config.target_weights, config.target_weights_sha256),
    }


def _data(datamanager: SceneTokDataManager) -> dict[str, Any]:
    index = datamanager.scenes.index
    return {
        "path": str(datamanager.config.data),
        "dataparser": type(datamanager.dataparser).__name__,
        "split": datamanager.test_split,
        "index": None if index is None else {"file": index.path.name, "sha256": sha256_of(index.path)},
        "scenes": list(datamanager.scenes.keys),
    }


def _views(evaluation: SceneEvaluation) -> dict[str, Any]:
    datamanager = evaluation.datamanager
    given = "photographs and anchor poses" if evaluation.model.scene_sampler is not None else "photographs to encode"
    by_index = datamanager.scenes.index is not None
    return {
        "context": f"{given}, as the index says" if by_index else f"{given}, farthest points from frame 0",
        "num_context": datamanager.config.num_context,
        "num_condition": datamanager.config.num_condition,
        "context_order": evaluation.conditions.context_order,
        "targets": "as the index says" if by_index else "all frames that are no context views",
        "eval_targets": datamanager.config.eval_targets,
        "image_size": evaluation.model.preset.data.image_size,
        "pose_scale": datamanager.scenes.pose_scale(0),
        "crop": "scaled so that the shorter side fits, centre square",
    }


def _metrics(measures: Measures) -> dict[str, Any]:
    return measures.describe() | {"wanted": list(measures.options.metrics)}


def environment(device: torch.device) -> dict[str, Any]:
    """Versions and hardware."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    on_gpu = device.type == "cuda"
    return {
        "versions": versions | {"python": platform.python_version()},
        "device": torch.cuda.get_device_name(device) if on_gpu else f"CPU {platform.machine()}",
        "cuda": torch.version.cuda if on_gpu else None,
        "denoiser_precision": "bfloat16" if on_gpu else "float32",
    }
