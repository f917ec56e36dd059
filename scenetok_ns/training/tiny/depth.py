"""Training of the embedded model's depth head on demo rooms made while it trains (`scenetok train-tiny-depth`).

Compressor and denoiser stay as they are. Rooms come with exact depth, in the unit of their poses. The head
can also learn from their pictures alone, by plane sweeps over the frames of each walk, as in `ns-train scenetok-depth`.
Contexts have one to twelve views, so that the head meets scenes of which the tokens know little.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from scenetok_ns.data.demo.pool import PANORAMA, VARIETY, ScenePool, draw_training_views
from scenetok_ns.data.demo.scenes import render_depths, sample_rooms
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.depth_weights import load_depth_head, new_depth_head, save_depth_head
from scenetok_ns.models.flow.losses import LatentViews, encode_tokens
from scenetok_ns.models.flow.noise import latent_noise
from scenetok_ns.models.flow.sampling import sample_windows
from scenetok_ns.models.flow.windows import head_outputs
from scenetok_ns.models.metrics import depth_metrics
from scenetok_ns.models.networks.depth_head import DepthHead, as_depth, depth_loss
from scenetok_ns.models.presets import load_preset
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.models.temporal import IMAGE_LAYOUT
from scenetok_ns.models.weight_files import embedded_weights, load_weights
from scenetok_ns.tools.atomic_files import write_atomically
from scenetok_ns.tools.errors import UsageError
from scenetok_ns.training.depth import at_resolution_of, draw_depth, last_features, swept_targets
from scenetok_ns.training.tiny.generator import float_views
from scenetok_ns.training.tiny.optimizer import Group, TinyOptimizer
from scenetok_ns.training.tiny.options import RunOptions
from scenetok_ns.training.tiny.run import TinyRun, as_views, averaged_copy
from scenetok_ns.training.tiny.tokenizer import middle_views

HELD_OUT_SCENES = 64
WINDOW_STARTS = (4, 20, 36)
VIEW_COUNTS = (1, 2, 4, 6, 12)
SWEPT_EVERY = 6
"""Without exact depth, that of one of this number of frames is swept: a window then has as many as in scenetok-depth,
and sweeps take most of the time of a new scene."""


@dataclass
class DepthOptions(RunOptions):
    """Options for training the depth head."""

    batch_size: int = 64
    num_scenes: int = 2000
    preset: str = "scenetok-tiny"
    """Architecture and recipe."""
    steps: int = 20000
    """Training steps."""
    tokenizer: Path | None = None
    """Weights of codec, compressor and denoiser; None: those in the package."""
    resume: Path | None = None
    """Weights of the head to start from."""
    supervision: Literal["depth", "photographs"] = "depth"
    """depth: the rooms' exact depth. photographs: plane sweeps over the pictures alone; figures use exact depth."""


class DepthPool(ScenePool):
    """A pool whose frames have exact depth beside them; 0 in scenes that are photographs alone."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._depths = torch.empty(
            self.capacity, self.num_frames, 1, self.image_size, self.image_size, dtype=torch.float16, device=self.device
        )

    @torch.no_grad()
    def renew(self, count: int) -> None:
        numbers = torch.arange(self.made, self.made + count, device=self.device)
        super().renew(count)
        places = numbers % self.capacity
        rooms = sample_rooms((self.first_seed + numbers).tolist(), self.device)
        unit, c2w = self._unit[places], self._c2w[places]
        metric = torch.cat([c2w[..., :3], c2w[..., 3:] / unit[:, None, None, None]], dim=-1)
        metric[..., 3, 3] = 1.0
        depths = render_depths(rooms, metric, self._intrinsics[places], self.image_size) * unit[:, None, None, None]
        if self.varied and self.photographs is not None:
            depths[numbers % VARIETY == PANORAMA] = 0
        self._depths[places] = depths[:, :, None].half()

    def weights(self, scenes: Int[Tensor, " b"], views: Int[Tensor, "b v"]) -> Float[Tensor, "b v 1 h w"]:
        """How much each pixel of `depths` counts, from 0 (not known) to 1."""
        return (self._depths[scenes[:, None], views] > 0).float()

    def depths(self, scenes: Int[Tensor, " b"], views: Int[Tensor, "b v"]) -> Float[Tensor, "b v 1 h w"]:
        """Depth, in the unit of the poses, of frames `views[i]` of scene `scenes[i]` (its place); 0: not known."""
        return self._depths[scenes[:, None], views].float()


class SweptPool(DepthPool):
    """A pool that knows the depth of some frames from plane sweeps over the pictures of their walks."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{**settings, "keep_images": True})
        self._weights = torch.zeros_like(self._depths)

    @torch.no_grad()
    def renew(self, count: int) -> None:
        numbers = range(self.made, self.made + count)
        ScenePool.renew(self, count)
        self._depths[[number % self.capacity for number in numbers]] = 0
        self._weights[[number % self.capacity for number in numbers]] = 0
        for number in numbers:
            place = number % self.capacity
            frames = list(range(number % SWEPT_EVERY, self.num_frames, SWEPT_EVERY))
            assert self._images is not None
            cameras = CameraBatch(self._c2w[place, None], self._intrinsics[place, None])
            depth, weight = swept_targets(self._images[place, None].float() / 255, cameras, frames)
            self._depths[place, frames], self._weights[place, frames] = depth[0].half(), weight[0].half()

    def weights(self, scenes: Int[Tensor, " b"], views: Int[Tensor, "b v"]) -> Float[Tensor, "b v 1 h w"]:
        """Confidence of the sweep; 0 in frames that were not swept and where it is not sure."""
        return self._weights[scenes[:, None], views].float()


