"""The network of Video DC-AE (f32 t4 c128), with the keys of the published state dict.

All tensors are [b, channel, time, row, column]. Convolutions have cubic kernels and zero padding on all sides; time is
not causal. Names such as `op_list`, `main` and `context_module` are the keys of the published file.
Checked against recorded runs of the published network (parity case `videodcae`).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import prod

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

HEAD_SIZE = 32
EXPANSION = 4

Fold = tuple[int, int, int]
"""Factors of a resampling in time, height and width."""


@dataclass(frozen=True)
class VideoDCAEConfig:
    """Sizes of the network; the defaults are the published ones."""

    latent_channels: int = 128
    widths: tuple[int, ...] = (128, 256, 512, 512, 1024, 1024)
    """Widths of the stages, finest first. Each further stage halves height and width."""
    encoder_depths: tuple[int, ...] = (2, 2, 2, 3, 3, 3)
    decoder_depths: tuple[int, ...] = (3, 3, 3, 3, 3, 3)
    first_attention_stage: int = 3
    """This stage and coarser ones have EfficientViT blocks, finer ones residual blocks."""
    time_halving_stages: tuple[int, ...] = (3, 4)
    """The steps from these stages to the next halve time as well."""

    def fold(self, stage: int) -> Fold:
        """Factors between `stage` and the next coarser one."""
        return (2 if stage in self.time_halving_stages else 1, 2, 2)


class ChannelRMSNorm(nn.Module):
    """x / sqrt(mean over channels of x^2 + eps) * weight + bias, with the mean square computed in float32."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t h w"]:
        # A norm with dtype float32 reads x once, where x.float().square() would hold two copies of the largest maps.
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
        normed = (x * torch.rsqrt(length.square() / x.shape[1] + self.eps)).to(x.dtype)
        return torch.addcmul(self.bias.view(-1, 1, 1, 1), normed, self.weight.view(-1, 1, 1, 1))


class Conv(nn.Module):
    """A padded 3-D convolution, with an optional norm after it."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 3,
        *,
        stride: Fold = (1, 1, 1),
        groups: int = 1,
        bias: bool = True,
        norm: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv3d(
            in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=bias
        )
        self.norm = ChannelRMSNorm(out_channels) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class OpList(nn.Module):
    """Modules run one after the other, under the published name."""

    def __init__(self, ops: list[nn.Module]) -> None:
        super().__init__()
        self.op_list = nn.ModuleList(ops)

    def forward(self, x: Tensor) -> Tensor:
        for op in self.op_list:
            x = op(x)
        return x


class Residual(nn.Module):
    """main(x) + shortcut(x); shortcuts have no parameters."""

    def __init__(self, main: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.main = main
        self.shortcut = shortcut if shortcut is not None else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x) + self.shortcut(x)


class AveragingShortcut(nn.Module):
    """Moves space (and time) to channels, then averages consecutive channels."""

    def __init__(self, out_channels: int, fold: Fold) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.fold = fold

    def forward(self, x: Tensor) -> Tensor:
        dt, dy, dx = effective_fold(self.fold, x)
        x = rearrange(x, "b c (t dt) (h dy) (w dx) -> b (c dt dy dx) t h w", dt=dt, dy=dy, dx=dx)
        return x.unflatten(1, (self.out_channels, -1)).mean(dim=2)


class DuplicatingShortcut(nn.Module):
    """Repeats each channel, then moves channels to space (and time)."""

    def __init__(self, out_channels: int, fold: Fold) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.fold = fold

    def forward(self, x: Tensor) -> Tensor:
        fold = dt, dy, dx = effective_fold(self.fold, x)
        x = x.repeat_interleave(self.out_channels * prod(fold) // x.shape[1], dim=1)
        return rearrange(x, "b (c dt dy dx) t h w -> b c (t dt) (h dy) (w dx)", dt=dt, dy=dy, dx=dx)


class Upsample(nn.Module):
    """Nearest-neighbour enlargement, then a convolution."""

    def __init__(self, in_channels: int, out_channels: int, fold: Fold) -> None:
        super().__init__()
        self.fold = fold
        self.conv = Conv(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        factors = [float(factor) for factor in effective_fold(self.fold, x)]
        return self.conv(F.interpolate(x, scale_factor=factors, mode="nearest"))


def effective_fold(fold: Fold, x: Tensor) -> Fold:
    """Return the fold for `x`. A single time step is not resampled in time: the published network treats it as an
    image."""
    return (1, *fold[1:]) if x.shape[2] == 1 else fold


class ResidualConvs(nn.Module):
    """Two convolutions with a SiLU between them and a norm after the second."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = Conv(width, width)
        self.conv2 = Conv(width, width, bias=False, norm=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.silu(self.conv1(x)))


