"""Figures of the embedded tokenizer on held-out demo scenes: baselines, sampled frames, and what more tokens buy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from scenetok_ns.data.demo.pool import ScenePool
from scenetok_ns.models.flow.losses import LatentViews
from scenetok_ns.models.flow.sampling import sample_latents
from scenetok_ns.models.networks.compressor import Compressor
from scenetok_ns.models.networks.denoiser import Denoiser
from scenetok_ns.models.presets import Preset, SamplerConfig
from scenetok_ns.models.temporal import IMAGE_LAYOUT
from scenetok_ns.tools.atomic_files import atomic_file, write_atomically
from scenetok_ns.training.tiny.run import HELD_OUT_SEED, PoolRun, as_views, mean_psnr

FIRST_WINDOW, WINDOW_STRIDE = 4, 12
TOKEN_COUNTS = (8, 16, 32, 64, 96, 128, 256)
"""Points of the curve. Up to the model's own number: its first tokens alone; twice that: two encodings together."""
VIEW_COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24)


def write_figures(run: PoolRun, compressor: nn.Module, denoiser: nn.Module, scenes: int) -> dict[str, float]:
    """Evaluate; writes figures.json, samples.png, curves.json and curves.png to the run's folder."""
    assert isinstance(compressor, Compressor) and isinstance(denoiser, Denoiser)
    evaluation = TinyEvaluation(run, compressor, denoiser, scenes)
    folder = run.options.output
    figures = evaluation.figures(folder / "samples.png")
    write_atomically(folder / "figures.json", json.dumps(figures, indent=2).encode())
    curves = {"tokens": evaluation.token_curve(), "context_views": evaluation.view_curve()}
    write_atomically(folder / "curves.json", json.dumps(curves, indent=2).encode())
    draw_curves(curves, figures["nearest"], folder / "curves.png")
    return figures


