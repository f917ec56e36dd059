"""Training of the embedded scene generator on demo scenes made while it trains (`scenetok train-tiny-generator`).

The tokenizer of scenetok-tiny stays as it is. A sample is drawn as in training from a data set (paper: SceneGen): the
tokens of 12 context views, of which one is condition view 0, and two more condition views from anywhere on the walk.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from scenetok_ns.data.demo.pool import PoolBatch, ScenePool, draw_training_views
from scenetok_ns.models.flow.draws import draw_scenegen
from scenetok_ns.models.flow.losses import LatentViews, scenegen_loss
from scenetok_ns.models.fused.blocks import fuse_for_training
from scenetok_ns.models.networks.scene_generator import SceneGenerator
from scenetok_ns.models.presets import load_preset
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.models.weight_files import embedded_weights, load_weights, save_weights
from scenetok_ns.training.tiny.optimizer import Group, TinyOptimizer, block_matrices
from scenetok_ns.training.tiny.options import RunOptions
from scenetok_ns.training.tiny.run import TinyRun, as_views, averaged_copy

HELD_OUT_SCENES = 128


@dataclass
class GeneratorOptions(RunOptions):
    """Options for training the generator."""

    preset: str = "scenegen-tiny"
    """Architecture and recipe."""
    steps: int = 40000
    """Training steps."""
    tokenizer: Path | None = None
    """Weights of codec, compressor and denoiser; None: those in the package."""
    resume: Path | None = None
    """Weights of the generator to start from."""


def run_generator_training(options: GeneratorOptions) -> TinyRun:
    """Train a scene generator, and write weights and log to the output folder."""
    run = TinyRun(options, load_preset(options.preset))
    task = GeneratorTask(run, options.tokenizer, options.resume)
    if options.steps:
        held_out = run.held_out_pool(min(options.batch_size, HELD_OUT_SCENES), encoded=True)
        task.start(run.training_pool(options.num_scenes, encoded=True), held_out)
        run.train(task, options.steps, options.seconds)
    task.save(options.output)
    return run


class GeneratorTask:
    """Trains the scene generator on a frozen tokenizer."""

    name = "generator"

    def __init__(self, run: TinyRun, tokenizer: Path | None, resume: Path | None) -> None:
        self.run, self.preset = run, run.preset
        model = SceneTok(run.preset).to(run.device)
        self.compressor, self.denoiser, self.network = model.compressor, model.denoiser, model.scene_generator
        frozen = {"codec": run.codec, "compressor": self.compressor, "denoiser": self.denoiser}
        assert run.preset.embedded_weights is not None, "only presets with an embedded tokenizer are trained here"
        load_weights(frozen, tokenizer or embedded_weights(run.preset.embedded_weights))
        for module in frozen.values():
            module.requires_grad_(False).eval()
        if resume is not None:
            load_weights({"scene_generator": self.network}, resume)
        self.trained = nn.ModuleDict({"scene_generator": self.network})
        self.averaged = averaged_copy(self.trained)
        if run.plan.fused:
            fuse_for_training(self.network, in_float8=run.plan.float8)

    def start(self, training: ScenePool, held_out: ScenePool) -> None:
        self.pool, self.held_out_pool = training, held_out

    @property
    def average(self) -> SceneGenerator:
        network = self.averaged["scene_generator"]
        assert isinstance(network, SceneGenerator)
        return network

    def kinds(self, along: float) -> Sequence[tuple[Hashable, float]]:
        return (("tokens", 1.0),)

    def loss(self, kind: Hashable) -> Float[Tensor, ""]:
        run = self.run
        scenes = torch.randint(
            self.pool.capacity, (run.options.batch_size,), generator=run.generator, device=run.device
        )
        return self.loss_of(self.network, self.pool, scenes, run.generator)

    def loss_of(
        self, network: SceneGenerator, pool: ScenePool, scenes: Int[Tensor, " b"], generator: torch.Generator
    ) -> Float[Tensor, ""]:
        preset, batch = self.preset, len(scenes)
        assert preset.scene_generator is not None
        views = preset.data.views
        context, _ = draw_training_views(generator, batch, pool.num_frames, views.num_context, 2, 0.0)
        condition = draw_condition_views(generator, context, pool.num_frames, views.max_condition_views)
        draws = draw_scenegen(
            generator,
            preset.training,
            num_condition=views.max_condition_views,
            tokens=(batch, preset.compressor.num_tokens, preset.compressor.token_dim),
            pose_dropout=preset.scene_generator.camera.dropout,
            device=self.run.device,
        )
        given, encoded = (float_views(pool.take(scenes, indices)) for indices in (condition, context))
        with self.run.autocast():
            return scenegen_loss(self.compressor, network, given, encoded, draws).loss

    def optimizer(self) -> TinyOptimizer:
        orthogonal = block_matrices([*self.network.model.blocks]) if self.run.options.muon else frozenset()
        return TinyOptimizer(
            [Group(list(self.network.parameters()), orthogonal=orthogonal)], self.run.options.learning_rate
        )

    @torch.no_grad()
    def held_out(self) -> dict[str, float]:
        """Loss of the averaged weights on held-out rooms, with the same draws each time."""
        generator = torch.Generator(self.run.device).manual_seed(0)
        scenes = torch.arange(self.held_out_pool.capacity, device=self.run.device)
        return {"held_out_loss": self.loss_of(self.average, self.held_out_pool, scenes, generator).item()}

    def between_steps(self) -> None:
        if self.run.options.renew:
            self.pool.renew(self.run.options.renew)

    def save(self, folder: Path) -> None:
        save_weights({"scene_generator": self.average}, folder / "weights.safetensors")


def float_views(batch: PoolBatch) -> LatentViews:
    views = as_views(batch)
    return LatentViews(views.latents.float(), views.cameras)


def draw_condition_views(
    generator: torch.Generator, context: Int[Tensor, "b context"], num_frames: int, count: int
) -> Int[Tensor, "b count"]:
    """One of each element's context views and, from all other frames, `count` - 1 more; made on the generator's
    device without waiting for it."""
    batch, device = len(context), generator.device
    place = torch.randint(context.shape[1], (batch, 1), generator=generator, device=device)
    reference = context.gather(1, place)
    order = torch.rand((batch, num_frames), generator=generator, device=device).scatter(1, reference, -1.0)
    return order.argsort(dim=1)[:, :count]
