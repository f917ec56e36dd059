"""The decoder of Video DC-AE laid out for inference: the same function of the same weights, up to rounding.

Differences from `video_dcae_layers.Decoder`, with which the tests compare it:

* Channels are the last dimension, so that 1 x 1 convolutions are matrix products and norms read whole rows.
* Nearest-neighbour enlargement and the convolution after it are one convolution of the small image with merged kernels:
  of the 27 taps that a fine position reads, those on the same coarse position are added beforehand (12 or 8 remain).
* Large stages of convolutions run in horizontal strips, with a margin as wide as the convolutions reach, which bounds
  memory.
* Frames that are not wanted are dropped as early as the reach of the later convolutions allows. The coarse stages
  attend to the whole clip and always run on all of it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from scenetok_ns.models.autoencoders.video_dcae_layers import (
    HEAD_SIZE,
    ChannelRMSNorm,
    Decoder,
    EfficientViTBlock,
    Fold,
    Residual,
    ResidualConvs,
    Upsample,
)
from scenetok_ns.models.ops.dispatch import bias_silu, depthwise_conv, join_phases, norm_modulate

STRIP_POSITIONS = 2**19
"""Approximate number of output positions in a strip: 8 frames of 256 x 256 pixels. Each map of a strip then takes 128
MiB in half precision; a map of a whole tile takes four times as much. Of the usual tiles, only the finest stage is
larger."""
SMALL_STRIP_POSITIONS = 2**17
"""The same where memory is scarce. The two finest stages then compute 1.5 and 1.9 times as many rows as without strips,
because of the margins; with strips of the usual size, the finest computes 1.2 times as many."""
BLOCK_REACH = 2
"""Reach of a residual block of two convolutions, in positions to each side."""
ALIGNED = 8
"""Number of half-precision values in 16 bytes."""
Maps = Float[Tensor, "b t h w c"]


class FastDecoder:
    """The same function as `Decoder`, from and to [b, c, t, h, w]."""

    def __init__(
        self, decoder: Decoder, device: torch.device, dtype: torch.dtype, *, strip_positions: int = STRIP_POSITIONS
    ) -> None:
        """Copy a decoder's weights.

        Args:
            decoder: The decoder.
            device: Device of the copies.
            dtype: Dtype of the copies and of the computation.
            strip_positions: Approximate maximum number of output positions in a strip.
        """
        self.dtype, self._strip_positions = dtype, strip_positions
        self._project_in = _Enlarging.of(cast(Residual, decoder.project_in), device, dtype)
        self._stages = [_Stage.of(cast(Any, stage), device, dtype) for stage in reversed(decoder.stages)]
        norm, _, last = cast(Any, decoder.project_out).op_list
        self._norm_out = _Norm.of(norm, device, dtype)
        self._conv_out = _Conv.of(last.conv, device, dtype)

    def __call__(
        self, latents: Float[Tensor, "b c l h w"], frames: int | None = None
    ) -> Float[Tensor, "b 3 f height width"]:
        """Decode at least two latents; the network treats a single one as an image, which is not enlarged in time.

        Args:
            latents: Raw latents.
            frames: Number of leading frames that are wanted. None: all.
        """
        x = self._project_in(latents.to(self.dtype).permute(0, 2, 3, 4, 1).contiguous())
        for stage in self._stages[:-1]:
            x = self._in_strips(stage, partial(stage, frames=self._needed(stage, frames)), x)
        x = self._in_strips(self._stages[-1], partial(self._last_layers, frames=frames), x)
        return x.permute(0, 4, 1, 2, 3)

    def _needed(self, stage: _Stage, frames: int | None) -> int | None:
        """Number of frames that a stage has to output for the first `frames` of the clip to be right; None: all."""
        behind = self._stages[self._stages.index(stage) + 1 :]
        if frames is None or any(each.whole or each.changes_time for each in behind):
            return None
        return frames + 1 + sum(each.reach for each in behind)

    def _in_strips(self, stage: _Stage, run: Callable[[Maps], Maps], x: Maps) -> Maps:
        """Return run(x), which runs `stage` and at most one convolution after it; in strips if the result is large."""
        rows, columns = x.shape[2:4]
        strips = min(-(-x.shape[1] * 4 * rows * columns // self._strip_positions), rows)
        if stage.whole or strips == 1 or stage.changes_time or stage.enlarge is None:
            return run(x)
        margin = -(-(stage.reach + 1) // 2)  # rows of the coarser image
        edges = [rows * i // strips for i in range(strips + 1)]
        result: Tensor | None = None
        for start, stop in pairwise(edges):
            above, below = max(start - margin, 0), min(stop + margin, rows)
            part = run(x[:, :, above:below].contiguous())
            if result is None:
                result = part.new_empty(*part.shape[:2], 2 * rows, *part.shape[3:])
            result[:, :, 2 * start : 2 * stop] = part[:, :, 2 * (start - above) : 2 * (stop - above)]
        assert result is not None
        return result

    def _last_layers(self, x: Maps, frames: int | None) -> Maps:
        x = self._stages[-1](x, None if frames is None else frames + 1)
        x = self._norm_out(x).relu_()
        return self._conv_out(x)[:, :frames]


class _Norm(NamedTuple):
    weight: Tensor
    bias: Tensor
    eps: float

    @classmethod
    def of(cls, norm: ChannelRMSNorm, device: torch.device, dtype: torch.dtype) -> _Norm:
        return cls(norm.weight.detach().to(device, dtype), norm.bias.detach().to(device, dtype), norm.eps)

    def __call__(self, x: Maps, residual: Maps | None = None) -> Maps:
        return norm_modulate(x, self.weight, self.bias, self.eps, residual)


class _Conv(NamedTuple):
    weight: Tensor
    bias: Tensor | None
    padding: tuple[int, ...]
    groups: int

    @classmethod
    def of(cls, conv: nn.Conv3d, device: torch.device, dtype: torch.dtype) -> _Conv:
        weight = conv.weight.detach().to(device, dtype).contiguous(memory_format=torch.channels_last_3d)
        bias = None if conv.bias is None else conv.bias.detach().to(device, dtype)
        return cls(weight, bias, cast("tuple[int, ...]", conv.padding), conv.groups)

    def __call__(self, x: Maps, with_bias: bool = True) -> Maps:
        bias = self.bias if with_bias else None
        out = F.conv3d(x.permute(0, 4, 1, 2, 3), self.weight, bias, padding=self.padding, groups=self.groups)
        return out.permute(0, 2, 3, 4, 1).contiguous()


class _Enlarging(NamedTuple):
    """`Residual(Conv or Upsample, DuplicatingShortcut)`."""

    fold: Fold
    merged: _Conv
    bias: Tensor

    @classmethod
    def of(cls, residual: Residual, device: torch.device, dtype: torch.dtype) -> _Enlarging:
        main = residual.main
        fold = main.fold if isinstance(main, Upsample) else (1, 1, 1)
        plain = cast(Any, main).conv.conv if isinstance(main, Upsample) else cast(Any, main).conv
        merged = nn.Conv3d(1, 1, 1)
        weight = plain.weight.detach().to(device).float()
        merged.weight, merged.bias, merged.padding = nn.Parameter(merge_kernels(weight, fold)), None, (1, 1, 1)
        return cls(fold, _Conv.of(merged, device, dtype), plain.bias.detach().to(device, dtype))

    def __call__(self, x: Maps) -> Maps:
        # Phase 0 of a doubled axis reads the position before and its own, phase 1 its own and the next.
        return join_phases(self.merged(x), x, self.bias, self.fold)


def merge_kernels(weight: Float[Tensor, "out c 3 3 3"], fold: Fold) -> Float[Tensor, "phases*out c kt kh kw"]:
    """Merge a kernel with nearest-neighbour enlargement: return a kernel for each phase of a position.

    On the small image they compute what `weight` computes on the enlarged one. Along a doubled axis, phase 0 has the
    taps (before, own) = (w0, w1 + w2), and phase 1 has (own, after) = (w0 + w1, w2).
    """
    halves = torch.tensor([[[1.0, 0, 0], [0, 1, 1]], [[1.0, 1, 0], [0, 0, 1]]], device=weight.device)
    whole = torch.eye(3, device=weight.device)[None]
    t, h, w = (halves if factor == 2 else whole for factor in fold)
    merged = torch.einsum("oixyz,ptx,quy,rvz->pqroituv", weight, t, h, w)
    return merged.flatten(0, 3)


class _Stage:
    """One resolution of the decoder: enlargement, then blocks."""

    def __init__(self, enlarge: _Enlarging | None, blocks: list[_ConvBlock | _AttentionBlock]) -> None:
        self.enlarge, self.blocks = enlarge, blocks

    @classmethod
    def of(cls, stage: Any, device: torch.device, dtype: torch.dtype) -> _Stage:
        enlarge: _Enlarging | None = None
        blocks: list[_ConvBlock | _AttentionBlock] = []
        for op in stage.op_list:
            if isinstance(op, EfficientViTBlock):
                blocks.append(_AttentionBlock.of(op, device, dtype))
            elif isinstance(op.main, ResidualConvs):
                blocks.append(_ConvBlock.of(op.main, device, dtype))
            else:
                enlarge = _Enlarging.of(op, device, dtype)
        return cls(enlarge, blocks)

    @property
    def whole(self) -> bool:
        """Whether the blocks attend to the whole clip."""
        return any(isinstance(block, _AttentionBlock) for block in self.blocks)

    @property
    def changes_time(self) -> bool:
        return self.enlarge is not None and self.enlarge.fold[0] == 2

    @property
    def reach(self) -> int:
        """Number of frames, and of rows, that the convolutions read on each side of an output position."""
        return (self.enlarge is not None) + BLOCK_REACH * len(self.blocks)

    def __call__(self, x: Maps, frames: int | None) -> Maps:
        """Run the stage. Only the first `frames` frames (None: all) are returned, and have to be right."""
        if frames is None or self.whole:
            x = x if self.enlarge is None else self.enlarge(x)
            for block in self.blocks:
                x = block(x)
            return x if frames is None else _first(x, frames)
        behind = BLOCK_REACH * len(self.blocks)
        if self.enlarge is not None:
            x = self.enlarge(_first(x, frames + behind + 1))
        for block in cast("list[_ConvBlock]", self.blocks):
            x = _first(x, frames + behind)
            behind -= BLOCK_REACH
            # If the end of the clip is beyond the block's reach, each convolution computes only the frames it needs to.
            x = block.leading(x) if len(x) == 1 and x.shape[1] == frames + behind + BLOCK_REACH else block(x)
        return _first(x, frames)


def _first(x: Maps, frames: int) -> Maps:
    return x if x.shape[1] <= frames else x[:, :frames].contiguous()


class _ConvBlock(NamedTuple):
    """`Residual(ResidualConvs)`."""

    conv1: _Conv
    conv2: _Conv
    norm: _Norm

    @classmethod
    def of(cls, block: ResidualConvs, device: torch.device, dtype: torch.dtype) -> _ConvBlock:
        norm = cast(ChannelRMSNorm, block.conv2.norm)
        conv1, conv2 = (_Conv.of(conv.conv, device, dtype) for conv in (block.conv1, block.conv2))
        return cls(conv1, conv2, _Norm.of(norm, device, dtype))

    def leading(self, x: Maps) -> Maps:
        """Run the block on the beginning `x` of a longer clip. The result has BLOCK_REACH fewer frames than `x`."""
        inner = self.conv1(x, with_bias=False)[:, :-1]
        # The second convolution needs the zeros before the clip, but no padding after its input.
        padded = x.new_empty(1, 1 + inner.shape[1], *inner.shape[2:])
        padded[:, 0] = 0
        bias_silu(inner, cast(Tensor, self.conv1.bias), out=padded[:, 1:])
        del inner
        out = self.conv2._replace(padding=(0, *self.conv2.padding[1:]))(padded)
        return self.norm(out, residual=x[:, : out.shape[1]])

    def __call__(self, x: Maps) -> Maps:
        # Intermediate results have no names, which would keep their memory until the end.
        bias = cast(Tensor, self.conv1.bias)
        return self.norm(self.conv2(bias_silu(self.conv1(x, with_bias=False), bias)), residual=x)


class _AttentionBlock(NamedTuple):
    """`EfficientViTBlock`."""

    qkv: Tensor
    spread: Float[Tensor, "125 channels"]
    mix: Float[Tensor, "groups 32 32"]
    proj: Tensor
    proj_norm: _Norm
    widen: Tensor
    widen_bias: Tensor
    local: Float[Tensor, "27 channels"]
    local_bias: Tensor
    narrow: Tensor
    narrow_norm: _Norm

    @classmethod
    def of(cls, block: EfficientViTBlock, device: torch.device, dtype: torch.dtype) -> _AttentionBlock:
        attention, convs = cast(Any, block.context_module.main), cast(Any, block.local_module.main)
        spread, mix = attention.aggreg[0]

        def matrix(conv: nn.Conv3d) -> Tensor:
            return conv.weight.detach().flatten(1).to(device, dtype)

        def taps(conv: nn.Conv3d) -> Tensor:
            return matrix(conv).t().contiguous()

        return cls(
            qkv=matrix(attention.qkv.conv),
            spread=taps(spread),
            mix=matrix(mix).unflatten(0, (-1, HEAD_SIZE)).transpose(1, 2).contiguous(),
            proj=matrix(attention.proj.conv),
            proj_norm=_Norm.of(attention.proj.norm, device, dtype),
            widen=matrix(convs.inverted_conv.conv),
            widen_bias=convs.inverted_conv.conv.bias.detach().to(device, dtype),
            local=taps(convs.depth_conv.conv),
            local_bias=convs.depth_conv.conv.bias.detach().to(device, dtype),
            narrow=matrix(convs.point_conv.conv),
            narrow_norm=_Norm.of(convs.point_conv.norm, device, dtype),
        )

    def __call__(self, x: Maps) -> Maps:
        x = self.proj_norm(F.linear(self._attend(x), self.proj), residual=x)
        inner = F.silu(F.linear(x, self.widen, self.widen_bias), inplace=True)
        gated = depthwise_conv(inner, self.local, self.local_bias, gated=True)
        del inner
        return self.narrow_norm(F.linear(gated, self.narrow), residual=x)

    def _attend(self, x: Maps) -> Maps:
        """Compute ReLU linear attention of the projections, and of the projections mixed over 5 x 5 x 5 positions."""
        b, t, h, w, _ = x.shape
        qkv = F.linear(x, self.qkv)
        spread = depthwise_conv(qkv, self.spread).view(b * t * h * w, -1, HEAD_SIZE).transpose(0, 1)
        mixed = torch.bmm(spread, self.mix).transpose(0, 1).reshape(qkv.shape)
        both = torch.cat([fast_relu_linear_attention(each.reshape(b, t * h * w, -1)) for each in (qkv, mixed)], dim=-1)
        return both.view(b, t, h, w, -1)


def fast_relu_linear_attention(
    qkv: Float[Tensor, "b n 3*heads*32"], eps: float = 1e-15
) -> Float[Tensor, "b n heads*32"]:
    """Compute `relu_linear_attention` of heads stored one after the other, each with 32 numbers of q, k and v.

    Like `relu_linear_attention`, it computes float16 in float32, because sums over all positions exceed the largest
    float16.
    """
    if qkv.dtype == torch.float16:
        return fast_relu_linear_attention(qkv.float(), eps).to(qkv.dtype)
    b, n, _ = qkv.shape
    q, k, v = qkv.view(b, n, -1, 3, HEAD_SIZE).permute(3, 0, 2, 1, 4).unbind()
    q, k = F.relu(q).flatten(0, 1), F.relu(k).flatten(0, 1)
    sums = torch.cat([torch.bmm(k.mT, v.flatten(0, 1)), k.sum(dim=1, dtype=torch.float32).to(k)[..., None]], dim=-1)
    # Fast matrix products need rows of a multiple of 16 bytes.
    attended = torch.bmm(q, F.pad(sums, (0, ALIGNED - 1))).float()
    out = attended[..., :HEAD_SIZE] / (attended[..., HEAD_SIZE, None] + eps)
    return out.to(qkv.dtype).unflatten(0, (b, -1)).transpose(1, 2).flatten(2)