class LinearAttention(nn.Module):
    """ReLU linear attention over all positions of time and space, at two scales."""

    def __init__(self, width: int) -> None:
        super().__init__()
        heads = width // HEAD_SIZE
        self.qkv = Conv(width, 3 * width, 1, bias=False)
        self.aggreg = nn.ModuleList(
            [
                nn.Sequential(
                    nn.Conv3d(3 * width, 3 * width, 5, padding=2, groups=3 * width, bias=False),
                    nn.Conv3d(3 * width, 3 * width, 1, groups=3 * heads, bias=False),
                )
            ]
        )
        self.proj = Conv(2 * width, width, 1, bias=False, norm=True)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x)
        both = torch.cat([qkv, *(scale(qkv) for scale in self.aggreg)], dim=1)
        heads = rearrange(both, "b (n d) t h w -> b n d (t h w)", d=3 * HEAD_SIZE)
        with torch.autocast(x.device.type, enabled=False):  # sums over all positions must not be rounded by autocast
            q, k, v = heads.chunk(3, dim=2)
            out = relu_linear_attention(q, k, v)
        out = rearrange(out, "b n d (t h w) -> b (n d) t h w", t=x.shape[2], h=x.shape[3])
        return self.proj(out.to(both.dtype))


def relu_linear_attention(
    q: Float[Tensor, "b n d l"], k: Float[Tensor, "b n d l"], v: Float[Tensor, "b n d l"], eps: float = 1e-15
) -> Float[Tensor, "b n d l"]:
    """Compute out_i = sum_j v_j (k_j . q_i) / (sum_j k_j . q_i + eps), with ReLU on q and k and without a scale.

    float16 is computed in float32 throughout, bfloat16 only from the division on.
    """
    if q.dtype == torch.float16:
        q, k, v = q.float(), k.float(), v.float()
    q, k = F.relu(q), F.relu(k)
    with_ones = F.pad(v, (0, 0, 0, 1), value=1.0)
    sums = with_ones @ k.transpose(-1, -2) @ q
    sums = sums.to(torch.promote_types(sums.dtype, torch.float32))
    return sums[:, :, :-1] / (sums[:, :, -1:] + eps)


class GatedConvs(nn.Module):
    """Expansion, depthwise convolution, SiLU gate, projection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = EXPANSION * width
        self.inverted_conv = Conv(width, 2 * inner, 1)
        self.depth_conv = Conv(2 * inner, 2 * inner, groups=2 * inner)
        self.point_conv = Conv(inner, width, 1, bias=False, norm=True)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.depth_conv(F.silu(self.inverted_conv(x))).chunk(2, dim=1)
        return self.point_conv(value * F.silu(gate))


class EfficientViTBlock(nn.Module):
    """Attention over all positions, then local convolutions, each with a residual sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.context_module = Residual(LinearAttention(width))
        self.local_module = Residual(GatedConvs(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.local_module(self.context_module(x))


class Encoder(nn.Module):
    """Encodes [b, 3, t, h, w] to [b, latent_channels, t / 4, h / 32, w / 32]. A single frame stays one time step."""

    def __init__(self, config: VideoDCAEConfig) -> None:
        super().__init__()
        widths = config.widths
        self.project_in = Conv(3, widths[0])
        stages = [_blocks(config, stage, depth) for stage, depth in enumerate(config.encoder_depths)]
        for stage, (width, wider) in enumerate(pairwise(widths)):
            fold = config.fold(stage)
            stages[stage].append(Residual(Conv(width, wider, stride=fold), AveragingShortcut(wider, fold)))
        self.stages = nn.ModuleList(OpList(ops) for ops in stages)
        self.project_out = Residual(
            OpList([Conv(widths[-1], config.latent_channels)]), AveragingShortcut(config.latent_channels, (1, 1, 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.project_in(x)
        for stage in self.stages:
            x = stage(x)
        return self.project_out(x)


class Decoder(nn.Module):
    """Decodes [b, latent_channels, t, h, w] to [b, 3, 4 t, 32 h, 32 w]. A single time step stays one frame."""

    def __init__(self, config: VideoDCAEConfig) -> None:
        super().__init__()
        widths = config.widths
        self.project_in = Residual(Conv(config.latent_channels, widths[-1]), DuplicatingShortcut(widths[-1], (1, 1, 1)))
        stages = [_blocks(config, stage, depth) for stage, depth in enumerate(config.decoder_depths)]
        for stage, (width, wider) in enumerate(pairwise(widths)):
            fold = config.fold(stage)
            stages[stage].insert(0, Residual(Upsample(wider, width, fold), DuplicatingShortcut(width, fold)))
        self.stages = nn.ModuleList(OpList(ops) for ops in stages)  # stored finest first, run coarsest first
        self.project_out = OpList([ChannelRMSNorm(widths[0]), nn.ReLU(), Conv(widths[0], 3)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.project_in(x)
        for stage in reversed(self.stages):
            x = stage(x)
        return self.project_out(x)


def _blocks(config: VideoDCAEConfig, stage: int, depth: int) -> list[nn.Module]:
    width = config.widths[stage]
    if stage >= config.first_attention_stage:
        return [EfficientViTBlock(width) for _ in range(depth)]
    return [Residual(ResidualConvs(width)) for _ in range(depth)]


class VideoDCAENetwork(nn.Module):
    """Encoder and decoder. Both are deterministic: there is no distribution over latents."""

    def __init__(self, config: VideoDCAEConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
