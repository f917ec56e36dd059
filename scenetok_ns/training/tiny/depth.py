"""Training of the embedded model's depth head on demo rooms made while it trains (`scenetok train-tiny-depth`).

Compressor and denoiser stay as they are. Rooms come with exact depth, in metres. Contexts have one to twelve views, so
that the head meets scenes of which the tokens know little.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from scenetok_ns.data.demo.pool import ScenePool, draw_training_views
from scenetok_ns.data.demo.scenes import render_depths, sample_rooms
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.depth_weights import load_depth_head, new_depth_head, save_depth_head
from scenetok_ns.models.flow.losses import LatentViews, encode_tokens
from scenetok_ns.models.flow.noise import latent_noise
from scenetok_ns.models.flow.sampling import sample_windows
from scenetok_ns.models.flow.windows import head_outputs
from scenetok_ns.models.metrics import depth_metrics
from scenetok_ns.models.networks.averaging import update_average
from scenetok_ns.models.networks.depth_head import DepthHead, as_depth, depth_loss
from scenetok_ns.models.presets import Preset, load_preset
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.models.temporal import IMAGE_LAYOUT
from scenetok_ns.models.weight_files import embedded_weights, load_weights
from scenetok_ns.training.depth import draw_depth, last_features
from scenetok_ns.training.tiny.evaluation import held_out_views
from scenetok_ns.training.tiny.run import HELD_OUT_SEED, TRAINING_SEED, PoolOptions, PoolRun, as_views

HELD_OUT_SCENES = 64
WINDOW_STARTS = (4, 20, 36)
VIEW_COUNTS = (1, 2, 4, 6, 12)


@dataclass
class DepthOptions(PoolOptions):
    """Options of a training of the depth head."""

    batch_size: int = 64
    scenes: int = 2000
    """Scenes held at once; `renew` of them are replaced every 50 steps."""
    preset: str = "scenetok-tiny"
    """Architecture and recipe."""
    steps: int = 20000
    """Training steps."""
    tokenizer: Path | None = None
    """Weights of codec, compressor and denoiser; None: those in the package."""
    resume: Path | None = None
    """Weights of the head to start from."""


class DepthPool(ScenePool):
    """A pool whose frames have exact depth beside them."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._depths = torch.empty(
            self.capacity, self.num_frames, 1, self.image_size, self.image_size, dtype=torch.float16, device=self.device
        )

    @torch.no_grad()
    def renew(self, count: int) -> None:
        first = self.made
        super().renew(count)
        places = torch.arange(first, first + count, device=self.device) % self.capacity
        rooms = sample_rooms([self.first_seed + number for number in range(first, first + count)], self.device)
        depths = render_depths(rooms, self._c2w[places], self._intrinsics[places], self.image_size)
        self._depths[places] = depths[:, :, None].half()

    def depths(self, scenes: Int[Tensor, " b"], views: Int[Tensor, "b v"]) -> Float[Tensor, "b v 1 h w"]:
        """Depth in metres of frames `views[i]` of scene `scenes[i]`, by place in the pool."""
        return self._depths[scenes[:, None], views].float()


def run_training(options: DepthOptions) -> dict[str, float]:
    """Train and evaluate; writes depth.safetensors, log and figures to the output folder and returns the figures."""
    run = DepthRun(options, load_preset(options.preset))
    run.train()
    run.save()
    figures = run.evaluate()
    (options.output / "figures.json").write_text(json.dumps(figures, indent=2))
    return figures


