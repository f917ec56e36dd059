"""Depth head: a small network that predicts the depth of target frames from the denoiser's last features.

The features are those of the last denoising step with the scene's tokens, so depth needs no extra denoising. The head
predicts the logarithm of inverse depth, and the logarithm of the scale b of its Laplace distribution. b is a relative
error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from scenetok_ns.models.depth_geometry import CLOSE
from scenetok_ns.models.networks.layers import RMSNorm, SelfAttention, SwiGLU
from scenetok_ns.models.presets import Preset
from scenetok_ns.models.temporal import TemporalLayout

LARGEST_PATCH = 8
"""Maximum side in pixels of a token's patch of the depth map. If tokens cover more, the map is enlarged."""
PIXEL_FEATURES = 16
"""Number of features per pixel between the tokens and the last convolutions."""
HEAD_WIDTH = 64
"""Width of an attention head."""
LOG_LIMIT = 8.0
"""Maximum magnitude of a predicted logarithm."""
TYPICAL_INVERSE = 0.4
"""Inverse depth that an untrained head predicts, in units of the training data."""
NORM_EPS = 1e-6


@dataclass(frozen=True)
class DepthHeadConfig:
    """Sizes of a depth head."""

    features: int
    """Width of the denoiser."""
    grid: tuple[int, int]
    """Rows and columns of tokens in a latent."""
    patch: int
    """Side in pixels of a token's patch of the depth map."""
    width: int = 192
    depth: int = 4

    @classmethod
    def for_preset(cls, preset: Preset, grid: tuple[int, int]) -> DepthHeadConfig:
        """Sizes that fit a preset's denoiser, whose latents have `grid` (rows, columns) of tokens."""
        patch = min(LARGEST_PATCH, max(preset.data.image_size // grid[0], 1))
        return cls(preset.denoiser.hidden_size, grid, patch)


class HeadBlock(nn.Module):
    """Depth-wise convolution within a latent, attention over the window, and feed-forward, each with a residual sum."""

    def __init__(self, width: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        self.mix = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm1, self.norm2 = RMSNorm(width, NORM_EPS), RMSNorm(width, NORM_EPS)
        self.attn = SelfAttention(width, max(width // HEAD_WIDTH, 1), NORM_EPS)
        self.mlp = SwiGLU(width, 4.0)

    def forward(self, x: Float[Tensor, "b l n width"]) -> Float[Tensor, "b l n width"]:
        b, latents = x.shape[:2]
        h, w = self.grid
        maps = self.mix(rearrange(x, "b l (h w) c -> (b l) c h w", h=h, w=w))
        x = x + rearrange(maps, "(b l) c h w -> b l (h w) c", b=b, l=latents)
        x = x + self.attn(self.norm1(x.flatten(1, 2))).unflatten(1, (latents, h * w))
        return x + self.mlp(self.norm2(x))


class DepthHead(nn.Module):
    """Predicts depth and its uncertainty for each frame, from the features and camera embeddings of a window."""

    def __init__(self, config: DepthHeadConfig, layout: TemporalLayout) -> None:
        super().__init__()
        self.config, self.layout = config, layout
        self.enter = nn.Linear(2 * config.features, config.width)
        self.blocks = nn.ModuleList(HeadBlock(config.width, config.grid) for _ in range(config.depth))
        self.norm = RMSNorm(config.width, NORM_EPS)
        self.leave = nn.Linear(config.width, layout.frames_per_latent * config.patch**2 * PIXEL_FEATURES)
        self.smooth = nn.Conv2d(PIXEL_FEATURES, 2 * PIXEL_FEATURES, 3, padding=1)
        self.last = nn.Conv2d(2 * PIXEL_FEATURES, 2, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        with torch.no_grad():
            assert self.last.bias is not None
            self.last.bias.copy_(torch.tensor([math.log(TYPICAL_INVERSE), -1.0]))

    def forward(
        self, features: Float[Tensor, "b l n hidden"], poses: Float[Tensor, "b l n hidden"]
    ) -> tuple[Float[Tensor, "b f 1 h w"], Float[Tensor, "b f 1 h w"]]:
        """Predict depth for all frames of whole chunks of latents, always in float32.

        Args:
            features: Features from `Denoiser.velocity_and_features`.
            poses: Result of `Denoiser.embed_poses` for the same latents.

        Returns:
            Logarithm of inverse depth, in the networks' units (positions relative to the reference, times the pose
            scale), and logarithm of b.
        """
        with torch.autocast(features.device.type, enabled=False):
            x = self.enter(torch.cat([features.float(), poses.float()], dim=-1))
            for block in self.blocks:
                x = block(x)
            h, w = self.config.grid
            p = self.config.patch
            packed = rearrange(
                self.leave(self.norm(x)), "b l (h w) (k p q c) -> b l (k c) (h p) (w q)",
                h=h, w=w, p=p, q=p, c=PIXEL_FEATURES,
            )  # fmt: skip
            frames = self.layout.unpack(packed)
            maps = self.last(F.silu(self.smooth(frames.flatten(0, 1)))).unflatten(0, frames.shape[:2])
            log_inverse, log_scale = maps.clamp(-LOG_LIMIT, LOG_LIMIT).split(1, dim=2)
        return log_inverse, log_scale


def as_depth(
    log_inverse: Float[Tensor, "b f 1 h w"], log_scale: Float[Tensor, "b f 1 h w"], size: tuple[int, int]
) -> tuple[Float[Tensor, "b f 1 height width"], Float[Tensor, "b f 1 height width"]]:
    """Convert a head's outputs to depth and confidence at the size of the frames.

    Confidence is the probability, from 0 to 1, that the depth is within `CLOSE` of the truth, under the predicted
    distribution.
    """
    found = []
    for maps in (log_inverse, log_scale):
        flat = maps.flatten(0, 1)
        if flat.shape[-2:] != size:
            flat = F.interpolate(flat, size=size, mode="bilinear", align_corners=False)
        found.append(flat.unflatten(0, maps.shape[:2]))
    return (-found[0]).exp(), 1 - (-math.log(1 + CLOSE) / found[1].exp()).exp()


def depth_loss(
    log_inverse: Float[Tensor, "b f 1 h w"],
    log_scale: Float[Tensor, "b f 1 h w"],
    truth: Float[Tensor, "b f 1 h w"],
    weight: Float[Tensor, "b f 1 h w"] | Bool[Tensor, "b f 1 h w"],
) -> Float[Tensor, ""]:
    """Negative log-likelihood of the true depth's logarithm under Laplace distributions, plus a loss on differences.

    The second term is the absolute error of the differences between neighbouring pixels.

    Args:
        log_inverse: Predicted logarithm of inverse depth.
        log_scale: Predicted logarithm of b.
        truth: True depth in the networks' units; above 0 wherever `weight` is.
        weight: Weight of each pixel; 0 if its depth is not known.
    """
    weight = weight.to(truth.dtype)
    target = -truth.clamp(min=1e-6).log()
    error = log_inverse - target
    likelihood = error.abs() * (-log_scale).exp() + log_scale
    loss = (weight * likelihood).sum() / weight.sum().clamp(min=1)
    for dim in (-1, -2):
        both = weight.narrow(dim, 1, weight.shape[dim] - 1) * weight.narrow(dim, 0, weight.shape[dim] - 1)
        loss = loss + (both * error.diff(dim=dim).abs()).sum() / both.sum().clamp(min=1)
    return loss
