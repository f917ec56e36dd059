"""The decoder of diffusers' AutoencoderKLWan, with its element-wise work in fewer passes over memory.

The modules and weights are the same; only the computation of some modules is replaced:

* Norms are one kernel that reads rows of channels. Diffusers' norms convert to float32 and read memory seven times.
* Convolutions apply their own spatial padding instead of working on a padded copy.
* Nearest-neighbour enlargement copies numbers without converting them to float32, and shortcuts copy rows of channels.
* Activations, which follow norms, overwrite the result of the norm.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scenetok_ns.models.ops.dispatch import norm_modulate

EPS = 1e-24
"""Epsilon of the norms. It keeps zeros zero, and changes nothing else."""


def speed_up(decoder: nn.Module) -> None:
    """Replace the computation of a decoder's modules by the faster one, in place."""
    from diffusers.models.autoencoders.autoencoder_kl_wan import DupUp3D, WanCausalConv3d, WanRMS_norm, WanUpsample

    for module in list(decoder.modules()):
        for name, child in list(module.named_children()):
            part: Any = child
            if isinstance(child, WanRMS_norm):
                setattr(module, name, _Norm(child))
            elif isinstance(child, nn.SiLU):
                setattr(module, name, nn.SiLU(inplace=True))
            elif isinstance(child, WanCausalConv3d):
                part.forward = partial(_convolve, child)
            elif isinstance(child, WanUpsample):
                part.forward = partial(F.interpolate, scale_factor=child.scale_factor, mode=child.mode)
            elif isinstance(child, DupUp3D) and child.in_channels in (child.out_channels, 2 * child.out_channels):
                part.forward = partial(_duplicate, child)


class _Norm(nn.Module):
    """x / rms(x) * gamma + bias over the channels, which are dimension 1."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight = norm.gamma.detach().flatten()
        self.bias = norm.bias.detach().flatten() if isinstance(norm.bias, Tensor) else torch.zeros_like(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return norm_modulate(x.movedim(1, -1).contiguous(), self.weight, self.bias, EPS).movedim(-1, 1)


def _convolve(conv: Any, x: Tensor, cache_x: Tensor | None = None) -> Tensor:
    """`WanCausalConv3d.forward`. The frames that it needs before `x` come from the cache, or are zeros."""
    columns, _, rows, _, before, _ = conv._padding
    if cache_x is not None and before > 0:
        x = torch.cat([cache_x, x], dim=2)
        before -= cache_x.shape[2]
    if before > 0:
        x = F.pad(x, (0, 0, 0, 0, before, 0))
    return F.conv3d(x, conv.weight, conv.bias, conv.stride, (0, rows, columns))


def _duplicate(up: Any, x: Tensor, first_chunk: bool = False) -> Tensor:
    """`DupUp3D.forward` for as many input as output channels, or twice as many.

    In the first case, each channel is copied to all new positions. In the second, two channels share the positions: the
    even one gets the first half of the frames, or of the rows if the number of frames stays the same.
    """
    t, s, out = up.factor_t, up.factor_s, up.out_channels
    rows = x.movedim(1, -1)
    b, frames, h, w, channels = rows.shape
    if channels == out:
        parts = rows[:, :, None, :, None, :, None]
    else:
        even, odd = rows.unflatten(-1, (out, 2)).unbind(-1)
        parts = (
            torch.stack([even, odd], dim=2)[:, :, :, :, None] if t == 2 else torch.stack([even, odd], dim=3)[:, :, None]
        )
        parts = parts[..., None, :]
    large = parts.expand(b, frames, t, h, s, w, s, out).reshape(b, frames * t, h * s, w * s, out).movedim(-1, 1)
    return large[:, :, t - 1 :] if first_chunk else large
