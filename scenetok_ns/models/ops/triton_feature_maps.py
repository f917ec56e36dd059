"""Triton kernels of the autoencoders, for maps with channels last. dispatch.py calls them."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

COLUMNS = 4
"""Number of neighbouring columns that a thread of `_depthwise_conv_kernel` works on. The kernel's code is for 4."""
GROUPS, CHANNELS, WARPS = 16, 64, 4
"""Number of groups of columns, channels and warps of a program of `_depthwise_conv_kernel`."""


PROGRAMS = 4 * 132
"""Number of programs that keeps a large GPU busy."""


def depthwise_conv_triton(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gated: bool,
    *,
    groups: int = GROUPS,
    block: int = CHANNELS,
    warps: int = WARPS,
) -> Tensor:
    b, t, h, w, channels = x.shape
    side = round(len(weight) ** (1 / 3))
    if side not in (3, 5):
        raise ValueError(f"depthwise_conv: expected a kernel of 3 or 5 taps a side, got one of {len(weight)} taps")
    width = channels // 2 if gated else channels
    out = x.new_empty(b, t, h, w, width)
    count = b * t * h * triton.cdiv(w, COLUMNS)
    _depthwise_conv_kernel[(triton.cdiv(count, groups), triton.cdiv(width, block))](
        x,
        weight,
        weight if bias is None else bias,  # never read without one
        out,
        count,
        t,
        h,
        w,
        channels,
        width,
        SIDE=side,
        GROUPS=groups,
        BLOCK=block,
        BIAS=bias is not None,
        GATED=gated,
        num_warps=warps,
    )
    return out


def join_phases_triton(computed: Tensor, x: Tensor, bias: Tensor, fold: tuple[int, int, int]) -> Tensor:
    b, t, h, w, channels = x.shape
    phases = fold[0] * fold[1] * fold[2]
    width = computed.shape[-1] // phases
    out = x.new_empty(b, t * fold[0], h * fold[1], w * fold[2], width)
    count = b * t * h * w
    block = min(128, triton.next_power_of_2(width))
    rows = 2048 // block
    step = channels // width if phases > 1 and channels in (width, 2 * width) else 0
    _join_phases_kernel[(triton.cdiv(count, rows), triton.cdiv(width, block))](
        computed,
        x,
        bias,
        out,
        count,
        t,
        h,
        w,
        channels,
        width,
        FT=fold[0],
        FH=fold[1],
        FW=fold[2],
        STEP=step,
        ROWS=rows,
        BLOCK=block,
        num_warps=4,
    )
    return out


