"""Training of the embedded model from nothing, on demo scenes made while it trains (`scenetok train-tiny`).

Three stages. The codec learns to code frames. Then compressor and denoiser learn together: first only from pure noise,
where the decoder has nothing but the tokens to go by (a plain regression, which makes the tokens informative), then
at all noise levels. A model that starts at mixed levels learns to ignore its tokens.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scenetok_ns.data.demo.pool import ScenePool, draw_training_views
from scenetok_ns.models.flow.draws import draw_scenetok
from scenetok_ns.models.flow.losses import scenetok_loss
from scenetok_ns.models.flow.rectified_flow import network_time
from scenetok_ns.models.networks.averaging import update_average
from scenetok_ns.models.networks.compressor import Compressor
from scenetok_ns.models.networks.denoiser import Denoiser
from scenetok_ns.models.presets import Preset, load_preset
from scenetok_ns.models.recipes import TrainingConfig
from scenetok_ns.models.weight_files import load_weights, save_weights
from scenetok_ns.training.tiny.evaluation import held_out_views, write_figures
from scenetok_ns.training.tiny.run import (
    HELD_OUT_SEED,
    TRAINING_SEED,
    PoolOptions,
    PoolRun,
    as_views,
    mean_psnr,
)

logger = logging.getLogger(__name__)

HELD_OUT_SCENES = 64


@dataclass
class TinyOptions(PoolOptions):
    """What a run of the tokenizer is asked for."""

    preset: str = "scenetok-tiny"
    """Architecture and recipe."""
    codec_steps: int = 4000
    """Steps of the codec stage; 0 takes the codec of --resume."""
    token_steps: int = 30000
    """Steps of the compressor and the denoiser."""
    regression: float = 0.3
    """First part of these that is at pure noise only."""
    codec_batch_size: int = 512
    resume: Path | None = None
    """Weights to start from."""
    resume_codec: Path | None = None
    """Weights to take only the codec from."""


def run_training(options: TinyOptions) -> dict[str, float]:
    """All stages; writes weights, log, figures and pictures to the output folder and returns the figures."""
    run = TinyRun(options, load_preset(options.preset))
    if options.resume is not None:
        load_weights(run.modules(), options.resume)
        load_weights(run.averaged_modules(), options.resume)
    if options.resume_codec is not None:
        load_weights({"codec": run.codec}, options.resume_codec)
    if options.codec_steps:
        run.train_codec()
        run.save()
    run.train_tokens()
    run.save()
    return write_figures(run, run.averaged[0], run.averaged[1], HELD_OUT_SCENES)


class TinyRun(PoolRun):
    """State of one training run, and its stages."""

    options: TinyOptions

    def __init__(self, options: TinyOptions, preset: Preset) -> None:
        super().__init__(options, preset)
        self.compressor = Compressor.from_preset(preset).to(self.device)
        self.denoiser = Denoiser.from_preset(preset).to(self.device)
        start_informative(self.compressor)
        self.averaged = copy.deepcopy(nn.ModuleList([self.compressor, self.denoiser])).requires_grad_(False)

    def modules(self) -> dict[str, nn.Module]:
        return {"codec": self.codec, "compressor": self.compressor, "denoiser": self.denoiser}

    def averaged_modules(self) -> dict[str, nn.Module]:
        return {"codec": self.codec, "compressor": self.averaged[0], "denoiser": self.averaged[1]}

    def save(self) -> None:
        save_weights(self.averaged_modules(), self.options.output / "weights.safetensors")

    def train_codec(self) -> None:
        options = self.options
        pool = self.pool(min(options.scenes, 2048), TRAINING_SEED, encoded=False)
        optimizer = torch.optim.AdamW(self.codec.parameters(), lr=torch.tensor(2e-3), fused=self.device.type == "cuda")
        self.codec.train()
        for step in range(options.codec_steps):
            scenes = torch.randint(
                pool.capacity, (options.codec_batch_size,), generator=self.generator, device=self.device
            )
            views = torch.randint(pool.num_frames, (len(scenes), 1), generator=self.generator, device=self.device)
            images = pool.take(scenes, views).frames[:, 0] / 127.5 - 1
            with self.autocast():
                codes = self.codec.encode(images)
                # The denoiser's codes are never exact: noise in training makes the decoder forgive small errors.
                noisy = codes + codes.new_zeros(codes.shape).normal_() * 0.1 * torch.rand_like(codes[:, :1, :1, :1])
                decoded = self.codec.decode(noisy).float()
            loss = codec_loss(decoded, images)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.codec.parameters(), 1.0)
            optimizer.step()
            if step % 500 == 0 or step == options.codec_steps - 1:
                psnr = -10 * torch.log10((decoded - images).square().mean() / 4)
                self.write(stage="codec", step=step, loss=self.finite(loss, step), psnr=psnr.item())
        self.codec.eval()

    def train_tokens(self) -> None:
        options, config = self.options, self.preset.training
        self.codec.eval()
        if not options.token_steps:
            return
        pool = self.pool(options.scenes, TRAINING_SEED, encoded=True)
        held_out = self.pool(HELD_OUT_SCENES, HELD_OUT_SEED, encoded=True)
        optimizer = self.optimizer([*self.compressor.parameters(), *self.denoiser.parameters()])
        if options.compile:
            for block in [*self.compressor.aggregate, *self.denoiser.model.blocks]:
                block.compile()
        trained = nn.ModuleList([self.compressor, self.denoiser])
        stage, loss, step, take_step = "", torch.tensor(0.0), 0, lambda: torch.tensor(0.0)
        for step, along in self.steps(options.token_steps, optimizer, pool):
            if stage != (now_stage := "regression" if along < options.regression else "flow"):
                stage = now_stage
                recipe = dataclasses.replace(config, pure_noise_prob=1.0) if stage == "regression" else config
                take_step = self.recorded(partial(self.token_step, pool, recipe, optimizer))
            loss = take_step()
            update_average(self.averaged.parameters(), trained.parameters(), min(0.999, step / (step + 10)))
            if step % 500 == 499:
                self.report(stage, step, loss, lambda: self.one_step_psnr(held_out))
                if step % 2000 == 1999:
                    self.save()
        self.finite(loss, step)

    def token_step(self, pool: ScenePool, recipe: TrainingConfig, optimizer: torch.optim.Optimizer) -> Tensor:
        preset, batch = self.preset, self.options.batch_size
        views = preset.data.views
        scenes = torch.randint(pool.capacity, (batch,), generator=self.generator, device=self.device)
        context_views, target_views = draw_training_views(
            self.generator, batch, pool.num_frames, views.num_context, views.num_target_latents, views.target_split_prob
        )
        context = as_views(pool.take(scenes, context_views))
        target = as_views(pool.take(scenes, target_views))
        draws = draw_scenetok(
            self.generator,
            recipe,
            num_context=views.num_context,
            tokens=(batch, preset.compressor.num_tokens, preset.compressor.token_dim),
            latents=tuple(target.latents.shape),  # type: ignore[arg-type]
            splits=views.target_splits,
            device=self.device,
        )
        with self.autocast():
            loss = scenetok_loss(self.compressor, self.denoiser, context, target, draws, recipe, step=0).loss
        return self.descend(loss, optimizer)

    @torch.no_grad()
    def one_step_psnr(self, pool: ScenePool, window_start: int = 20) -> dict[str, float]:
        """PSNR of one window rendered by a single step from pure noise, with own and with another scene's tokens."""
        compressor, denoiser = self.averaged[0], self.averaged[1]
        assert isinstance(compressor, Compressor) and isinstance(denoiser, Denoiser)
        context, target = held_out_views(self.preset, pool, window_start)
        frames = self.decode(target.latents)
        noise = torch.randn(target.latents.shape, generator=self.generator, device=self.device)
        t_net = network_time(torch.ones(noise.shape[:2], device=self.device))
        with self.autocast():
            tokens = compressor(context.latents, context.cameras).mean
            scores = []
            for shown in (tokens, tokens.roll(1, 0)):
                velocity = denoiser(noise, target.cameras, t_net, denoiser.project(shown))
                scores.append(mean_psnr(self.decode(noise - velocity), frames))
        return {"one_step_psnr": scores[0], "other_tokens_psnr": scores[1]}


@torch.no_grad()
def start_informative(compressor: Compressor) -> None:
    """Narrow Gaussians and token queries of unit size at the start, so that the tokens carry something at once."""
    nn.init.normal_(compressor.scene_tokens, std=1.0)
    last = compressor.out_proj[-1]
    assert isinstance(last, nn.Linear)
    last.bias[last.out_features // 2 :] = -4.0


def codec_loss(decoded: Tensor, images: Tensor) -> Tensor:
    """Absolute and square error, and absolute error of neighbour differences (edges)."""
    edges = sum(F.l1_loss(decoded.diff(dim=d), images.diff(dim=d)) for d in (-1, -2))
    return F.l1_loss(decoded, images) + 2 * F.mse_loss(decoded, images) + edges
