"""Collect everything that the figures of an evaluation depend on: the settings and the machine.

A continued evaluation must have the same ones.
"""

from __future__ import annotations

import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import torch

from scenetok_ns.evaluation.measures import Measures
from scenetok_ns.tools.digests import sha256_of

if TYPE_CHECKING:
    from scenetok_ns.bridge.evaluation_scenes import EvaluationScenes
    from scenetok_ns.evaluation.scene_evaluation import SceneEvaluation
    from scenetok_ns.rendering.scene_renderer import SceneRenderer

PACKAGES = ("scenetok-ns", "torch", "torchvision", "torchmetrics", "torch-fidelity", "nerfstudio", "diffusers", "numpy")


def settings_of(evaluation: SceneEvaluation) -> dict[str, Any]:
    """Collect everything that the figures depend on, for JSON."""
    renderer, settings = evaluation.renderer, evaluation.renderer.settings
    preset, generates = renderer.preset, renderer.generates
    drawn = "draw" if settings.encoding == "published" else "mean"
    return {
        "task": "generation" if generates else "reconstruction",
        "preset": preset.name,
        "weights": _weights(renderer),
        "data": _data(renderer.scenes),
        "views": _views(evaluation),
        "sampler": asdict(settings.sampler) | {"seed": settings.seed},
        "scene_sampler": settings.scene_sampler and asdict(settings.scene_sampler) | {"seed": settings.scene_seed},
        "tokens": {
            "number": evaluation.conditions.num_tokens or preset.compressor.num_tokens,
            "numbers_each": preset.compressor.token_dim,
            "value": "generated" if generates else f"{drawn} of the compressor's Gaussian",
            "encoding": settings.encoding,
        },
        "baselines": evaluation.baselines,
        "scenes_together": evaluation.group_size,
        "rendering": {"by": renderer.scenetok.rendered_by(), "low_vram": renderer.scenetok.low_vram},
        "metrics": _metrics(evaluation.measures),
        "machine": environment(renderer.device),
    }


def _weights(renderer: SceneRenderer) -> dict[str, Any]:
    def file(role: str) -> dict[str, str] | None:
        found = renderer.autoencoder_files.get(role)
        return None if found is None else {"file": found.path.name, "sha256": found.sha256 or sha256_of(found.path)}

    return {
        "networks_sha256": renderer.fingerprint,
        "context_autoencoder": file("context"),
        "target_autoencoder": file("target"),
    }


def _data(scenes: EvaluationScenes) -> dict[str, Any]:
    index = scenes.index
    return {
        "path": str(scenes.data),
        "dataparser": scenes.dataparser._target.__name__,
        "split": scenes.split,
        "index": None if index is None else {"file": index.path.name, "sha256": sha256_of(index.path)},
        "scenes": list(scenes.keys),
    }


def _views(evaluation: SceneEvaluation) -> dict[str, Any]:
    scenes, views = evaluation.scenes, evaluation.scenes.views
    given = "photographs and anchor poses" if evaluation.renderer.generates else "photographs to encode"
    by_index = scenes.index is not None
    return {
        "context": f"{given}, as the index says" if by_index else f"{given}, farthest points from frame 0",
        "num_context": views.num_context,
        "num_condition": views.num_condition,
        "context_order": evaluation.conditions.context_order,
        "targets": "as the index says" if by_index else "all frames that are no context views",
        "eval_targets": views.eval_targets,
        "protocol": views.eval_protocol,
        "image_size": evaluation.renderer.preset.data.image_size,
        "pose_scale": _pose_scale(scenes),
        "crop": "scaled so that the shorter side fits, centre square",
    }


def _metrics(measures: Measures) -> dict[str, Any]:
    return measures.describe() | {"wanted": list(measures.options.wanted)}


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


def _pose_scale(scenes: EvaluationScenes) -> float | str:
    """Factor from the data's units to training units. By the published protocol of two-view indices it differs from
    scene to scene."""
    if scenes.views.eval_protocol == "published" and scenes.index is not None:
        return "1 / distance of the two context views, where the index names two"
    return scenes.pose_scale(0)
