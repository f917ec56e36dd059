"""Training of the embedded compressor and denoiser together, on demo scenes made while they train.

First only from pure noise, where the denoiser has nothing but the tokens to go by (a plain regression, which makes the
tokens informative), then at all noise levels too. A model that starts at mixed levels learns to ignore its tokens. A
step has one number of context views and one number of tokens for all its samples: a prefix of the tokens is a scene.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from scenetok_ns.data.demo.pool import ScenePool, draw_training_views
from scenetok_ns.models.flow.losses import LatentViews
from scenetok_ns.models.flow.rectified_flow import interpolate, network_time, shift_time, velocity_target
from scenetok_ns.models.fused.blocks import fuse_for_training
from scenetok_ns.models.networks.compressor import Compressor
from scenetok_ns.models.networks.denoiser import Denoiser
from scenetok_ns.models.weight_files import save_weights
from scenetok_ns.training.tiny.optimizer import Group, TinyOptimizer, block_matrices
from scenetok_ns.training.tiny.run import TinyRun, as_views, averaged_copy, mean_psnr

HELD_OUT_SCENES = 64
VIEWS_AND_TOKENS = (
    ((12, 256), 34),
    ((12, 128), 12),
    ((12, 32), 8),
    ((6, 256), 18),
    ((3, 256), 16),
    ((1, 256), 12),
)
"""Numbers of context views and of tokens, and how often a step has them."""
PARTIAL = 0.35
"""Share of samples whose context comes from only a stretch of the walk."""
PURE, CLEAN = 0.55, 0.15
"""Shares of the samples at mixed levels: those at pure noise, and those with a first clip without noise."""
UNCONDITIONAL = 0.03
KL_WEIGHT = 1e-8


class Pools(NamedTuple):
    """Scenes of a final codec."""

    training: ScenePool
    held_out: ScenePool

    @classmethod
    def of(cls, run: TinyRun, *, keep_images: bool) -> Pools:
        """keep_images: Keep the training images, which the finish needs."""
        run.codec.eval().requires_grad_(False)
        return cls(
            run.training_pool(run.options.num_scenes, encoded=True, keep_images=keep_images),
            run.held_out_pool(HELD_OUT_SCENES, encoded=True, keep_images=True),
        )


class Kind(NamedTuple):
    stage: str
    views: int
    tokens: int


class TokenizerTask:
    """Trains compressor and denoiser."""

    name, file_name = "tokens", "tokens.safetensors"

    def __init__(self, run: TinyRun, regression: float) -> None:
        self.run, self.preset, self.regression = run, run.preset, regression
        self.compressor = Compressor.from_preset(run.preset).to(run.device)
        self.denoiser = Denoiser.from_preset(run.preset).to(run.device)
        start_informative(self.compressor)
        self.trained = nn.ModuleDict({"compressor": self.compressor, "denoiser": self.denoiser})
        self.averaged = averaged_copy(self.trained)
        if run.plan.fused:
            fuse_for_training(self.compressor, in_float8=run.plan.float8)
            fuse_for_training(self.denoiser, in_float8=run.plan.float8)

    def start(self, pools: Pools) -> None:
        self.pool, self.held_out_pool = pools.training, pools.held_out

    def kinds(self, along: float) -> Sequence[tuple[Hashable, float]]:
        stage = "regression" if along < self.regression else "mixed"
        most = self.preset.compressor.num_tokens
        return [(Kind(stage, n, min(k, most)), weight) for (n, k), weight in VIEWS_AND_TOKENS]

    def loss(self, kind: Hashable) -> Float[Tensor, ""]:
        assert isinstance(kind, Kind)
        context, target = self.draw_views(kind.views)
        latents, generator = target.latents.float(), self.run.generator
        with self.run.autocast():
            distribution = self.compressor(context.latents, context.cameras)
            noise = torch.randn(distribution.mean.shape, generator=generator, device=self.run.device)
            state = self.denoiser.project(distribution.sample(noise)[:, : kind.tokens])
            time = self.draw_times(len(latents), kind.stage)
            null = torch.rand((len(latents), 1, 1), generator=generator, device=self.run.device) < (
                UNCONDITIONAL if kind.stage == "mixed" else 0.0
            )
            state = torch.where(null, self.denoiser.null_tokens.to(state.dtype), state)
            target_noise = torch.randn(latents.shape, generator=generator, device=self.run.device)
            noisy = interpolate(latents, target_noise, time)
            velocity = self.denoiser(noisy, target.cameras, network_time(time), state)
        error = (velocity.float() - velocity_target(latents, target_noise)).square().mean(dim=(2, 3, 4))
        weight = (time > 0).float()
        flow = (error * weight).sum() / weight.sum()
        return flow + KL_WEIGHT * distribution.kl().mean()

    def draw_views(self, num_context: int) -> tuple[LatentViews, LatentViews]:
        """Context and targets of a batch, relative to one of the context views."""
        run, views = self.run, self.preset.data.views
        batch, generator = run.options.batch_size, run.generator
        scenes = torch.randint(self.pool.capacity, (batch,), generator=generator, device=run.device)
        context_views, target_views = draw_training_views(
            generator,
            batch,
            self.pool.num_frames,
            num_context,
            views.num_target_latents,
            views.target_split_prob,
            partial=PARTIAL,
            strides=True,
        )
        self.drawn = (scenes, target_views)
        context = as_views(self.pool.take(scenes, context_views))
        target = as_views(self.pool.take(scenes, target_views))
        place = torch.randint(num_context, (batch, 1), generator=generator, device=run.device)
        reference = context.cameras.select(place).c2w[:, 0]
        return context.relative_to(reference), target.relative_to(reference)

    def draw_times(self, batch: int, stage: str) -> Float[Tensor, "b latents"]:
        """Noise levels: one for each of the clips of an element."""
        views, generator, device = self.preset.data.views, self.run.generator, self.run.device
        pure = torch.ones(batch, views.num_target_latents, device=device)
        if stage == "regression":
            return pure
        half = views.num_target_latents // 2

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, device=device)

        shift = self.preset.training.timestep_shift
        assert shift is not None
        levels = shift_time(uniform(batch, 2).clamp(min=1e-3), shift).repeat_interleave(half, dim=1)
        clean = torch.cat([torch.zeros_like(pure[:, :half]), pure[:, half:]], dim=1)
        choice = uniform(batch, 1)
        return torch.where(choice < PURE, pure, torch.where(choice < PURE + CLEAN, clean, levels))

    def optimizer(self) -> TinyOptimizer:
        orthogonal = orthogonal_matrices(self.run, self.compressor, self.denoiser)
        return TinyOptimizer(
            [Group(list(self.trained.parameters()), orthogonal=orthogonal)], self.run.options.learning_rate
        )

    @torch.no_grad()
    def held_out(self) -> dict[str, float]:
        """PSNR of one window rendered by a single step from pure noise with 12, 4 and 1 views, with half of the tokens,
        and with another scene's."""
        compressor, denoiser = self.averaged["compressor"], self.averaged["denoiser"]
        assert isinstance(compressor, Compressor) and isinstance(denoiser, Denoiser)
        most = self.preset.compressor.num_tokens
        found = {}
        for name, count, prefix, other in (
            ("views_12", 12, most, False),
            ("other", 12, most, True),
            ("half", 12, most // 2, False),
            ("views_4", 4, most, False),
            ("views_1", 1, most, False),
        ):
            tokens, target, truth = self.held_out_tokens(compressor, count)
            tokens = tokens.roll(1, 0) if other else tokens
            found[name] = mean_psnr(self.run.decode(self.one_step(denoiser, tokens[:, :prefix], target)), truth)
        return found

    def held_out_tokens(
        self, compressor: Compressor, count: int, start: int = 20
    ) -> tuple[Tensor, LatentViews, Tensor]:
        """Tokens from `count` views at (i + 1/2) / count of the walk, and a window of targets with its true frames."""
        pool, run = self.held_out_pool, self.run
        scenes = torch.arange(pool.capacity, device=run.device)
        shown = middle_views(pool.num_frames, count).to(run.device).expand(len(scenes), -1)
        window = (start + torch.arange(self.preset.data.views.num_target_latents, device=run.device)).expand(
            len(scenes), -1
        )
        context, target = as_views(pool.take(scenes, shown)), as_views(pool.take(scenes, window))
        reference = context.cameras.c2w[:, count // 2]
        context, target = context.relative_to(reference), target.relative_to(reference)
        with run.autocast():
            tokens = compressor(context.latents, context.cameras).mean
        return tokens, target, pool.images(scenes, window).float() / 255

    def one_step(self, denoiser: Denoiser, tokens: Tensor, target: LatentViews) -> Tensor:
        generator = torch.Generator(self.run.device).manual_seed(1)
        noise = torch.randn(target.latents.shape, generator=generator, device=self.run.device)
        with self.run.autocast():
            t_net = network_time(torch.ones(noise.shape[:2], device=self.run.device))
            return noise - denoiser(noise, target.cameras, t_net, denoiser.project(tokens)).float()

    def between_steps(self) -> None:
        if self.run.options.renew:
            self.pool.renew(self.run.options.renew)

    def modules(self) -> dict[str, nn.Module]:
        return {"codec": self.run.codec, **dict(self.averaged.items())}

    def save(self, folder: Path) -> None:
        save_weights(self.modules(), folder / self.file_name)


def orthogonal_matrices(run: TinyRun, compressor: Compressor, denoiser: Denoiser) -> frozenset[int]:
    """Matrices for Muon, if it is on. The compressor's queries and keys are left out, because no norm bounds them."""
    if not run.options.muon:
        return frozenset()
    return block_matrices([*compressor.aggregate], without=("qkv", "to_q", "to_k")) | block_matrices(
        [*denoiser.model.blocks]
    )


def middle_views(num_frames: int, count: int) -> Tensor:
    """Frames in the middles of `count` equal parts of a walk."""
    return ((torch.arange(count) + 0.5) / count * num_frames).long()


@torch.no_grad()
def start_informative(compressor: Compressor) -> None:
    """Narrow Gaussians and token queries of unit size at the start, so that the tokens carry something at once."""
    nn.init.normal_(compressor.scene_tokens, std=1.0)
    last = compressor.out_proj[-1]
    assert isinstance(last, nn.Linear)
    last.bias[last.out_features // 2 :] = -4.0
