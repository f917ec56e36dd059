"""Embed cameras as tokens: ray maps, packed in time, then a linear layer, or patches with positions (parity c01)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from scenetok_ns.models.cameras import CameraBatch, ray_map
from scenetok_ns.models.networks.block_execution import Part
from scenetok_ns.models.networks.layers import embed_patches
from scenetok_ns.models.ops.rope import Float32Tables
from scenetok_ns.models.presets import CameraConfig
from scenetok_ns.models.temporal import TemporalLayout


class PoseEmbedding(Part):
    """Embeds cameras as one token for each patch of each latent: ray maps, packed in time, then embedded, in float32.

    `channels_last` orders the features of a patch as (row, col, frame, channel), a quirk of the released Wan weights.
    """

    model: LvsmEmbedding | PatchEmbedding

    def __init__(
        self, config: CameraConfig, hidden_size: int, layout: TemporalLayout, *, channels_last: bool = False
    ) -> None:
        super().__init__()
        self.config, self.layout = config, layout
        frames = layout.frames_per_latent
        if config.embedding == "lvsm":
            self.model = LvsmEmbedding(6, 1 if channels_last else frames, frames, hidden_size, config.patch_size)
        elif frames == 1 and not channels_last:
            self.model = PatchEmbedding(6, hidden_size, config.patch_size, config.input_size)
        else:
            raise ValueError("camera: patch_embed takes one frame per latent and has no channels_last order; use lvsm")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens in one latent."""
        side = self.config.input_size // self.config.patch_size
        return side, side

    def check_grid(self, latent_size: tuple[int, int], patch_size: int) -> tuple[int, int]:
        """Return the token grid. Raises ValueError unless latents in patches of `patch_size` have the same grid."""
        height, width = latent_size
        if self.grid != (height / patch_size, width / patch_size):
            raise ValueError(
                f"camera: ray maps make {self.grid[0]} x {self.grid[1]} tokens (input_size / patch_size), but latents "
                f"of {height} x {width} in patches of {patch_size} do not; change one of the patch sizes"
            )
        return self.grid

    def forward(self, cameras: CameraBatch, drop: Bool[Tensor, " b"] | None = None) -> Float[Tensor, "b l n d"]:
        """Embed the cameras of whole chunks of frames: `n` tokens, row by row, for each of `l` latents.

        `drop` marks batch elements whose whole embedding becomes zero. None: in training mode, elements are dropped
        with the preset's probability.
        """
        config = self.config
        maps = ray_map(cameras, (config.input_size,) * 2, rays=config.rays, normalize=config.normalize)
        with torch.autocast(maps.device.type, enabled=False):
            tokens = self.model(self.layout.pack(maps))
        if drop is None and self.training and config.dropout > 0:
            drop = torch.rand(len(tokens), device=tokens.device) < config.dropout
        return tokens if drop is None else tokens.masked_fill(drop[:, None, None, None], 0.0)


class LvsmEmbedding(nn.Module):
    """A linear layer without bias on square patches, whose features are ordered (frame, row, col, channel)."""

    def __init__(self, channels: int, frames: int, packed: int, hidden_size: int, patch_size: int) -> None:
        super().__init__()
        features = channels * packed * patch_size**2
        self.model = nn.Sequential(_PatchFeatures(frames, patch_size), Float32Linear(features, hidden_size, bias=False))

    def forward(self, maps: Float[Tensor, "b l c h w"]) -> Float[Tensor, "b l n d"]:
        return self.model(maps)


class Float32Linear(nn.Linear):
    """A linear layer without bias that computes in float32, whatever the precision of its weight."""

    def forward(self, x: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch d"]:
        return F.linear(x, self.weight.float())


class _PatchFeatures(nn.Module):
    def __init__(self, frames: int, patch_size: int) -> None:
        super().__init__()
        self.frames, self.patch_size = frames, patch_size

    def forward(self, maps: Float[Tensor, "b l c h w"]) -> Float[Tensor, "b l n f"]:
        p, t = self.patch_size, self.frames
        return rearrange(maps, "b l (t c) (h p) (w q) -> b l (h w) (t p q c)", t=t, p=p, q=p)


class PatchEmbedding(nn.Module):
    """A strided convolution with bias and a fixed sine-cosine table of positions."""

    def __init__(self, channels: int, hidden_size: int, patch_size: int, input_size: int) -> None:
        super().__init__()
        self.model = _PositionedPatches(channels, hidden_size, patch_size, input_size)

    def forward(self, maps: Float[Tensor, "b l c h w"]) -> Float[Tensor, "b l n d"]:
        return self.model(maps)


class _PositionedPatches(Float32Tables):
    pos_embed: Tensor

    def __init__(self, channels: int, hidden_size: int, patch_size: int, input_size: int) -> None:
        super().__init__()
        self.hidden_size, self.input_size, self.grid = hidden_size, input_size, input_size // patch_size
        self.proj = nn.Conv2d(channels, hidden_size, kernel_size=patch_size, stride=patch_size)
        self.register_buffer("pos_embed", sine_cosine_table(hidden_size, input_size, self.grid))

    def fill_tables(self) -> None:
        self.pos_embed.copy_(sine_cosine_table(self.hidden_size, self.input_size, self.grid))

    def forward(self, maps: Float[Tensor, "b l c h w"]) -> Float[Tensor, "b l n d"]:
        # The released table has a position for every pixel; the tokens use the middle of it.
        offset = (self.input_size - self.grid) // 2
        middle = slice(offset, offset + self.grid)
        table = self.pos_embed.unflatten(1, (self.input_size, self.input_size))[:, middle, middle].flatten(1, 2)
        bias = None if self.proj.bias is None else self.proj.bias.float()
        return embed_patches(maps, self.proj.weight.float(), bias) + table


def sine_cosine_table(dim: int, size: int, grid: int) -> Float[Tensor, "1 positions dim"]:
    """Sine-cosine table of `size` x `size` positions, row-major, with coordinates i * grid / size (parity README, c01).

    The first half of the features comes from the column, the second from the row. Each half has sines, then cosines.
    """
    if dim % 4:
        raise ValueError(f"patch_embed: hidden_size {dim} is not a multiple of 4")
    frequencies = 10_000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    coordinates = torch.arange(size, dtype=torch.float64) / (size / grid)
    angles = coordinates[:, None] * frequencies
    axis = torch.cat([angles.sin(), angles.cos()], dim=-1).float()
    columns = axis[None].expand(size, size, -1)
    rows = axis[:, None].expand(size, size, -1)
    return torch.cat([columns, rows], dim=-1).flatten(0, 1)[None]
