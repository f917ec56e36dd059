"""Cameras as the networks see them: a value type, ray maps, and their embedding as tokens.

Convention: OpenCV axes (x right, y down, z forward), camera-to-world, intrinsics for an image of unit size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from scenetok_ns.models.layers import embed_patches
from scenetok_ns.models.presets import CameraConfig
from scenetok_ns.models.rope import Float32Tables
from scenetok_ns.models.temporal import TemporalLayout

EPSILON = 1e-6
"""Added to the norm of ray directions, as in training (parity README, c01)."""


@dataclass(frozen=True)
class CameraBatch:
    """Cameras of `b` batch elements with `views` views each."""

    c2w: Float[Tensor, "b views 4 4"]
    """Camera-to-world, OpenCV axes."""
    intrinsics: Float[Tensor, "b views 3 3"]
    """Focal lengths and principal point divided by image width (first row) and height (second row)."""

    def __post_init__(self) -> None:
        c2w, intrinsics = self.c2w.shape, self.intrinsics.shape
        if len(c2w) != 4 or c2w[-2:] != (4, 4) or intrinsics[-2:] != (3, 3) or c2w[:2] != intrinsics[:-2]:
            raise ValueError(
                f"CameraBatch: expected c2w [b, views, 4, 4] and intrinsics [b, views, 3, 3], "
                f"got {list(c2w)} and {list(intrinsics)}"
            )

    @property
    def num_views(self) -> int:
        return self.c2w.shape[1]

    @property
    def batch_size(self) -> int:
        return self.c2w.shape[0]

    def relative_to(self, reference_c2w: Float[Tensor, "b 4 4"]) -> CameraBatch:
        """The same cameras in the axes of a reference camera: inverse(reference) @ c2w, in float32."""
        # inv_ex: plain inv would wait for the device to look for singular matrices.
        world_to_reference = torch.linalg.inv_ex(reference_c2w.float()).inverse[:, None]
        return CameraBatch(_product(world_to_reference, self.c2w.float()).to(self.c2w.dtype), self.intrinsics)

    def select(self, index: slice | list[int] | Int[Tensor, " k"] | Int[Tensor, "b k"]) -> CameraBatch:
        """Views by position, for all elements alike, or by a row of positions for each element."""
        if isinstance(index, Tensor) and index.dim() == 2:
            rows = torch.arange(self.batch_size, device=index.device)[:, None]
            return CameraBatch(self.c2w[rows, index], self.intrinsics[rows, index])
        return CameraBatch(self.c2w[:, index], self.intrinsics[:, index])

    def repeat(self, copies: int) -> CameraBatch:
        """The whole batch `copies` times, one after another."""
        return CameraBatch(self.c2w.repeat(copies, 1, 1, 1), self.intrinsics.repeat(copies, 1, 1, 1))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> CameraBatch:
        return CameraBatch(self.c2w.to(device, dtype), self.intrinsics.to(device, dtype))


def ray_map(
    cameras: CameraBatch, size: tuple[int, int], *, rays: Literal["ray", "plucker"], normalize: bool
) -> Float[Tensor, "b views 6 h w"]:
    """World rays through the pixel centres of an image of `size` (height, width); float32 always.

    ray: channels (direction, origin). plucker: (direction, origin x direction). Directions have unit length but for
    an epsilon; `normalize` divides by the length once more, which only moves the last digits (parity README, c01).
    """
    c2w = cameras.c2w.float()
    # Sums of products, not matmul: neither TF32 nor autocast may round geometry.
    directions = _product(torch.linalg.inv_ex(cameras.intrinsics.float()).inverse, _pixel_centres(size, c2w.device))
    directions = _product(c2w[..., :3, :3], _unit(directions))
    if normalize:
        directions = _unit(directions)
    origins = c2w[..., :3, 3:].expand_as(directions)
    second = origins if rays == "ray" else torch.linalg.cross(origins, directions, dim=-2)
    return torch.cat([directions, second], dim=-2).unflatten(-1, size)


class PoseEmbedding(nn.Module):
    """Cameras to one token for each patch of each latent: ray maps, packed in time, then embedded; float32 always.

    `channels_last` orders the features of a patch (row, col, frame, channel): quirk of the released Wan weights.
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
        """Tokens of one latent: rows and columns."""
        side = self.config.input_size // self.config.patch_size
        return side, side

    def check_grid(self, latent_size: tuple[int, int], patch_size: int) -> tuple[int, int]:
        """The token grid; raises ValueError unless latents in patches of `patch_size` give the same one."""
        height, width = latent_size
        if self.grid != (height / patch_size, width / patch_size):
            raise ValueError(
                f"camera: ray maps make {self.grid[0]} x {self.grid[1]} tokens (input_size / patch_size), but latents "
                f"of {height} x {width} in patches of {patch_size} do not; change one of the patch sizes"
            )
        return self.grid

    def forward(self, cameras: CameraBatch, drop: Bool[Tensor, " b"] | None = None) -> Float[Tensor, "b l n d"]:
        """Embed the cameras of whole chunks of frames: `n` tokens, row by row, for each of `l` latents.

        `drop` says whose whole embedding becomes zero. None: drawn with the preset's probability in training mode.
        """
        config = self.config
        maps = ray_map(cameras, (config.input_size,) * 2, rays=config.rays, normalize=config.normalize)
        with torch.autocast(maps.device.type, enabled=False):
            tokens = self.model(self.layout.pack(maps))
        if drop is None and self.training and config.dropout > 0:
            drop = torch.rand(len(tokens), device=tokens.device) < config.dropout
        return tokens if drop is None else tokens.masked_fill(drop[:, None, None, None], 0.0)


class LvsmEmbedding(nn.Module):
    """One linear map without bias of square patches; features ordered (frame, row, col, channel)."""

    def __init__(self, channels: int, frames: int, packed: int, hidden_size: int, patch_size: int) -> None:
        super().__init__()
        features = channels * packed * patch_size**2
        self.model = nn.Sequential(_PatchFeatures(frames, patch_size), Float32Linear(features, hidden_size, bias=False))

    def forward(self, maps: Float[Tensor, "b l c h w"]) -> Float[Tensor, "b l n d"]:
        return self.model(maps)


class Float32Linear(nn.Linear):
    """A linear layer without bias that computes in float32 whatever its weight's precision."""

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
    """Positions of a `size` x `size` table, coordinate i * grid / size, row-major (parity README, c01).

    First half of the features from the column, second half from the row; in each sines, then cosines.
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


def _pixel_centres(size: tuple[int, int], device: torch.device) -> Float[Tensor, "3 pixels"]:
    """Homogeneous pixel centres of the unit image, row by row."""
    y, x = ((torch.arange(n, device=device, dtype=torch.float32) + 0.5) / n for n in size)
    y, x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([x, y, torch.ones_like(x)]).flatten(1)


def _unit(vectors: Float[Tensor, "*batch 3 k"]) -> Float[Tensor, "*batch 3 k"]:
    return vectors / (torch.linalg.vector_norm(vectors, dim=-2, keepdim=True) + EPSILON)


def _product(left: Float[Tensor, "*batch i j"], right: Float[Tensor, "*batch j k"]) -> Float[Tensor, "*batch i k"]:
    """Small matrix product in exact float32, whatever the matmul settings."""
    terms = [left[..., :, j, None] * right[..., j, None, :] for j in range(left.shape[-1])]
    return sum(terms[1:], start=terms[0])
