"""Training of the embedded scene generator on demo scenes made while it trains (`scenetok train-tiny-generator`).

The tokenizer of scenetok-tiny stays as it is. A sample is drawn as in training from a data set (paper: SceneGen): the
tokens of 12 context views, of which one is condition view 0, and two more condition views from anywhere on the walk.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn

from scenetok_ns.data.demo.pool import PoolBatch, ScenePool, draw_training_views
from scenetok_ns.evaluation.distributions import frechet_distance
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.flow.draws import draw_scenegen
from scenetok_ns.models.flow.losses import LatentViews, encode_tokens, scenegen_loss
from scenetok_ns.models.flow.noise import latent_noise, token_noise
from scenetok_ns.models.flow.sampling import sample_latents, sample_scene_tokens
from scenetok_ns.models.networks.averaging import update_average
from scenetok_ns.models.networks.scene_generator import SceneGenerator
from scenetok_ns.models.presets import Preset, load_preset
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.models.temporal import IMAGE_LAYOUT
from scenetok_ns.models.weight_files import embedded_weights, load_weights, save_weights
from scenetok_ns.tools.atomic_files import atomic_file, write_atomically
from scenetok_ns.tools.errors import UsageError
from scenetok_ns.training.tiny.run import (
    HELD_OUT_SEED,
    TRAINING_SEED,
    PoolOptions,
    PoolRun,
    as_views,
    mean_psnr,
)

HELD_OUT_SCENES = 128
WINDOW_STARTS = (0, 12, 24, 36)
"""First frames of the windows that are rendered of each held-out scene; frame 0 is the photograph that is given."""
SHEET_SCENES = 8


@dataclass
class GeneratorOptions(PoolOptions):
    """What a run of the generator is asked for."""

    preset: str = "scenegen-tiny"
    """Architecture and recipe."""
    steps: int = 40000
    """Training steps."""
    tokenizer: Path | None = None
    """Weights of codec, compressor and denoiser; None: those in the package."""
    resume: Path | None = None
    """Weights of the generator to start from."""


def run_training(options: GeneratorOptions) -> dict[str, float]:
    """Train and evaluate; writes weights, log, figures and pictures to the output folder and returns the figures."""
    run = GeneratorRun(options, load_preset(options.preset))
    run.train()
    run.save()
    figures = run.evaluate()
    write_atomically(options.output / "figures.json", json.dumps(figures, indent=2).encode())
    return figures


class GeneratorRun(PoolRun):
    """State of one training run."""

    options: GeneratorOptions

    def __init__(self, options: GeneratorOptions, preset: Preset) -> None:
        if preset.scene_generator is None or preset.embedded_weights is None:
            raise UsageError(f"--preset: expected a scene generator with a tokenizer of the package, got {preset.name}")
        super().__init__(options, preset)
        model = SceneTok(preset).to(self.device)
        self.compressor, self.denoiser, self.network = model.compressor, model.denoiser, model.scene_generator
        tokenizer = {"codec": self.codec, "compressor": self.compressor, "denoiser": self.denoiser}
        load_weights(tokenizer, options.tokenizer or embedded_weights(preset.embedded_weights))
        for module in tokenizer.values():
            module.requires_grad_(False).eval()
        if options.resume is not None:
            load_weights({"scene_generator": self.network}, options.resume)
        self.averaged: SceneGenerator = copy.deepcopy(self.network).requires_grad_(False).eval()

    def save(self) -> None:
        save_weights({"scene_generator": self.averaged}, self.options.output / "weights.safetensors")

    def train(self) -> None:
        options = self.options
        if not options.steps:
            return
        pool = self.pool(options.scenes, TRAINING_SEED, encoded=True)
        held_out = self.pool(min(options.batch_size, HELD_OUT_SCENES), HELD_OUT_SEED, encoded=True)
        optimizer = self.optimizer(list(self.network.parameters()))
        if options.compile:
            for block in self.network.model.blocks:
                block.compile()
        loss, step, take_step = torch.tensor(0.0), 0, None
        for step, _ in self.steps(options.steps, optimizer, pool):
            take_step = take_step or self.recorded(lambda: self.step(pool, optimizer))
            loss = take_step()
            update_average(self.averaged.parameters(), self.network.parameters(), min(0.9995, step / (step + 10)))
            if step % 500 == 499 or step == options.steps - 1:
                self.report("generator", step, loss, lambda: {"held_out_loss": self.held_out_loss(held_out)})
                self.save()
        self.finite(loss, step)

    def step(self, pool: ScenePool, optimizer: torch.optim.Optimizer) -> Tensor:
        scenes = torch.randint(pool.capacity, (self.options.batch_size,), generator=self.generator, device=self.device)
        return self.descend(self.loss(self.network, pool, scenes, self.generator), optimizer)

    def loss(
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
            device=self.device,
        )
        given, encoded = (float_views(pool.take(scenes, indices)) for indices in (condition, context))
        with self.autocast():
            return scenegen_loss(self.compressor, network, given, encoded, draws).loss

    @torch.no_grad()
    def held_out_loss(self, pool: ScenePool) -> float:
        """Of the averaged weights, with the same draws each time."""
        generator = torch.Generator(self.device).manual_seed(0)
        return self.loss(self.averaged, pool, torch.arange(pool.capacity, device=self.device), generator).item()

    # --- Evaluation

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Figures on held-out scenes, generated from their first frame, and a sheet of pictures.

        own_photograph, wrong_photograph: PSNR at the photograph's own pose of the scene generated from it, and of the
        one generated from another scene's photograph with the same anchors. encoded, other frames: PSNR over all
        windows of the tokens of 12 views and of the generated ones. frechet_*: distance of rendered frames to the true
        ones in the codec's codes, averaged over quadrants: of generated scenes, of tokens shuffled between scenes, and
        between two halves of the true scenes.
        """
        number = HELD_OUT_SCENES
        latents, truth = (self.pool(number, HELD_OUT_SEED, encoded=encoded) for encoded in (True, False))
        anchors = torch.linspace(0, latents.num_frames - 1, self.preset.data.views.num_context).round().long()
        scenes, zero = torch.arange(number, device=self.device), torch.zeros(1, dtype=torch.int64)
        given, context = (self.views_of(latents, indices) for indices in (zero, anchors))
        encoded = encode_tokens(self.compressor, context, frozen=True).mean
        wrong = LatentViews(given.latents.roll(1, 0), given.cameras)
        tokens = {
            "encoded": encoded,
            "generated": self.generate(given, context.cameras),
            "wrong": self.generate(wrong, context.cameras),
            "shuffled": shuffled_between_scenes(encoded),
        }
        pictures: dict[str, list[Tensor]] = {name: [] for name in tokens}
        frames = []
        length = self.preset.sampler.window
        for start in WINDOW_STARTS:
            window = torch.arange(start, min(start + length, latents.num_frames))
            frames.append(truth.take(scenes, window.expand(number, -1).to(self.device)).frames / 255)
            for name, shown in tokens.items():
                pictures[name].append(self.render(shown, self.views_of(latents, window).cameras))
        self.save_sheet(frames, pictures)
        real = torch.cat(frames, dim=1)
        made = {name: torch.cat(parts, dim=1) for name, parts in pictures.items()}
        half = number // 2
        return {
            "own_photograph": mean_psnr(made["generated"][:, :1], real[:, :1]),
            "wrong_photograph": mean_psnr(made["wrong"][:, :1], real[:, :1]),
            "other_frames_encoded": mean_psnr(made["encoded"][:, 1:], real[:, 1:]),
            "other_frames_generated": mean_psnr(made["generated"][:, 1:], real[:, 1:]),
            "frechet_encoded": self.frechet(made["encoded"], real),
            "frechet_generated": self.frechet(made["generated"], real),
            "frechet_shuffled": self.frechet(made["shuffled"], real),
            "frechet_two_halves_of_real": self.frechet(real[:half], real[half:]),
        }

    def views_of(self, pool: ScenePool, indices: Int[Tensor, " v"]) -> LatentViews:
        """Some frames of all scenes, relative to frame 0."""
        scenes = torch.arange(pool.capacity, device=self.device)
        first, views = (
            float_views(pool.take(scenes, chosen.expand(len(scenes), -1).to(self.device)))
            for chosen in (torch.zeros(1, dtype=torch.int64), indices)
        )
        return views.relative_to(first.cameras.c2w[:, 0])

    def generate(self, given: LatentViews, anchors: CameraBatch) -> Float[Tensor, "b n dim"]:
        config, most = self.preset.compressor, self.preset.data.views.max_condition_views
        sampler = self.preset.scene_sampler
        assert sampler is not None
        number, filled = len(given.latents), [0] * most
        return sample_scene_tokens(
            self.averaged,
            token_noise(range(number), config.num_tokens, config.token_dim).to(self.device),
            given.latents[:, filled],
            given.cameras.select(filled),
            anchors,
            (torch.arange(most, device=self.device) == 0).expand(number, -1),
            sampler,
            autocast=self.device.type == "cuda",
        )

    def render(self, tokens: Float[Tensor, "b n dim"], cameras: CameraBatch) -> Float[Tensor, "b f 3 h w"]:
        config, count = self.preset.sampler, cameras.num_views
        shape = self.denoiser.latent_shape
        noise = latent_noise(range(len(tokens)), count, shape).to(self.device)
        sampler = replace(config, window=min(config.window, count), clean_targets=0)
        autocast = self.device.type == "cuda"
        return self.decode(
            sample_latents(self.denoiser, tokens, cameras, noise, IMAGE_LAYOUT, sampler, autocast=autocast)[0]
        ).clamp(0, 1)

    def frechet(self, made: Float[Tensor, "b f 3 h w"], real: Float[Tensor, "c g 3 h w"]) -> float:
        first, second = (self.features(frames.flatten(0, 1)) for frames in (made, real))
        return float(frechet_distance(first, second))

    def features(self, frames: Float[Tensor, "k 3 h w"]) -> Float[Tensor, "k d"]:
        """The codec's codes, averaged over quadrants: 64 numbers a picture."""
        codes = self.codec.encode(frames * 2 - 1).float()
        return nn.functional.adaptive_avg_pool2d(codes, 2).flatten(1)

    def save_sheet(self, frames: list[Tensor], pictures: dict[str, list[Tensor]]) -> None:
        """Scene by scene: truth, encoded, generated; one frame of two of each window."""
        rows = torch.stack([torch.cat(frames, 1), *(torch.cat(pictures[n], 1) for n in ("encoded", "generated"))], 1)
        rows = rows[:SHEET_SCENES, :, ::2].flatten(0, 1)
        sheet = (rows.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1).clamp(0, 1) * 255).byte()
        with atomic_file(self.options.output / "samples.png") as file:
            Image.fromarray(sheet.cpu().numpy()).save(file, "PNG")


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


def shuffled_between_scenes(tokens: Float[Tensor, "b n dim"]) -> Float[Tensor, "b n dim"]:
    """Each place takes its token from a scene of its own, so that no two tokens of a scene belong together."""
    generator = torch.Generator().manual_seed(0)
    order = torch.stack([torch.randperm(len(tokens), generator=generator) for _ in range(tokens.shape[1])], dim=1)
    return tokens.gather(0, order.to(tokens.device)[:, :, None].expand_as(tokens))
