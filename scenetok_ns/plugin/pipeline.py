"""Data manager and model together: training and evaluation losses, strict checkpoints, metrics over all scenes."""

from __future__ import annotations

import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
import tyro
from nerfstudio.models.base_model import Model
from nerfstudio.pipelines.base_pipeline import Pipeline, VanillaPipeline, VanillaPipelineConfig
from nerfstudio.utils import comms, profiler
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from scenetok_ns.data.training_batches import TrainingBatch
from scenetok_ns.evaluation.evaluate import evaluate_quickly, evaluate_resumable
from scenetok_ns.evaluation.options import EvaluationOptions
from scenetok_ns.models.flow.losses import compressor_frozen
from scenetok_ns.models.released_checkpoints import CheckpointError, module_sha256
from scenetok_ns.models.run_checkpoints import AVERAGE, averaged_weights, model_state
from scenetok_ns.models.weight_files import check_finite, check_tensors
from scenetok_ns.plugin.datamanager import SceneTokDataManager, SceneTokDataManagerConfig
from scenetok_ns.plugin.model import SceneTokModel, SceneTokModelConfig
from scenetok_ns.tools.printing import print_line
from scenetok_ns.training.recorded_step import RecordedStep
from scenetok_ns.training.step_memory import TrainingRun
from scenetok_ns.viewer.panel import ViewerPanel

BUCKET_MB = 100
"""Megabytes of gradients that are sent together: about those of one block of the full-size denoiser."""


EARLIER_DEFAULTS = {"compile": False, "fused": True, "cuda_graph": False, "gradient_checkpointing": "none"}
"""Defaults up to version 0.2.0 of the model's options that are now chosen automatically."""


