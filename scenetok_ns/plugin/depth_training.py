"""Method scenetok-depth: the depth head of a frozen tokenizer, trained on depth in the data or on photographs alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes
from nerfstudio.utils import comms
from torch import Tensor
from torch.nn import Parameter

from scenetok_ns.data.scenes import DataError
from scenetok_ns.data.training_batches import TrainingBatch, TrainingSamples
from scenetok_ns.models.autoencoders.registry import latent_space
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.depth_weights import DepthSource, new_depth_head, save_depth_head
from scenetok_ns.models.networks.depth_head import depth_loss
from scenetok_ns.plugin.callbacks import write_after_training
from scenetok_ns.plugin.datamanager import SceneTokDataManager, SceneTokDataManagerConfig
from scenetok_ns.plugin.model import SceneTokModel, SceneTokModelConfig
from scenetok_ns.plugin.pipeline import SceneTokPipeline, SceneTokPipelineConfig
from scenetok_ns.tools.seeds import mix
from scenetok_ns.training.depth import at_resolution_of, draw_depth, last_features, photometric_loss, swept_targets
from scenetok_ns.training.tokenizer_weights import load_tokenizer

HEAD_FILE = "depth_head.safetensors"
"""File of the trained head, in the run folder beside the checkpoints."""
SWEPT_FRAMES = 2
"""Number of frames of each sample whose depth is swept as a target, where the data has none: sweeps take most of the
time."""


@dataclass
class DepthDataManagerConfig(SceneTokDataManagerConfig):
    """Scenes of any dataparser; depth is read where the data has it."""

    _target: type = field(default_factory=lambda: DepthDataManager)


class DepthDataManager(SceneTokDataManager):
    """Batches of photographs, with depth if the data has it."""

    config: DepthDataManagerConfig

    def _samples(self, split: str) -> TrainingSamples:
        if self.config.trains_from_latents:
            raise DataError("scenetok-depth trains on photographs: leave out --context-latents and --target-latents")
        samples = super()._samples(split)
        samples.reads_depth = True
        return samples


@dataclass
class DepthModelConfig(SceneTokModelConfig):
    """Config of frozen networks and a depth head on their denoiser."""

    _target: type = field(default_factory=lambda: DepthModel)
    supervision: Literal["auto", "depth", "photographs"] = "auto"
    """depth: true depth, which the data must have. photographs: none; the head learns from plane sweeps over the
    photographs and from moving neighbouring photographs into one another. auto: depth where the data has it."""


class DepthModel(SceneTokModel):
    """Frozen networks, and the depth head that is trained."""

    config: DepthModelConfig
    unrecordable = "scenetok-depth records no steps"
    uncompilable = "scenetok-depth trains only a small head"

    def populate_modules(self) -> None:
        super().populate_modules()
        if self.preset.scene_generator is not None:
            raise ValueError(f"preset {self.preset.name} generates scenes; train the depth head of its tokenizer")
        if self.average is not None or self.config.initial_weights is not None:
            raise ValueError("scenetok-depth takes neither --ema-decay nor --initial-weights")
        self.scenetok.requires_grad_(False)
        self.scenetok.low_vram = False
        self.depth_head = new_depth_head(self.preset, self.scenetok.denoiser)
        self.scenetok.depth = DepthSource(self.depth_head)

    def initialize_training_state(self) -> list[str]:
        """Load the frozen networks from `tokenizer`."""
        source = load_tokenizer(self.scenetok, self.config.tokenizer)
        self.invalidate_caches()
        count = sum(parameter.numel() for parameter in self.depth_head.parameters())
        return [f"Networks: {source}", f"Training a depth head of {count / 1e6:.1f} million weights"]

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        return {"depth_head": list(self.depth_head.parameters())}

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """Write the head's own file at the end of training."""

        def write(file: Path) -> str:
            save_depth_head(self.depth_head, file, self.preset, self.scenetok.denoiser)
            return f"The depth head is in {file}; --pipeline.model.depth-weights gives it to these networks elsewhere"

        return write_after_training(training_callback_attributes, HEAD_FILE, write)

    def forward(self, batch: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """Training loss and metrics, as scalars on the device; noise follows from seed, rank and step."""
        if not isinstance(batch, TrainingBatch):
            return super().forward(batch)
        if self.training:
            self.invalidate_caches()
        generator = torch.Generator(self.device)
        generator.manual_seed(mix(self.training_loss.seed, comms.get_rank(), batch.step))
        views = self.preset.data.views
        layout = latent_space(self.preset.target_autoencoder).layout
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            context = self.training_loss.latents(batch.context, clips=1, role="context")
            target = self.training_loss.latents(batch.target, views.target_splits, role="target")
            reference = context.cameras.c2w[:, context.cameras.num_views // 2]
            context, target = context.relative_to(reference), target.relative_to(reference)
            tokens = self.scenetok.compressor(context.latents, context.cameras).mean
            state = self.scenetok.denoiser.project(tokens)
            shape = tuple(target.latents.shape)
            draws = draw_depth(generator, shape, self.preset.sampler, layout.latents_per_chunk)  # type: ignore[arg-type]
            last = last_features(self.scenetok.denoiser, state, target.latents, target.cameras, draws)
        log_inverse, log_scale = self.depth_head(*last)
        if self._has_depth(batch):
            assert batch.target.depths is not None
            truth = at_resolution_of(log_inverse, batch.target.depths)
            loss = depth_loss(log_inverse, log_scale, truth, truth > 0)
        else:
            loss = self._from_photographs(batch, log_inverse, log_scale, generator)
        return {"loss": loss, "relative_scale": log_scale.detach().exp().mean()}

    def _has_depth(self, batch: TrainingBatch) -> bool:
        wanted, there = self.config.supervision, batch.target.depths is not None
        if wanted == "depth" and not there:
            raise DataError(
                "--pipeline.model.supervision depth needs depth in the data (depth_file_path in transforms.json); "
                "use photographs to train without depth"
            )
        return there and wanted != "photographs"

    def _from_photographs(
        self, batch: TrainingBatch, log_inverse: Tensor, log_scale: Tensor, generator: torch.Generator
    ) -> Float[Tensor, ""]:
        assert batch.target.images is not None and batch.context.images is not None
        images, around = batch.target.images.float() / 255, batch.context.images.float() / 255
        cameras, known = (CameraBatch(clips.c2w, clips.intrinsics) for clips in (batch.target, batch.context))
        both = (torch.cat([getattr(known, name), getattr(cameras, name)], dim=1) for name in ("c2w", "intrinsics"))
        order = torch.randperm(images.shape[1], generator=generator, device=self.device)
        chosen = order[:SWEPT_FRAMES].tolist()
        places = [around.shape[1] + place for place in chosen]
        swept, weight = swept_targets(torch.cat([around, images], dim=1), CameraBatch(*both), places)
        maps = log_inverse[:, chosen], log_scale[:, chosen]
        likelihood = depth_loss(*maps, at_resolution_of(maps[0], swept), at_resolution_of(maps[0], weight))
        return likelihood + photometric_loss(log_inverse, images, cameras)


@dataclass
class DepthPipelineConfig(SceneTokPipelineConfig):
    """Config of `DepthPipeline`."""

    _target: type = field(default_factory=lambda: DepthPipeline)
    datamanager: DepthDataManagerConfig = field(default_factory=DepthDataManagerConfig)
    model: DepthModelConfig = field(default_factory=DepthModelConfig)


class DepthPipeline(SceneTokPipeline):
    """Pipeline of scenes, frozen networks and the depth head that is trained."""

    config: DepthPipelineConfig
