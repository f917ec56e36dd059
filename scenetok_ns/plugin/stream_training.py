"""Method scenetok-stream: a few-step student of a trained tokenizer, which streams or denoises windows."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes
from nerfstudio.utils import comms
from torch import Tensor
from torch.nn import Parameter

from scenetok_ns.data.training_batches import TrainingBatch
from scenetok_ns.models.autoencoders.registry import latent_space
from scenetok_ns.models.flow.losses import LatentViews
from scenetok_ns.models.flow.streaming import StreamConfig
from scenetok_ns.models.networks.block_execution import checkpoint_for_training, compile_for_training
from scenetok_ns.models.student_weights import Student, StudentSource, save_student
from scenetok_ns.plugin.callbacks import write_after_training
from scenetok_ns.plugin.model import SceneTokModel, SceneTokModelConfig
from scenetok_ns.plugin.pipeline import SceneTokPipeline, SceneTokPipelineConfig
from scenetok_ns.tools.seeds import mix
from scenetok_ns.training.step_memory import TrainingRun
from scenetok_ns.training.step_plan import StepPlan
from scenetok_ns.training.student import (
    StudentRecipe,
    draw_student,
    learns_from_samples,
    sampled_target,
    student_estimates,
)
from scenetok_ns.training.tokenizer_weights import load_tokenizer

STUDENT_FILE = "student.safetensors"
"""File of the trained student, in the run folder beside the checkpoints."""


@dataclass
class StudentModelConfig(SceneTokModelConfig):
    """Config of frozen networks and a student of their denoiser."""

    _target: type = field(default_factory=lambda: StudentModel)
    stream: bool = True
    """Render paths with the student; False: with the frozen networks' sampler, to compare."""
    causal: bool = True
    """Train a student that streams, chunk after chunk; False: one that denoises windows in few steps."""
    student_steps: int = 4
    """Denoising steps of the student."""
    forced_steps: int = 1000
    """Training steps in which a student of several steps sees noise levels of the targets; later, of its rollout."""


class StudentModel(SceneTokModel):
    """Frozen networks, and the student that is trained."""

    config: StudentModelConfig
    unrecordable = "scenetok-stream records no steps"

    def populate_modules(self) -> None:
        super().populate_modules()
        config, preset = self.config, self.preset
        if preset.scene_generator is not None:
            raise ValueError(f"preset {preset.name} generates scenes; train the student of its tokenizer")
        if self.average is not None or config.initial_weights is not None:
            raise ValueError("scenetok-stream takes neither --ema-decay nor --initial-weights")
        self.scenetok.requires_grad_(False)
        self.scenetok.low_vram = False
        self.layout = latent_space(preset.target_autoencoder).layout
        if config.causal:
            StreamConfig.for_denoiser(self.scenetok.denoiser, self.layout, config.student_steps, None)
        self.recipe = StudentRecipe.of(preset, self.layout, config.student_steps, config.causal)
        self.student = copy.deepcopy(self.scenetok.denoiser).requires_grad_(True)
        self.scenetok.students = StudentSource(Student(self.student, config.causal, config.student_steps))

    def choose_steps(self, run: TrainingRun) -> StepPlan:
        """Choose the steps, and prepare the student for them as well."""
        plan = super().choose_steps(run)
        checkpoint_for_training(self.student, plan.checkpointing)
        if plan.compile:
            compile_for_training(self.student)
        return plan

    def initialize_training_state(self) -> list[str]:
        """Load the frozen networks from `tokenizer`; the student starts as a copy of their denoiser."""
        source = load_tokenizer(self.scenetok, self.config.tokenizer)
        self.student.load_state_dict(self.scenetok.denoiser.state_dict())
        self.invalidate_caches()
        count = sum(parameter.numel() for parameter in self.student.parameters())
        target = "samples of these networks" if learns_from_samples(self.preset) else "latents of the data"
        return [f"Networks: {source}", f"Training a student of {count / 1e6:.1f} million weights on {target}"]

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        return {"networks": list(self.student.parameters())}

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """Write the student's own file at the end of training."""

        def write(file: Path) -> str:
            student = Student(self.student, self.config.causal, self.config.student_steps)
            save_student(student, file, self.preset, self.scenetok.compressor)
            return f"The student is in {file}; `scenetok render --stream --student FILE` uses it elsewhere"

        return write_after_training(training_callback_attributes, STUDENT_FILE, write)

    def forward(self, batch: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """Compute the training loss of a batch, a scalar on the device. Noise follows from seed, rank and step."""
        if not isinstance(batch, TrainingBatch):
            return super().forward(batch)
        if self.training:
            self.invalidate_caches()
        networks, views = self.scenetok, self.preset.data.views
        generator = torch.Generator(self.device)
        generator.manual_seed(mix(self.training_loss.seed, comms.get_rank(), batch.step))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            with torch.no_grad():
                context = self.training_loss.latents(batch.context, clips=1, role="context")
                target = self.training_loss.latents(batch.target, views.target_splits, role="target")
                reference = context.cameras.c2w[:, context.cameras.num_views // 2]
                context, target = context.relative_to(reference), target.relative_to(reference)
                tokens = networks.compressor(context.latents, context.cameras).mean
            shape = tuple(target.latents.shape)
            draws = draw_student(generator, shape, self.recipe)  # type: ignore[arg-type]
            if learns_from_samples(self.preset):
                sampler = self.preset.sampler
                arguments = tokens, target.cameras, draws.noise, self.layout, sampler
                target = sampled_target(networks.denoiser, *arguments)
            target = LatentViews(target.latents.float(), target.cameras)
            state = self.student.project(tokens)
            own = batch.step >= self.config.forced_steps or self.recipe.steps == 1
            found = student_estimates(self.student, state, target, draws, self.recipe, own=own)
        return {"loss": found.loss(target.latents)}


@dataclass
class StudentPipelineConfig(SceneTokPipelineConfig):
    """Config of `StudentPipeline`."""

    _target: type = field(default_factory=lambda: StudentPipeline)
    model: StudentModelConfig = field(default_factory=StudentModelConfig)


class StudentPipeline(SceneTokPipeline):
    """Pipeline of scenes, frozen networks and the student that is trained."""

    config: StudentPipelineConfig
