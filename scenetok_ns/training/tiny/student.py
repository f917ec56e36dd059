"""Training of a student of the embedded model on demo rooms made while it trains (`scenetok train-tiny-stream`).

The compressor and the decoder stay as they are. Beside the regression of latents, one predicted frame of each element
is decoded and compared with the true picture, as in the finish of the tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from scenetok_ns.models.flow.noise import latent_noise
from scenetok_ns.models.flow.sampling import sample_latents
from scenetok_ns.models.flow.streaming import LatentStream, StreamConfig
from scenetok_ns.models.networks.block_execution import compile_for_training
from scenetok_ns.models.networks.denoiser import Denoiser
from scenetok_ns.models.presets import load_preset
from scenetok_ns.models.student_weights import Student, load_student, save_student
from scenetok_ns.models.temporal import IMAGE_LAYOUT
from scenetok_ns.models.weight_files import embedded_weights, load_weights
from scenetok_ns.tools.atomic_files import write_atomically
from scenetok_ns.tools.errors import UsageError
from scenetok_ns.training.student import StudentRecipe, draw_student, student_estimates
from scenetok_ns.training.tiny.finish import VIEWS_AND_TOKENS_OF_FINISH, FinishTask, FinishWeights
from scenetok_ns.training.tiny.optimizer import Group, TinyOptimizer, block_matrices
from scenetok_ns.training.tiny.options import RunOptions
from scenetok_ns.training.tiny.run import TinyRun, averaged_copy, mean_psnr
from scenetok_ns.training.tiny.tokenizer import HELD_OUT_SCENES, Pools

FORCED = 0.3
"""Share of the training run, at its start, in which students of several steps see the true past (teacher forcing)."""
MEASURED_STEPS = (1, 2)


@dataclass
class StudentOptions(RunOptions):
    """Options for training a student."""

    batch_size: int = 128
    learning_rate: float = 3e-4
    warmup: int = 100
    preset: str = "scenetok-tiny"
    """Architecture and recipe."""
    steps: int = 4000
    """Training steps."""
    student_steps: int = 1
    """Denoising steps of the student."""
    causal: bool = True
    """Train a student that streams; False: one that denoises windows in few steps."""
    pictures: FinishWeights = field(default_factory=FinishWeights)
    perceptual_weights: Path | None = None
    """The file of ST-LPIPS (AlexNet)."""
    tokenizer: Path | None = None
    """Weights of codec, compressor and denoiser; None: those in the package."""
    resume: Path | None = None
    """Student to start from; None: the denoiser."""


class StudentKind(NamedTuple):
    stage: str
    views: int
    tokens: int


def run_training(options: StudentOptions) -> dict[str, float]:
    """Train and measure a student. Writes student.safetensors, log and figures to the output folder.

    Returns the figures.
    """
    run = TinyRun(options, load_preset(options.preset))
    task = StudentTask(run, options)
    run.codec.eval().requires_grad_(False)
    held_out = run.held_out_pool(min(HELD_OUT_SCENES, options.num_scenes), encoded=True, keep_images=True)
    task.start(Pools(run.training_pool(options.num_scenes, encoded=True, keep_images=True), held_out))
    if options.steps:
        run.train(task, options.steps, options.seconds)
    if not run.reports:
        return {}
    task.save(options.output)
    figures = task.evaluate()
    write_atomically(options.output / "figures.json", json.dumps(figures, indent=2).encode())
    return figures


class StudentTask(FinishTask):
    """Trains a copy of the denoiser; the other networks are frozen."""

    name, file_name = "student", "student.safetensors"

    def __init__(self, run: TinyRun, options: StudentOptions) -> None:
        preset = run.preset
        if options.tokenizer is None and preset.embedded_weights is None:
            raise UsageError(f"preset {preset.name} has no embedded weights: give --tokenizer")
        super().__init__(run, options.pictures, options.perceptual_weights)
        self.options = options
        source = options.tokenizer or embedded_weights(preset.embedded_weights or "")
        self.teacher = Denoiser.from_preset(preset).to(run.device).requires_grad_(False).eval()
        load_weights({"codec": run.codec, "compressor": self.compressor, "denoiser": self.teacher}, source)
        self.denoiser.load_state_dict(self.teacher.state_dict())
        if options.resume is not None:
            student = load_student(options.resume, preset, self.compressor)
            self.denoiser.load_state_dict(student.denoiser.state_dict())
        self.recipe = StudentRecipe.of(preset, IMAGE_LAYOUT, options.student_steps, options.causal)
        if options.compile and run.device.type == "cuda":
            compile_for_training(self.denoiser)
        self.trained = nn.ModuleDict({"denoiser": self.denoiser})
        self.averaged = averaged_copy(self.trained)

    def kinds(self, along: float) -> Sequence[tuple[Hashable, float]]:
        """Kinds of batches. A one-step student needs no teacher forcing, because its only noise level is noise."""
        stage = "forced" if along < FORCED and self.recipe.steps > 1 else "own"
        most = self.preset.compressor.num_tokens
        return [(StudentKind(stage, n, min(k, most)), weight) for (n, k), weight in VIEWS_AND_TOKENS_OF_FINISH]

    def loss(self, kind: Hashable) -> Float[Tensor, ""]:
        assert isinstance(kind, StudentKind)
        run, generator = self.run, self.run.generator
        context, target = self.draw_views(kind.views)
        target = replace(target, latents=target.latents.float())
        draws = draw_student(generator, tuple(target.latents.shape), self.recipe)  # type: ignore[arg-type]
        with run.autocast():
            with torch.no_grad():
                mean = self.compressor(context.latents, context.cameras).mean
            state = self.denoiser.project(mean[:, : kind.tokens])
            found = student_estimates(self.denoiser, state, target, draws, self.recipe, own=kind.stage == "own")
        batch, count = target.latents.shape[:2]
        # All kinds of students predict the last half of a window.
        place = count // 2 + torch.randint(count // 2, (batch,), generator=generator, device=run.device)
        shown = found.latents[torch.arange(batch, device=run.device), place]
        scenes, views = self.drawn
        images = self.pool.images(scenes, views.gather(1, place[:, None]))[:, 0].float() / 127.5 - 1
        with run.autocast():
            decoded = run.codec.decode(shown).float()
        predicted = torch.ones(batch, dtype=torch.bool, device=run.device)
        return found.loss(target.latents) + self.picture_terms(decoded, images, predicted)

    def optimizer(self) -> TinyOptimizer:
        orthogonal = block_matrices([*self.denoiser.model.blocks]) if self.run.options.muon else frozenset()
        group = Group(list(self.denoiser.parameters()), orthogonal=orthogonal)
        return TinyOptimizer([group], self.run.options.learning_rate)

    @property
    def student(self) -> Student:
        """Student with the averaged weights."""
        denoiser = self.averaged["denoiser"]
        assert isinstance(denoiser, Denoiser)
        return Student(denoiser, self.recipe.causal, self.recipe.steps)

    def save(self, folder: Path) -> None:
        save_student(self.student, folder / self.file_name, self.preset, self.compressor)

    @torch.no_grad()
    def held_out(self) -> dict[str, float]:
        """PSNR of one window of held-out rooms, by the student and by the network that it was trained from."""
        own, truth = self.window(self.student.denoiser, self.recipe.steps, causal=self.recipe.causal)
        teacher, _ = self.window(self.teacher, self.preset.sampler.steps, causal=False)
        return {"psnr": mean_psnr(own, truth), "teacher": mean_psnr(teacher, truth)}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """PSNR of held-out windows for several numbers of steps, by the student and by the untrained network."""
        found = self.held_out()
        for steps in MEASURED_STEPS:
            for name, denoiser in (("student", self.student.denoiser), ("untrained", self.teacher)):
                made, truth = self.window(denoiser, steps, causal=self.recipe.causal)
                found[f"{name}_steps_{steps}"] = mean_psnr(made, truth)
        return found

    def window(self, denoiser: Denoiser, steps: int, *, causal: bool) -> tuple[Tensor, Tensor]:
        """Render a window of all held-out rooms from all context views; returns its frames and the true frames."""
        tokens, target, truth = self.held_out_tokens(self.compressor, self.preset.data.views.num_context)
        count, device = target.cameras.num_views, self.run.device
        sampler = replace(self.preset.sampler, steps=steps, window=count, clean_targets=0)
        autocast = device.type == "cuda"
        if not causal:
            noise = latent_noise([0] * len(tokens), count, denoiser.latent_shape).to(device)
            cameras, layout = target.cameras, IMAGE_LAYOUT
            latents, _ = sample_latents(denoiser, tokens, cameras, noise, layout, sampler, autocast=autocast)
            return self.run.decode(latents), truth
        config = StreamConfig.for_denoiser(denoiser, IMAGE_LAYOUT, steps, self.recipe.timestep_shift)
        stream = LatentStream(denoiser, tokens, IMAGE_LAYOUT, config, autocast=autocast)
        noise = latent_noise([0] * len(tokens), 1, denoiser.latent_shape).to(device)
        parts = [stream.next(target.cameras.select([frame]), noise).latents for frame in range(count)]
        return self.run.decode(torch.cat(parts, dim=1)), truth