class DepthRun(PoolRun):
    """State of one training run."""

    options: DepthOptions
    pool_class = DepthPool

    def __init__(self, options: DepthOptions, preset: Preset) -> None:
        if options.cuda_graph:
            raise ValueError("the number of context views changes from step to step: leave out --cuda-graph")
        super().__init__(options, preset)
        model = SceneTok(preset).to(self.device)
        self.compressor, self.denoiser = model.compressor, model.denoiser
        tokenizer = {"codec": self.codec, "compressor": self.compressor, "denoiser": self.denoiser}
        if options.tokenizer is None and preset.embedded_weights is None:
            raise ValueError(f"preset {preset.name} has no embedded weights: give --tokenizer")
        load_weights(tokenizer, options.tokenizer or embedded_weights(preset.embedded_weights or ""))
        for module in tokenizer.values():
            module.requires_grad_(False).eval()
        if options.resume is None:
            self.head = new_depth_head(preset, self.denoiser).to(self.device)
        else:
            self.head = load_depth_head(options.resume, preset, self.denoiser).to(self.device).requires_grad_(True)
        self.averaged: DepthHead = copy.deepcopy(self.head).requires_grad_(False).eval()

    def save(self) -> None:
        save_depth_head(self.averaged, self.options.output / "depth.safetensors", self.preset, self.denoiser)

    def train(self) -> None:
        options = self.options
        if not options.steps:
            return
        pool = self.pool(options.scenes, TRAINING_SEED, encoded=True)
        assert isinstance(pool, DepthPool)
        optimizer = self.optimizer(list(self.head.parameters()))
        loss, step = torch.tensor(0.0), 0
        for step, _ in self.steps(options.steps, optimizer, pool):
            scenes = torch.randint(pool.capacity, (options.batch_size,), generator=self.generator, device=self.device)
            loss = self.descend(self.loss(self.head, pool, scenes, self.generator), optimizer)
            update_average(self.averaged.parameters(), self.head.parameters(), min(0.999, step / (step + 10)))
            if step % 500 == 499 or step == options.steps - 1:
                self.report("depth", step, loss, self.held_out)
                self.save()
        self.write(stage="end", steps=step + 1, loss=self.finite(loss, step))

    def loss(
        self, head: DepthHead, pool: DepthPool, scenes: Int[Tensor, " b"], generator: torch.Generator
    ) -> Float[Tensor, ""]:
        views, number = self.preset.data.views, len(scenes)
        context, target = draw_training_views(
            generator, number, pool.num_frames, views.num_context, views.num_target_latents, views.target_split_prob
        )
        seen, wanted = (float_views(pool, scenes, indices) for indices in (context, target))
        reference = seen.cameras.c2w[:, views.num_context // 2]
        seen, wanted = seen.relative_to(reference), wanted.relative_to(reference)
        order = torch.rand(context.shape, generator=generator, device=self.device).argsort(dim=1)
        count = int(torch.randint(1, views.num_context + 1, ()))
        some = LatentViews(take(seen.latents, order[:, :count]), seen.cameras.select(order[:, :count]))
        draws = draw_depth(generator, tuple(wanted.latents.shape), self.preset.sampler, 1)  # type: ignore[arg-type]
        with torch.no_grad(), self.autocast():
            state = self.denoiser.project(encode_tokens(self.compressor, some, frozen=True).mean)
            last = last_features(self.denoiser, state, wanted.latents, wanted.cameras, draws)
        truth = pool.depths(scenes, target)
        log_inverse, log_scale = head(*last)
        return depth_loss(log_inverse, log_scale, truth, torch.ones_like(truth))

    @torch.no_grad()
    def held_out(self) -> dict[str, float]:
        """Figures of the averaged weights on frames rendered as the tools render them, of all context views."""
        return self.figures(self.preset.data.views.num_context, WINDOW_STARTS[:1])

    @cached_property
    def held_out_pool(self) -> DepthPool:
        pool = self.pool(min(HELD_OUT_SCENES, self.options.scenes), HELD_OUT_SEED, encoded=True)
        assert isinstance(pool, DepthPool)
        return pool

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Error of depth of held-out scenes by number of context views."""
        last = self.options.frames_per_scene - self.preset.data.views.num_target_latents
        starts = tuple(start for start in WINDOW_STARTS if start <= last)
        return {
            f"{name}_{count}_views": value
            for count in VIEW_COUNTS
            for name, value in self.figures(count, starts).items()
        }

    def figures(self, count: int, starts: tuple[int, ...]) -> dict[str, float]:
        """Mean errors over all frames of windows of the held-out scenes, of tokens of `count` context views."""
        pool = self.held_out_pool
        context = torch.linspace(0, pool.num_frames - 1, count + 2)[1:-1].round().long() if count < 12 else None
        scenes = torch.arange(pool.capacity, device=self.device)
        found = []
        for start in starts:
            shown, target = held_out_views(self.preset, pool, start, context)
            with self.autocast():
                tokens = encode_tokens(self.compressor, shown, frozen=True).mean
            depth, confidence = self.render(tokens, target.cameras)
            frames = start + torch.arange(target.cameras.num_views, device=self.device)
            truth = pool.depths(scenes, frames.expand(len(scenes), -1))
            close = ((depth / truth - 1).abs() < 0.1).float()
            off = (close.mean() - confidence.mean()).abs()
            found.append({**depth_metrics(depth, truth, torch.ones_like(truth).bool()), "confidence_off": float(off)})
        return {name: sum(one[name] for one in found) / len(found) for name in found[0]}

    def render(self, tokens: Float[Tensor, "b n dim"], cameras: CameraBatch) -> tuple[Tensor, Tensor]:
        """Depth and confidence of frames, from all denoising steps of the preset."""
        config, count = self.preset.sampler, cameras.num_views
        noise = latent_noise(range(len(tokens)), count, self.denoiser.latent_shape).to(self.device)
        sampler = replace(config, window=min(config.window, count), clean_targets=0)
        autocast = self.device.type == "cuda"
        (part,) = sample_windows(
            self.denoiser, tokens, cameras, noise, IMAGE_LAYOUT, sampler, autocast=autocast, features=True
        )
        return as_depth(*head_outputs(self.averaged, part), (self.preset.data.image_size,) * 2)


def float_views(pool: ScenePool, scenes: Int[Tensor, " b"], views: Int[Tensor, "b v"]) -> LatentViews:
    found = as_views(pool.take(scenes, views))
    return LatentViews(found.latents.float(), found.cameras)


def take(values: Tensor, places: Int[Tensor, "b k"]) -> Tensor:
    """Rows of each element by their places."""
    return values[torch.arange(len(values), device=values.device)[:, None], places]
