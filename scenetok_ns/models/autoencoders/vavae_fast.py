"""The encoder of VA-VAE laid out for inference: the same function of the same weights, up to rounding.

Channels are the last dimension, with which convolutions are fastest. Each group norm, the bias before it and the
activation after it are one kernel; otherwise group norms read memory channel by channel.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from scenetok_ns.models.ops.dispatch import add_with_bias, group_norm

Maps = Float[Tensor, "n h w c"]


class FastEncoder:
    """`network.quant_conv(network.encoder(x))` of diffusers' AutoencoderKL."""

    def __init__(self, network: Any, device: torch.device, dtype: torch.dtype) -> None:
        """Weights are copied to `device` in `dtype`."""
        encoder = network.encoder
        self.dtype = dtype

        def conv(layer: nn.Conv2d) -> _Conv:
            return _Conv.of(layer, device, dtype)

        self._conv_in = conv(encoder.conv_in)
        self._layers: list[Any] = []
        for block in encoder.down_blocks:
            attentions = list(getattr(block, "attentions", None) or [None] * len(block.resnets))
            for resnet, attention in zip(block.resnets, attentions, strict=True):
                self._layers.append(_Residual.of(resnet, device, dtype))
                self._add_attention(attention, device, dtype)
            for downsampler in block.downsamplers or []:
                self._layers.append(_Halving(conv(downsampler.conv)))
        middle = encoder.mid_block
        self._layers.append(_Residual.of(middle.resnets[0], device, dtype))
        for attention, resnet in zip(middle.attentions, middle.resnets[1:], strict=True):
            self._add_attention(attention, device, dtype)
            self._layers.append(_Residual.of(resnet, device, dtype))
        self._norm_out = _Norm.of(encoder.conv_norm_out, device, dtype)
        self._conv_out, self._quant = conv(encoder.conv_out), conv(network.quant_conv)

    def _add_attention(self, attention: Any, device: torch.device, dtype: torch.dtype) -> None:
        if attention is not None:  # the maps are small, so the module is used as it is
            self._layers.append(_Attention(copy.deepcopy(attention).to(device, dtype).eval()))

    def __call__(self, pixels: Float[Tensor, "n 3 height width"]) -> Float[Tensor, "n 2*c h w"]:
        x = self._conv_in(pixels.to(self.dtype).permute(0, 2, 3, 1).contiguous())
        for layer in self._layers:
            x = layer(x)
        return self._quant(self._conv_out(self._norm_out(x))).permute(0, 3, 1, 2)


class _Norm(NamedTuple):
    """A group norm and the SiLU after it."""

    weight: Tensor
    bias: Tensor
    groups: int
    eps: float

    @classmethod
    def of(cls, norm: nn.GroupNorm, device: torch.device, dtype: torch.dtype) -> _Norm:
        return cls(
            norm.weight.detach().to(device, dtype), norm.bias.detach().to(device, dtype), norm.num_groups, norm.eps
        )

    def __call__(self, x: Maps, before: Tensor | None = None) -> Maps:
        return group_norm(x, self.weight, self.bias, self.groups, self.eps, before, silu=True)


class _Conv(NamedTuple):
    weight: Tensor
    bias: Tensor
    stride: tuple[int, ...]
    padding: tuple[int, ...]

    @classmethod
    def of(cls, conv: Any, device: torch.device, dtype: torch.dtype) -> _Conv:
        weight = conv.weight.detach().to(device, dtype).contiguous(memory_format=torch.channels_last)
        return cls(weight, conv.bias.detach().to(device, dtype), conv.stride, conv.padding)

    def __call__(self, x: Maps, *, with_bias: bool = True) -> Maps:
        out = F.conv2d(x.permute(0, 3, 1, 2), self.weight, self.bias if with_bias else None, self.stride, self.padding)
        return out.permute(0, 2, 3, 1).contiguous()


class _Residual(NamedTuple):
    """`ResnetBlock2D` without time embedding."""

    norm1: _Norm
    conv1: _Conv
    norm2: _Norm
    conv2: _Conv
    shortcut: _Conv | None

    @classmethod
    def of(cls, block: Any, device: torch.device, dtype: torch.dtype) -> _Residual:
        shortcut = block.conv_shortcut
        return cls(
            norm1=_Norm.of(block.norm1, device, dtype),
            conv1=_Conv.of(block.conv1, device, dtype),
            norm2=_Norm.of(block.norm2, device, dtype),
            conv2=_Conv.of(block.conv2, device, dtype),
            shortcut=None if shortcut is None else _Conv.of(shortcut, device, dtype),
        )

    def __call__(self, x: Maps) -> Maps:
        inner = self.conv1(self.norm1(x), with_bias=False)
        inner = self.conv2(self.norm2(inner, before=self.conv1.bias), with_bias=False)
        return add_with_bias(x if self.shortcut is None else self.shortcut(x), inner, self.conv2.bias)


class _Halving(NamedTuple):
    """`Downsample2D`: pads a row and a column of zeros at the end, then convolves with stride 2."""

    conv: _Conv

    def __call__(self, x: Maps) -> Maps:
        return self.conv(F.pad(x, (0, 0, 0, 1, 0, 1)))


class _Attention(NamedTuple):
    module: nn.Module

    def __call__(self, x: Maps) -> Maps:
        return self.module(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).contiguous()