def run_training(options: DepthOptions) -> dict[str, float]:
    """Train and evaluate. Writes depth.safetensors, log and figures to the output folder; returns the figures."""
    run = TinyRun(options, load_preset(options.preset), trains_blocks=False)
    task = DepthTask(run, options)
    if options.steps:
        run.train(task, options.steps, options.seconds)
    task.save(options.output)
    figures = task.evaluate()
    write_atomically(options.output / "figures.json", json.dumps(figures, indent=2).encode())
    return figures


class DepthTask:
    """Trains the depth head on frozen networks."""

    name = "depth"

    def __init__(self, run: TinyRun, options: DepthOptions) -> None:
        self.run, self.preset, self.options = run, run.preset, options
        preset = run.preset
        model = SceneTok(preset).to(run.device)
        self.compressor, self.denoiser = model.compressor, model.denoiser
        tokenizer = {"codec": run.codec, "compressor": self.compressor, "denoiser": self.denoiser}
        if options.tokenizer is None and preset.embedded_weights is None:
            raise UsageError(f"preset {preset.name} has no embedded weights: give --tokenizer")
        load_weights(tokenizer, options.tokenizer or embedded_weights(preset.embedded_weights or ""))
        for module in tokenizer.values():
            module.requires_grad_(False).eval()
        if options.resume is None:
            self.head = new_depth_head(preset, self.denoiser).to(run.device)
        else:
            self.head = load_depth_head(options.resume, preset, self.denoiser).to(run.device).requires_grad_(True)
        self.trained = nn.ModuleDict({"depth_head": self.head})
        self.averaged = averaged_copy(self.trained)

    @cached_property
    def pool(self) -> DepthPool:
        pool_class = SweptPool if self.options.supervision == "photographs" else DepthPool
        pool = self.run.training_pool(self.options.num_scenes, encoded=True, pool_class=pool_class)
        assert isinstance(pool, DepthPool)
        return pool

    @cached_property
    def held_out_pool(self) -> DepthPool:
        scenes = min(HELD_OUT_SCENES, self.options.num_scenes)
        pool = self.run.held_out_pool(scenes, encoded=True, pool_class=DepthPool)
        assert isinstance(pool, DepthPool)
        return pool

    def kinds(self, along: float) -> Sequence[tuple[Hashable, float]]:
        return [(count, 1.0 if count < self.preset.data.views.num_context else 2.0) for count in VIEW_COUNTS]

    def loss(self, kind: Hashable) -> Float[Tensor, ""]:
        """Loss of a batch of windows that are rendered from tokens of `kind` context views in one step."""
        assert isinstance(kind, int)
        run, generator, views = self.run, self.run.generator, self.preset.data.views
        batch, pool = run.options.batch_size, self.pool
        scenes = torch.randint(pool.capacity, (batch,), generator=generator, device=run.device)
        context, target = draw_training_views(
            generator, batch, pool.num_frames, kind, views.num_target_latents, views.target_split_prob
        )
        seen, wanted = (float_views(pool.take(scenes, indices)) for indices in (context, target))
        reference = seen.cameras.c2w[:, kind // 2]
        seen, wanted = seen.relative_to(reference), wanted.relative_to(reference)
        draws = draw_depth(generator, tuple(wanted.latents.shape), self.preset.sampler, 1)  # type: ignore[arg-type]
        with torch.no_grad(), run.autocast():
            state = self.denoiser.project(encode_tokens(self.compressor, seen, frozen=True).mean)
            last = last_features(self.denoiser, state, wanted.latents, wanted.cameras, draws)
        log_inverse, log_scale = self.head(*last)
        truth, weight = (at_resolution_of(log_inverse, each(scenes, target)) for each in (pool.depths, pool.weights))
        return depth_loss(log_inverse, log_scale, truth, weight)

    def optimizer(self) -> TinyOptimizer:
        return TinyOptimizer([Group(list(self.head.parameters()))], self.run.options.learning_rate)

    @torch.no_grad()
    def held_out(self) -> dict[str, float]:
        """Figures of the averaged weights on frames rendered as in the tools, from all context views."""
        return self.figures(self.preset.data.views.num_context, WINDOW_STARTS[:1])

    def between_steps(self) -> None:
        if self.run.options.renew:
            self.pool.renew(self.run.options.renew)

    def save(self, folder: Path) -> None:
        head = self.averaged["depth_head"]
        assert isinstance(head, DepthHead)
        save_depth_head(head, folder / "depth.safetensors", self.preset, self.denoiser)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Measure the depth error on held-out scenes for each number of context views."""
        last = self.run.options.frames - self.preset.data.views.num_target_latents
        starts = tuple(start for start in WINDOW_STARTS if start <= last)
        return {
            f"{name}_{count}_views": value
            for count in VIEW_COUNTS
            for name, value in self.figures(count, starts).items()
        }

    def figures(self, count: int, starts: tuple[int, ...]) -> dict[str, float]:
        """Mean errors over all frames of windows of the held-out scenes, with tokens from `count` context views."""
        pool = self.held_out_pool
        scenes = torch.arange(pool.capacity, device=self.run.device)
        found = []
        for start in starts:
            shown, target = self.window(start, count)
            with self.run.autocast():
                tokens = encode_tokens(self.compressor, shown, frozen=True).mean
            depth, confidence = self.render(tokens, target.cameras)
            frames = start + torch.arange(target.cameras.num_views, device=self.run.device)
            truth = pool.depths(scenes, frames.expand(len(scenes), -1))
            close = ((depth / truth - 1).abs() < 0.1).float()
            off = (close.mean() - confidence.mean()).abs()
            found.append({**depth_metrics(depth, truth, torch.ones_like(truth).bool()), "confidence_off": float(off)})
        return {name: sum(one[name] for one in found) / len(found) for name in found[0]}

    def window(self, start: int, count: int) -> tuple[LatentViews, LatentViews]:
        """`count` context views in the middles of parts of the walk, and a window of targets, of all held-out rooms."""
        pool = self.held_out_pool
        scenes = torch.arange(pool.capacity, device=self.run.device)
        shown = middle_views(pool.num_frames, count).to(self.run.device)
        window = start + torch.arange(self.preset.data.views.num_target_latents, device=self.run.device)
        context, target = (as_views(pool.take(scenes, x.expand(len(scenes), -1))) for x in (shown, window))
        reference = context.cameras.c2w[:, count // 2]
        return context.relative_to(reference), target.relative_to(reference)

    def render(self, tokens: Float[Tensor, "b n dim"], cameras: CameraBatch) -> tuple[Tensor, Tensor]:
        """Depth and confidence of frames, from all denoising steps of the preset."""
        config, count = self.preset.sampler, cameras.num_views
        noise = latent_noise(range(len(tokens)), count, self.denoiser.latent_shape).to(self.run.device)
        sampler = replace(config, window=min(config.window, count), clean_targets=0)
        autocast = self.run.device.type == "cuda"
        head = self.averaged["depth_head"]
        assert isinstance(head, DepthHead)
        (part,) = sample_windows(
            self.denoiser, tokens, cameras, noise, IMAGE_LAYOUT, sampler, autocast=autocast, features=True
        )
        return as_depth(*head_outputs(head, part), (self.preset.data.image_size,) * 2)
