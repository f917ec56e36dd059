"""Data manager and model together: training and evaluation losses, strict checkpoints, metrics over all scenes."""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from nerfstudio.models.base_model import Model
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from nerfstudio.utils import profiler
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from scenetok_ns.data.scenes import DataError
from scenetok_ns.evaluation.baselines import compare_with_baselines
from scenetok_ns.models.checkpoint import CheckpointError, module_sha256
from scenetok_ns.scenetok_datamanager import SceneTokDataManager, SceneTokDataManagerConfig
from scenetok_ns.scenetok_model import SceneTokModel, SceneTokModelConfig

SHOWN_DIFFERENCES = 3
"""Keys of each kind that an error about a checkpoint names."""


@dataclass
class SceneTokPipelineConfig(VanillaPipelineConfig):
    """SceneTok's data and model."""

    _target: type = field(default_factory=lambda: SceneTokPipeline)
    datamanager: SceneTokDataManagerConfig = field(default_factory=SceneTokDataManagerConfig)
    model: SceneTokModelConfig = field(default_factory=SceneTokModelConfig)
    baselines: bool = False
    """ns-eval also measures, on the same views: the mean colour, the nearest context view copied, and the model given
    another scene's tokens and shuffled-noise tokens. Shows whether the tokens are used."""


class SceneTokPipeline(VanillaPipeline):
    """See the module."""

    config: SceneTokPipelineConfig
    datamanager: SceneTokDataManager

    def __init__(
        self,
        config: SceneTokPipelineConfig,
        device: torch.device | str,
        test_mode: Literal["test", "val", "inference"] = "val",
        world_size: int = 1,
        local_rank: int = 0,
        grad_scaler: Any = None,
    ) -> None:
        # ns-render makes a second data manager from the same configuration object.
        config.datamanager.preset = config.model.preset
        # World size 1: the stock constructor can wrap for CUDA only.
        super().__init__(config, str(device), test_mode, 1, local_rank, grad_scaler)
        self.model.connect(self.datamanager, training_seed=config.datamanager.seed)
        self.datamanager.compressor_sha256 = lambda: module_sha256(self.model.scenetok.compressor)
        self.model.device_indicator_param.requires_grad_(False)
        self.world_size = world_size
        if world_size > 1:
            self._model = typing.cast(Model, self._distributed(torch.device(device), local_rank))

    def _distributed(self, device: torch.device, local_rank: int) -> DistributedDataParallel:
        model = typing.cast(SceneTokModel, self._model)
        recipe = model.preset.training
        wrapped = DistributedDataParallel(
            model,
            device_ids=[local_rank] if device.type == "cuda" else None,
            # Parts that stop being trained at some step have no gradient from then on.
            find_unused_parameters=recipe.freeze_compressor_after is not None,
        )
        dist.barrier()
        return wrapped

    @property
    def model(self) -> SceneTokModel:
        """The model itself, also where it is wrapped for several processes."""
        wrapped = isinstance(self._model, DistributedDataParallel)
        return typing.cast(SceneTokModel, self._model.module if wrapped else self._model)

    # --- Training ---

    @profiler.time_function
    def get_train_loss_dict(self, step: int) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        batch, _ = self.datamanager.next_train(step)
        outputs = self._model(batch)
        metrics = self.model.get_metrics_dict(outputs, batch)
        return outputs, self.model.get_loss_dict(outputs, batch, metrics), metrics

    @profiler.time_function
    @torch.no_grad()
    def get_eval_loss_dict(self, step: int) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        self.eval()
        batch, _ = self.datamanager.next_eval(step)
        outputs = self.model(batch)
        metrics = self.model.get_metrics_dict(outputs, batch)
        losses = self.model.get_loss_dict(outputs, batch, metrics)
        self.train()
        return outputs, losses, metrics

    # --- Evaluation ---

    @profiler.time_function
    def get_average_eval_image_metrics(
        self, step: int | None = None, output_path: Path | None = None, get_std: bool = False
    ) -> dict[str, float]:
        """Mean over all target views of all evaluation scenes, and the baselines if the configuration asks for them.

        Also counts scenes, views and skipped scenes; every value is a finite number.
        """
        if self.datamanager.stored_tokens(self.datamanager.active_scene) is not None:
            raise DataError(
                f"{self.datamanager.config.data} holds tokens alone: there are no photographs to compare with"
            )
        views = self.datamanager.fixed_indices_eval_dataloader
        metrics = self.get_average_image_metrics(views, "eval", step, output_path, get_std)
        # The spread of a single picture is NaN, which is no JSON.
        metrics = {
            name: 0.0 if math.isnan(value) and name.endswith("_std") else value for name, value in metrics.items()
        }
        metrics["num_scenes"] = float(len(views.scenes))
        metrics["num_views"] = float(len(views))
        metrics["num_skipped_scenes"] = float(len(self.datamanager.evaluation_source.skipped))
        if self.config.baselines:
            self.eval()
            metrics |= compare_with_baselines(self.model, self.datamanager, views.scenes)
            self.train()
        return metrics

    # --- Checkpoints ---

    def load_pipeline(self, loaded_state: dict[str, Any], step: int) -> None:
        """Load a checkpoint whose preset, keys and shapes are exactly this model's.

        Raises CheckpointError that names the preset or the first differences. The stock pipeline loads what it can and
        leaves the rest random, without a word.
        """
        state = model_state(loaded_state)
        extra = state.get("_extra_state")
        preset = extra.get("preset") if isinstance(extra, dict) else extra
        if preset is not None and preset != self.model.preset.name:
            raise CheckpointError(
                f"the checkpoint is of preset {preset!r}, this run of {self.model.preset.name!r}; "
                f"give --pipeline.model.preset {preset}, or another checkpoint"
            )
        own = self.model.state_dict()
        check_same(own, {"_extra_state": own["_extra_state"], **state})
        self.model.update_to_step(step)
        self.model.load_state_dict({"_extra_state": own["_extra_state"], **state}, strict=True)
        self.model.forget()


def model_state(pipeline_state: Mapping[str, Any]) -> dict[str, Any]:
    """The model's part of a saved pipeline, without the prefixes of pipeline and DistributedDataParallel."""
    state = {key.removeprefix("module."): value for key, value in pipeline_state.items()}
    state = {key.removeprefix("_model."): value for key, value in state.items() if key.startswith("_model.")}
    if state and all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


def check_same(own: Mapping[str, Any], loaded: Mapping[str, Any]) -> None:
    """Raise CheckpointError in one line unless both have the same keys and shapes."""
    missing = [key for key in own if key not in loaded]
    surplus = [key for key in loaded if key not in own]
    shapes = [
        f"{key} is {list(loaded[key].shape)} instead of {list(value.shape)}"
        for key, value in own.items()
        if isinstance(value, Tensor) and key in loaded and loaded[key].shape != value.shape
    ]
    problems = [("misses", missing), ("has unknown", surplus), ("has other shapes:", shapes)]
    found = [f"it {what} {first_few(keys)}" for what, keys in problems if keys]
    if found:
        raise CheckpointError(f"the checkpoint does not fit this model: {'; '.join(found)}. It was not loaded.")


def first_few(keys: list[str]) -> str:
    more = f" and {len(keys) - SHOWN_DIFFERENCES} more" if len(keys) > SHOWN_DIFFERENCES else ""
    return ", ".join(keys[:SHOWN_DIFFERENCES]) + more