@dataclass
class SceneTokPipelineConfig(VanillaPipelineConfig):
    """SceneTok's data and model."""

    _target: type = field(default_factory=lambda: SceneTokPipeline)
    datamanager: SceneTokDataManagerConfig = field(default_factory=SceneTokDataManagerConfig)
    model: SceneTokModelConfig = field(default_factory=SceneTokModelConfig)
    baselines: bool = False
    """ns-eval also measures, on the same views: the mean colour, the nearest context view copied, and the model given
    another scene's tokens and shuffled-noise tokens. Shows whether the tokens are used."""
    evaluation: EvaluationOptions = EvaluationOptions()  # noqa: RUF009  frozen
    """Metrics that ns-eval computes, and the weights of their networks."""

    # The trainer fills these in.
    num_steps: tyro.conf.Suppress[int | None] = None
    accumulates: tyro.conf.Suppress[bool] = False

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Read a config.yml. ns-render makes a second data manager from it, which must know the model's preset."""
        self.__dict__.update(state)
        self.datamanager.preset = self.model.preset
        if "num_steps" not in state:  # an earlier version wrote this file, with defaults that nobody chose
            for name, default in EARLIER_DEFAULTS.items():
                if getattr(self.model, name) == default:
                    setattr(self.model, name, None)


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
        # The stock constructor gives the model no scenes, and can wrap it for CUDA only.
        Pipeline.__init__(self)
        self.config, self.test_mode = config, test_mode
        self.datamanager = config.datamanager.setup(
            device=str(device), test_mode=test_mode, local_rank=local_rank, preset=config.model.preset
        )
        shown = self.datamanager.train_dataset
        self._model = config.model.setup(
            scene_box=shown.scene_box,
            num_train_data=len(shown),
            metadata=shown.metadata,
            grad_scaler=grad_scaler,
            scenes=self.datamanager.scenes,
            training_seed=config.datamanager.seed,
            trains=test_mode == "val",  # else the EMA weights are the weights: `load_pipeline`
            from_latents=test_mode == "val" and config.datamanager.trains_from_latents,
        )
        self.model.to(device)
        self.datamanager.compressor_sha256 = lambda: module_sha256(self.model.scenetok.compressor)
        # Its name is the folder's in the viewer; it has neither parameters nor buffers.
        self.add_module("SceneTok", ViewerPanel(self.model.viewer_renderer, self.model))
        self.model.device_indicator_param.requires_grad_(False)
        self.world_size = world_size
        self.accumulation_steps = 1
        """Number of steps whose gradients are summed before the optimizer's step; set by the trainer."""
        self._recorded: RecordedStep | None = None
        if test_mode == "val":
            plan = self.model.choose_steps(
                TrainingRun(
                    self.datamanager.batch_size,
                    config.num_steps,
                    world_size,
                    config.accumulates,
                    config.datamanager.trains_from_latents,
                )
            )
            if comms.is_main_process() and (self.model.start_line is None or not plan.fits):
                print_line(plan.line(), style=None if plan.fits else "bold yellow")
        if world_size > 1:
            if self._records:
                share_weights(self.model)
            else:
                self._model = typing.cast(Model, distributed(self.model, torch.device(device), local_rank))
            dist.barrier()

    @property
    def model(self) -> SceneTokModel:
        """The model itself, even if it is wrapped for several processes."""
        wrapped = isinstance(self._model, DistributedDataParallel)
        return typing.cast(SceneTokModel, self._model.module if wrapped else self._model)

    # --- Training ---

    @profiler.time_function
    def get_train_loss_dict(self, step: int) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        self._follow_recipe(step)
        batch, _ = self.datamanager.next_train(step)
        outputs = self._training_pass(batch)
        metrics = self.model.get_metrics_dict(outputs, batch)
        return outputs, self.model.get_loss_dict(outputs, batch, metrics), metrics

    def _training_pass(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """Return the model's outputs for a batch. If passes are recorded, all gradients are already set."""
        if not self._records:
            return self._model(batch)
        if self._recorded is None:
            model = self.model
            self._recorded = RecordedStep(model, model.training_loss, model.invalidate_caches, self.world_size)
        before = self._recorded.unrecorded
        outputs = self._recorded(batch, accumulates=self.accumulation_steps > 1)
        if self._recorded.unrecorded != before:
            print_line(f"Steps are not recorded from here on, and may be slower: {self._recorded.unrecorded}")
        if self.world_size > 1 and self._ends_cycle(batch.step):
            self._recorded.average()
        return outputs

    @property
    def _records(self) -> bool:
        return self.model.step_plan.record

    def _ends_cycle(self, step: int) -> bool:
        """Whether the optimizer uses the gradients after this step."""
        return step % self.accumulation_steps == self.accumulation_steps - 1

    def _follow_recipe(self, step: int) -> None:
        """Freeze what the recipe freezes from this step on, and send gradients only where the optimizer uses them."""
        model, wrapped = self.model, isinstance(self._model, DistributedDataParallel)
        training = any(parameter.requires_grad for parameter in model.scenetok.compressor.parameters())
        if training and compressor_frozen(model.preset.training, step):
            model.freeze_compressor()
            self._recorded = None
            if wrapped:  # wrap again: the old wrapper would wait for gradients of frozen parameters
                rank = model.device.index or 0
                self._model = typing.cast(Model, distributed(model, model.device, rank))
        if wrapped:
            wrapper = typing.cast(DistributedDataParallel, self._model)
            wrapper.require_backward_grad_sync = self._ends_cycle(step)

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
    ) -> dict[str, Any]:
        """Mean over all target views of all evaluation scenes, and the baselines if the configuration asks for them.

        With the protocol, every view's values, and the reasons for skipped scenes and missing metrics; in
        training (`step` is given) PSNR and SSIM alone, as numbers. An evaluation that was killed is continued.
        """
        self.eval()
        try:
            if step is None:
                options, baselines = self.config.evaluation, self.config.baselines
                found = evaluate_resumable(self.model.renderer, options, baselines=baselines, pictures=output_path)
            else:
                found = evaluate_quickly(self.model.renderer, baselines=self.config.baselines)
        finally:
            self.train()
        return {name: value for name, value in found.items() if get_std or not name.endswith("_std")}

    # --- Checkpoints ---

    def load_pipeline(self, loaded_state: dict[str, Any], step: int) -> None:
        """Load a checkpoint whose preset, keys and shapes are exactly this model's.

        Raises CheckpointError that names the preset or the first differences. The stock pipeline loads what it can and
        leaves the rest random without a warning.
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
        has_average = any(key.startswith(AVERAGE) for key in state)
        average = self.model.average
        if average is not None and not has_average:
            state |= {key: value for key, value in own.items() if key.startswith(AVERAGE)}
        elif has_average and average is None:
            if self.test_mode == "val":
                raise CheckpointError(
                    "the checkpoint has averaged weights: to continue, give --pipeline.model.ema-decay, as its run did"
                )
            state = averaged_weights(state)
        state = {"_extra_state": own["_extra_state"], **state}
        check_tensors(own, state, "the checkpoint does not fit this model and was not loaded")
        check_finite(state, "the checkpoint is damaged, or its training run diverged: use an earlier one")
        self.model.update_to_step(step)
        self.model.load_state_dict(state, strict=True)
        if average is not None and not has_average:
            average.restart()
        self.model.invalidate_caches()


def share_weights(model: SceneTokModel) -> None:
    """Copy the weights of the first process to all others, as DistributedDataParallel does when it is created."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device == model.device:  # autoencoders may be in main memory, and come from files
            dist.broadcast(tensor.detach(), 0)


def distributed(model: SceneTokModel, device: torch.device, local_rank: int) -> DistributedDataParallel:
    """Wrap the model for several processes. Parameters that never receive a gradient must not require one.

    Autoencoders that wait in main memory (low_vram) are left out: a wrapped model must be on one kind of device.
    """
    parts = (*model.named_parameters(), *model.named_buffers())
    elsewhere = [name for name, tensor in parts if tensor.device.type != device.type]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, elsewhere)
    return DistributedDataParallel(
        model,
        device_ids=[local_rank] if device.type == "cuda" else None,
        bucket_cap_mb=BUCKET_MB,
        broadcast_buffers=False,  # they are constants
        gradient_as_bucket_view=True,  # one copy of the gradients instead of two
    )