def group_norm_triton(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, before: Tensor | None, silu: bool
) -> Tensor:
    """Sum each channel over stretches of positions, compute a factor and an offset per channel, and apply them."""
    n, channels = x.shape[0], x.shape[-1]
    positions = x.numel() // (n * channels)
    block = triton.next_power_of_2(channels)
    rows = max(1, 4096 // block)
    stretch = rows
    while stretch < 256 and n * positions > 2 * stretch * PROGRAMS:
        stretch *= 2
    stretches = triton.cdiv(positions, stretch)
    sums = x.new_empty(n, stretches, 2, channels, dtype=torch.float32)
    added = weight if before is None else before  # never read without one
    _channel_sums_kernel[(n, stretches)](
        x,
        added,
        sums,
        positions,
        channels,
        STRETCH=stretch,
        ROWS=rows,
        BLOCK=block,
        BEFORE=before is not None,
        num_warps=8,
    )
    factors = x.new_empty(2, n, channels, dtype=torch.float32)
    _channel_factors_kernel[(n, groups)](
        sums,
        weight,
        bias,
        added,
        factors,
        stretches,
        channels,
        positions,
        eps,
        GROUP=channels // groups,
        BLOCK=triton.next_power_of_2(channels // groups),
        ROWS=128,
        BEFORE=before is not None,
        num_warps=4,
    )
    out = torch.empty_like(x)
    count = positions * channels
    _scale_shift_kernel[(triton.cdiv(count, 2048), n)](
        x, factors, out, count, channels, BLOCK=2048, SILU=silu, num_warps=4
    )
    return out


@triton.jit
def _sums(
    x,
    weight,
    channel,
    channels,
    line,
    frame,
    row,
    column,
    inside,
    right,
    t,
    h,
    w,
    SIDE: tl.constexpr,
    GROUPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Compute the sums of four neighbouring columns. Each x is loaded once for all taps of a row."""
    a0 = tl.zeros((GROUPS, BLOCK), tl.float32)
    a1 = tl.zeros((GROUPS, BLOCK), tl.float32)
    a2 = tl.zeros((GROUPS, BLOCK), tl.float32)
    a3 = tl.zeros((GROUPS, BLOCK), tl.float32)
    half: tl.constexpr = SIDE // 2
    for tap_row in range(0, SIDE * SIDE):
        dt, dy = tap_row // SIDE - half, tap_row % SIDE - half
        there = inside & (frame + dt >= 0) & (frame + dt < t) & (row + dy >= 0) & (row + dy < h)
        source = x + ((line + dt * h + dy).to(tl.int64) * w + column - half) * channels + channel
        first = column - half
        taps = weight + tap_row * SIDE * channels + channel
        w0 = tl.load(taps, mask=right, other=0.0).to(tl.float32)
        w1 = tl.load(taps + channels, mask=right, other=0.0).to(tl.float32)
        w2 = tl.load(taps + 2 * channels, mask=right, other=0.0).to(tl.float32)
        x0 = tl.load(source, mask=there & (first >= 0) & (first < w), other=0.0).to(tl.float32)
        x1 = tl.load(source + channels, mask=there & (first + 1 >= 0) & (first + 1 < w), other=0.0).to(tl.float32)
        x2 = tl.load(source + 2 * channels, mask=there & (first + 2 < w), other=0.0).to(tl.float32)
        x3 = tl.load(source + 3 * channels, mask=there & (first + 3 < w), other=0.0).to(tl.float32)
        x4 = tl.load(source + 4 * channels, mask=there & (first + 4 < w), other=0.0).to(tl.float32)
        x5 = tl.load(source + 5 * channels, mask=there & (first + 5 < w), other=0.0).to(tl.float32)
        a0 += w0 * x0 + w1 * x1 + w2 * x2
        a1 += w0 * x1 + w1 * x2 + w2 * x3
        a2 += w0 * x2 + w1 * x3 + w2 * x4
        a3 += w0 * x3 + w1 * x4 + w2 * x5
        if SIDE == 5:
            w3 = tl.load(taps + 3 * channels, mask=right, other=0.0).to(tl.float32)
            w4 = tl.load(taps + 4 * channels, mask=right, other=0.0).to(tl.float32)
            x6 = tl.load(source + 6 * channels, mask=there & (first + 6 < w), other=0.0).to(tl.float32)
            x7 = tl.load(source + 7 * channels, mask=there & (first + 7 < w), other=0.0).to(tl.float32)
            a0 += w3 * x3 + w4 * x4
            a1 += w3 * x4 + w4 * x5
            a2 += w3 * x5 + w4 * x6
            a3 += w3 * x6 + w4 * x7
    return a0, a1, a2, a3


@triton.jit
def _depthwise_conv_kernel(
    x,
    weight,
    bias,
    out,
    count,
    t,
    h,
    w,
    channels,
    width,
    SIDE: tl.constexpr,
    GROUPS: tl.constexpr,
    BLOCK: tl.constexpr,
    BIAS: tl.constexpr,
    GATED: tl.constexpr,
):
    groups_in_line = (w + 3) // 4
    group = tl.program_id(0) * GROUPS + tl.arange(0, GROUPS)[:, None]
    line = group // groups_in_line  # line of one batch element, frame and row
    column = group % groups_in_line * 4
    frame, row = (line // h) % t, line % h
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    right = channel < width
    inside = right & (group < count)
    a0, a1, a2, a3 = _sums(
        x, weight, channel, channels, line, frame, row, column, inside, right, t, h, w, SIDE, GROUPS, BLOCK
    )
    if BIAS:
        added = tl.load(bias + channel, mask=right, other=0.0).to(tl.float32)
        a0 += added
        a1 += added
        a2 += added
        a3 += added
    if GATED:
        g0, g1, g2, g3 = _sums(
            x, weight, channel + width, channels, line, frame, row, column, inside, right, t, h, w, SIDE, GROUPS, BLOCK
        )
        if BIAS:
            added = tl.load(bias + channel + width, mask=right, other=0.0).to(tl.float32)
            g0 += added
            g1 += added
            g2 += added
            g3 += added
        a0 *= g0 * tl.sigmoid(g0)
        a1 *= g1 * tl.sigmoid(g1)
        a2 *= g2 * tl.sigmoid(g2)
        a3 *= g3 * tl.sigmoid(g3)
    place = out + (line.to(tl.int64) * w + column) * width + channel
    kind = out.dtype.element_ty
    tl.store(place, a0.to(kind), mask=inside & (column < w))
    tl.store(place + width, a1.to(kind), mask=inside & (column + 1 < w))
    tl.store(place + 2 * width, a2.to(kind), mask=inside & (column + 2 < w))
    tl.store(place + 3 * width, a3.to(kind), mask=inside & (column + 3 < w))


@triton.jit
def _join_phases_kernel(
    computed,
    x,
    bias,
    out,
    count,
    t,
    h,
    w,
    channels,
    width,
    FT: tl.constexpr,
    FH: tl.constexpr,
    FW: tl.constexpr,
    STEP: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """STEP is the number of channels of x per channel of the result if it is 1 or 2; these are loaded once for all
    phases. 0 stands for any other ratio."""
    phases: tl.constexpr = FT * FH * FW
    position = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    mask = (position < count) & (channel < width)
    column, row = position % w, position // w % h
    frame, element = position // (w * h) % t, position // (w * h * t)
    own = x + position.to(tl.int64) * channels
    added = tl.load(bias + channel, mask=channel < width, other=0.0).to(tl.float32)
    if STEP == 1:
        first = tl.load(own + channel, mask=mask, other=0.0).to(tl.float32) + added
        second = first
    elif STEP == 2:
        pair = tl.program_id(1) * 2 * BLOCK + tl.arange(0, 2 * BLOCK)[None, :]
        both = tl.load(own + pair, mask=(position < count) & (pair < channels), other=0.0).to(tl.float32)
        first, second = tl.split(tl.reshape(both, (ROWS, BLOCK, 2)))
        first += added
        second += added
    for phase in tl.static_range(0, phases):
        dt = phase // (FH * FW)
        dy = phase // FW % FH
        dx = phase % FW
        # On a doubled axis, `computed` has one more position than `x`.
        line = ((element * (t + FT - 1) + frame + dt) * (h + FH - 1) + row + dy).to(tl.int64)
        source = computed + ((line * (w + FW - 1) + column + dx) * phases + phase) * width + channel
        values = tl.load(source, mask=mask, other=0.0).to(tl.float32)
        if STEP == 0:
            shortcut = (channel * phases + phase) * channels // (width * phases)
            values += tl.load(own + shortcut, mask=mask, other=0.0).to(tl.float32) + added
        elif phase < phases // 2:
            values += first
        else:
            values += second
        line = ((element * t + frame) * FT + dt) * (h * FH) + row * FH + dy
        place = out + ((line.to(tl.int64) * w + column) * FW + dx) * width + channel
        tl.store(place, values.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _channel_sums_kernel(
    x,
    before,
    sums,
    positions,
    channels,
    STRETCH: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    BEFORE: tl.constexpr,
):
    image, stretch = tl.program_id(0).to(tl.int64), tl.program_id(1)
    column = tl.arange(0, BLOCK)[None, :]
    plain = tl.zeros((ROWS, BLOCK), tl.float32)
    squared = tl.zeros((ROWS, BLOCK), tl.float32)
    for first in range(0, STRETCH, ROWS):
        row = stretch * STRETCH + first + tl.arange(0, ROWS)[:, None]
        mask = (row < positions) & (column < channels)
        values = tl.load(x + (image * positions + row) * channels + column, mask=mask, other=0.0).to(tl.float32)
        if BEFORE:
            added = tl.load(before + column, mask=column < channels, other=0.0).to(tl.float32)
            values = tl.where(mask, values + added, 0.0)
        plain += values
        squared += values * values
    place = sums + ((image * tl.num_programs(1) + stretch) * 2) * channels + tl.arange(0, BLOCK)
    inside = tl.arange(0, BLOCK) < channels
    tl.store(place, tl.sum(plain, axis=0), mask=inside)
    tl.store(place + channels, tl.sum(squared, axis=0), mask=inside)


@triton.jit
def _channel_factors_kernel(
    sums,
    weight,
    bias,
    before,
    factors,
    stretches,
    channels,
    positions,
    eps,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    BEFORE: tl.constexpr,
):
    """Compute the factors of all channels of an image, followed by their offsets."""
    image, group = tl.program_id(0), tl.program_id(1)
    own = tl.arange(0, BLOCK) < GROUP
    channel = group * GROUP + tl.arange(0, BLOCK)
    plain = tl.zeros((ROWS, BLOCK), tl.float32)
    squared = tl.zeros((ROWS, BLOCK), tl.float32)
    for first in range(0, stretches, ROWS):
        row = first + tl.arange(0, ROWS)[:, None]
        place = sums + (image * stretches + row) * 2 * channels + channel[None, :]
        mask = (row < stretches) & own[None, :]
        plain += tl.load(place, mask=mask, other=0.0)
        squared += tl.load(place + channels, mask=mask, other=0.0)
    number = positions * GROUP
    mean = tl.sum(tl.sum(plain, axis=0), axis=0) / number
    # If a group is nearly constant, rounding can make the difference negative, and its root NaN.
    variance = tl.maximum(tl.sum(tl.sum(squared, axis=0), axis=0) / number - mean * mean, 0.0)
    scale = tl.rsqrt(variance + eps) * tl.load(weight + channel, mask=own, other=0.0).to(tl.float32)
    offset = tl.load(bias + channel, mask=own, other=0.0).to(tl.float32) - mean * scale
    if BEFORE:
        offset += tl.load(before + channel, mask=own, other=0.0).to(tl.float32) * scale
    place = factors + image * channels + channel
    tl.store(place, scale, mask=own)
    tl.store(place + tl.num_programs(0) * channels, offset, mask=own)


@triton.jit
def _scale_shift_kernel(x, factors, out, count, channels, BLOCK: tl.constexpr, SILU: tl.constexpr):
    image = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = place < count
    column = image * channels + place % channels
    values = tl.load(x + image * count + place, mask=mask, other=0.0).to(tl.float32)
    factor = tl.load(factors + column, mask=mask, other=0.0)
    values = values * factor + tl.load(factors + tl.num_programs(1) * channels + column, mask=mask, other=0.0)
    if SILU:
        values = values * tl.sigmoid(values)
    tl.store(out + image * count + place, values.to(out.dtype.element_ty), mask=mask)