def held_out_views(
    preset: Preset, pool: ScenePool, start: int, context_views: Sequence[int] | Tensor | None = None
) -> tuple[LatentViews, LatentViews]:
    """Context views (spread evenly unless given) and the window of targets from `start` on, of all scenes of the pool.

    Poses are relative to the middle one of as many context views as the preset has, whichever are shown.
    """
    views, n, device = preset.data.views, pool.capacity, pool.device
    spread = spread_views(pool.num_frames, views.num_context).to(device)
    shown = spread if context_views is None else torch.as_tensor(context_views, device=device)
    scenes = torch.arange(n, device=device)

    def taken(indices: Tensor) -> LatentViews:
        return as_views(pool.take(scenes, indices.expand(n, -1)))

    reference = taken(spread[views.num_context // 2, None]).cameras.c2w[:, 0]
    target = taken(start + torch.arange(views.num_target_latents, device=device))
    return taken(shown).relative_to(reference), target.relative_to(reference)


def spread_views(num_frames: int, count: int) -> Tensor:
    """`count` frames from the first to the last, evenly; the middle one if it is one."""
    return torch.linspace(0, num_frames - 1, count).round().long() if count > 1 else torch.tensor([num_frames // 2])


class TinyEvaluation:
    """One model on one set of held-out scenes."""

    def __init__(self, run: PoolRun, compressor: Compressor, denoiser: Denoiser, scenes: int) -> None:
        self.run, self.preset, self.device = run, run.preset, run.device
        self.compressor, self.denoiser = compressor, denoiser
        self.truth = run.pool(scenes, HELD_OUT_SEED, encoded=False)
        self.latents = run.pool(scenes, HELD_OUT_SEED, encoded=True)
        self.context_views = spread_views(self.truth.num_frames, self.preset.data.views.num_context).to(self.device)
        last = self.truth.num_frames - self.preset.data.views.num_target_latents
        self.windows = range(FIRST_WINDOW, last, WINDOW_STRIDE)

    @torch.no_grad()
    def figures(self, sheet: Path) -> dict[str, float]:
        """PSNR against the true pixels, mean over frames that are no context views; and pictures of some scenes, a
        row each for truth, one step and sampled."""
        sampler, scenes = self.preset.sampler, torch.arange(self.truth.capacity, device=self.device)
        context_images = self.truth.take(scenes, self.context_views.expand(len(scenes), -1)).frames / 255
        scores: dict[str, list[float]] = {}
        for start in self.windows:
            context, target = held_out_views(self.preset, self.latents, start)
            frames, away = self.true_frames(start)
            tokens, noise = self.encode(context), self.noise(target)
            closest = (self.window(start)[:, None] - self.context_views[None]).abs().argmin(1)
            one_step = replace(sampler, steps=1)
            pictures = {
                "mean_color": context_images.mean(dim=(1, 3, 4), keepdim=True).expand_as(frames),
                "nearest": context_images[:, closest],
                "codec": self.run.decode(target.latents),
                "one_step": self.render(tokens, target, noise, one_step),
                "sampled": self.render(tokens, target, noise, sampler),
                "other_tokens": self.render(tokens.roll(1, 0), target, noise, sampler),
                "other_tokens_one_step": self.render(tokens.roll(1, 0), target, noise, one_step),
                "noise_tokens": self.render(
                    torch.randn_like(tokens) * tokens.std() + tokens.mean(), target, noise, sampler
                ),
            }
            for name, picture in pictures.items():
                scores.setdefault(name, []).append(mean_psnr(picture[:, away], frames[:, away]))
            if start == FIRST_WINDOW:
                rows = torch.stack([frames, pictures["one_step"], pictures["sampled"]], 1)[:8].flatten(0, 1)
                pixels = (rows.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1).clamp(0, 1) * 255).byte()
                with atomic_file(sheet) as file:
                    Image.fromarray(pixels.cpu().numpy()).save(file, "PNG")
        return {name: sum(values) / len(values) for name, values in scores.items()}

    @torch.no_grad()
    def token_curve(self) -> dict[int, dict[str, float]]:
        """Number of tokens shown -> PSNR of sampled and of one-step frames."""
        own = self.preset.compressor.num_tokens
        between = spread_views(self.truth.num_frames, 2 * len(self.context_views))[1::2].to(self.device)
        curve = {}
        for count in [n for n in TOKEN_COUNTS if n <= own or n == 2 * own]:
            tokens = self.encode(held_out_views(self.preset, self.latents, FIRST_WINDOW)[0])
            if count > own:
                more = held_out_views(self.preset, self.latents, FIRST_WINDOW, between)[0]
                tokens = torch.cat([tokens, self.encode(more)], dim=1)
            curve[count] = self.score(tokens[:, :count])
        return curve

    @torch.no_grad()
    def view_curve(self) -> dict[int, dict[str, float]]:
        """Number of context views, spread evenly -> PSNR of sampled and of one-step frames."""
        curve = {}
        for count in [n for n in VIEW_COUNTS if n <= self.truth.num_frames]:
            shown = spread_views(self.truth.num_frames, count)
            curve[count] = self.score(self.encode(held_out_views(self.preset, self.latents, FIRST_WINDOW, shown)[0]))
        return curve

    def score(self, tokens: Float[Tensor, "b n dim"]) -> dict[str, float]:
        scores: dict[str, list[float]] = {"sampled": [], "one_step": []}
        for start in self.windows:
            _, target = held_out_views(self.preset, self.latents, start)
            frames, away = self.true_frames(start)
            noise = self.noise(target)
            for name, steps in (("sampled", self.preset.sampler.steps), ("one_step", 1)):
                picture = self.render(tokens, target, noise, replace(self.preset.sampler, steps=steps))
                scores[name].append(mean_psnr(picture[:, away], frames[:, away]))
        return {name: sum(values) / len(values) for name, values in scores.items()}

    def encode(self, context: LatentViews) -> Float[Tensor, "b n dim"]:
        with self.run.autocast():
            return self.compressor(context.latents, context.cameras).mean

    def noise(self, target: LatentViews) -> Tensor:
        return torch.randn(target.latents.shape, generator=self.run.generator, device=self.device)

    def render(self, tokens: Tensor, target: LatentViews, noise: Tensor, sampler: SamplerConfig) -> Tensor:
        autocast = self.device.type == "cuda"
        latents, _ = sample_latents(
            self.denoiser, tokens, target.cameras, noise, IMAGE_LAYOUT, sampler, autocast=autocast
        )
        return self.run.decode(latents)

    def window(self, start: int) -> Tensor:
        return start + torch.arange(self.preset.data.views.num_target_latents, device=self.device)

    def true_frames(self, start: int) -> tuple[Float[Tensor, "b f 3 h w"], Tensor]:
        """Frames of a window, and which of them are no context views."""
        window = self.window(start)
        scenes = torch.arange(self.truth.capacity, device=self.device)
        frames = self.truth.take(scenes, window.expand(len(scenes), -1)).frames / 255
        return frames, (window[:, None] - self.context_views[None]).abs().amin(1) > 0


def draw_curves(curves: dict[str, dict[int, dict[str, float]]], nearest: float, path: Path) -> None:
    """PSNR against number of tokens and of context views, beside copying the nearest context view."""
    from matplotlib.figure import Figure  # slow to import, and only wanted here

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    titles = {"tokens": "number of tokens (12 context views)", "context_views": "number of context views"}
    for axes, (name, curve) in zip(figure.subplots(1, 2, sharey=True), curves.items(), strict=True):
        for kind, label in (("one_step", "one step"), ("sampled", "sampled")):
            axes.plot(list(curve), [point[kind] for point in curve.values()], marker="o", label=label)
        axes.axhline(nearest, color="gray", linestyle="--", label="nearest of 12 views, copied")
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(curve), [str(n) for n in curve])
        axes.minorticks_off()
        axes.set_xlabel(titles[name])
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("PSNR in dB, held-out rooms")
    figure.axes[0].legend()
    with atomic_file(path) as file:
        figure.savefig(file, dpi=100, format="png")
