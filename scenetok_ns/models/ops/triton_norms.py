"""Triton kernels of norms, modulations, gates and other element-wise work. dispatch.py calls them."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from scenetok_ns.models.ops.rope import RotaryTable

ELEMENTS = 4096
"""Approximate number of values per program, which 4 to 8 warps can hold in registers."""


def norm_modulate_triton(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    layout: tuple[int, int, int, int],
    eps: float,
    residual: Tensor | None,
    out: Tensor | None,
) -> Tensor:
    dim = x.shape[-1]
    rows = x.numel() // dim
    out = torch.empty_like(x, memory_format=torch.contiguous_format) if out is None else out
    block = triton.next_power_of_2(dim)
    together = max(1, min(16, ELEMENTS // block))
    if rows < 132 * 4 * together:  # with few rows, spread them over all processors
        together = max(1, rows // (132 * 4))
        together = 1 << (together.bit_length() - 1)
    _norm_modulate_kernel[(triton.cdiv(rows, together),)](
        x,
        scale,
        shift,
        x if residual is None else residual,
        out,
        rows,
        dim,
        *layout,
        eps,
        ROWS=together,
        BLOCK=block,
        RESIDUAL=residual is not None,
        num_warps=4 if together * block <= 2048 else 8,
    )
    return out


def gated_residual_triton(x: Tensor, gate: Tensor, y: Tensor, layout: tuple[int, int, int, int]) -> Tensor:
    out, dim = torch.empty_like(x), x.shape[-1]
    grid = (x.numel() // dim, triton.cdiv(dim, 1024))
    _gated_residual_kernel[grid](x, gate, y, out, dim, *layout, BLOCK=1024, num_warps=4)
    return out


def residual_norm_triton(
    x: Tensor,
    y: Tensor,
    gate: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    layout: tuple[int, int, int, int],
    eps: float,
) -> tuple[Tensor, Tensor]:
    total, out, dim = torch.empty_like(x), torch.empty_like(x), x.shape[-1]
    _residual_norm_kernel[(x.numel() // dim,)](
        x,
        y,
        scale if gate is None else gate,  # never read without one
        scale,
        shift,
        total,
        out,
        dim,
        *layout,
        eps,
        BLOCK=triton.next_power_of_2(dim),
        GATE=gate is not None,
        num_warps=4,
    )
    return total, out


def norm_rotate_triton(x: Tensor, weight: Tensor | None, rotary: RotaryTable | None, eps: float) -> Tensor:
    b, n, heads, d = x.shape
    out = x.new_empty(b, n, heads, d)
    cos, sin = (x, x) if rotary is None else rotary  # never read without a rotation
    block = triton.next_power_of_2(d)
    together = max(1, ELEMENTS // 2 // block)
    _norm_rotate_kernel[(triton.cdiv(b * n * heads, together),)](
        x,
        x if weight is None else weight,
        cos,
        sin,
        out,
        b * n * heads,
        n,
        heads,
        d,
        x.stride(0),
        x.stride(1),
        eps,
        ROWS=together,
        BLOCK=block,
        NORM=weight is not None,
        ROTARY=rotary is not None,
        num_warps=4,
    )
    return out.transpose(1, 2)


def silu_product_triton(x: Tensor) -> Tensor:
    dim = x.shape[-1] // 2
    out = x.new_empty(*x.shape[:-1], dim)
    _silu_product_kernel[(x.numel() // (2 * dim), triton.cdiv(dim, 1024))](x, out, dim, BLOCK=1024, num_warps=4)
    return out


def bias_silu_triton(x: Tensor, bias: Tensor, out: Tensor | None) -> Tensor:
    out = torch.empty_like(x) if out is None else out
    count = x.numel()
    _bias_silu_kernel[(triton.cdiv(count, 2048),)](x, bias, out, count, x.shape[-1], BLOCK=2048, num_warps=4)
    return out


def add_with_bias_triton(x: Tensor, y: Tensor, bias: Tensor) -> Tensor:
    out = torch.empty_like(x)
    count = x.numel()
    _add_with_bias_kernel[(triton.cdiv(count, 2048),)](x, y, bias, out, count, x.shape[-1], BLOCK=2048, num_warps=4)
    return out


@triton.jit
def _norm_modulate_kernel(
    x,
    scale,
    shift,
    residual,
    out,
    rows,
    dim,
    inner_rows,
    inner_stride,
    outer_rows,
    outer_stride,
    eps,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    RESIDUAL: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    mask = (row < rows) & (column < dim)
    place = row.to(tl.int64) * dim + column
    values = tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
    inverse = tl.rsqrt(tl.sum(values * values, axis=1) / dim + eps)[:, None]
    modulated = (row % inner_rows).to(tl.int64) * inner_stride + column
    modulated += ((row // inner_rows) % outer_rows).to(tl.int64) * outer_stride
    result = values * inverse * tl.load(scale + modulated, mask=mask, other=0.0).to(tl.float32)
    result += tl.load(shift + modulated, mask=mask, other=0.0).to(tl.float32)
    if RESIDUAL:
        result += tl.load(residual + place, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + place, result.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _gated_residual_kernel(
    x, gate, y, out, dim, inner_rows, inner_stride, outer_rows, outer_stride, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = column < dim
    place = row * dim + column
    modulated = (row % inner_rows) * inner_stride + ((row // inner_rows) % outer_rows) * outer_stride + column
    total = tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
    added = tl.load(y + place, mask=mask, other=0.0).to(tl.float32)
    total += tl.load(gate + modulated, mask=mask, other=0.0).to(tl.float32) * added
    tl.store(out + place, total.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _residual_norm_kernel(
    x,
    y,
    gate,
    scale,
    shift,
    total_out,
    out,
    dim,
    inner_rows,
    inner_stride,
    outer_rows,
    outer_stride,
    eps,
    BLOCK: tl.constexpr,
    GATE: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    mask = column < dim
    place = row * dim + column
    modulated = (row % inner_rows) * inner_stride + ((row // inner_rows) % outer_rows) * outer_stride + column
    added = tl.load(y + place, mask=mask, other=0.0).to(tl.float32)
    if GATE:
        added = added * tl.load(gate + modulated, mask=mask, other=0.0).to(tl.float32)
    total = tl.load(x + place, mask=mask, other=0.0).to(tl.float32) + added
    rounded = total.to(total_out.dtype.element_ty)
    tl.store(total_out + place, rounded, mask=mask)
    total = rounded.to(tl.float32)  # the next residual sum starts from this value
    result = total * tl.rsqrt(tl.sum(total * total, axis=0) / dim + eps)
    result = result * tl.load(scale + modulated, mask=mask, other=0.0).to(tl.float32)
    result += tl.load(shift + modulated, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + place, result.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _norm_rotate_kernel(
    x,
    weight,
    cos,
    sin,
    out,
    rows,
    n,
    heads,
    d,
    stride_b,
    stride_n,
    eps,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    NORM: tl.constexpr,
    ROTARY: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]  # each row is a head of a token
    token, head = row // heads, row % heads
    position = token % n
    column = tl.arange(0, BLOCK)[None, :]
    mask = (row < rows) & (column < d)
    start = x + (token // n).to(tl.int64) * stride_b + position * stride_n + head * d
    result = tl.load(start + column, mask=mask, other=0.0).to(tl.float32)
    if NORM:
        result *= tl.rsqrt(tl.sum(result * result, axis=1) / d + eps)[:, None]
        result *= tl.load(weight + head * d + column, mask=mask, other=0.0).to(tl.float32)
    if ROTARY:
        pair = 2 * tl.arange(0, BLOCK // 2)[None, :]  # both dimensions of a pair have one angle
        angle, inside = position * d + pair, (row < rows) & (pair < d)
        cosine, sine = tl.load(cos + angle, mask=inside, other=0.0), tl.load(sin + angle, mask=inside, other=0.0)
        even, odd = tl.split(tl.reshape(result, (ROWS, BLOCK // 2, 2)))
        result = tl.reshape(tl.join(even * cosine - odd * sine, odd * cosine + even * sine), (ROWS, BLOCK))
    tl.store(out + row.to(tl.int64) * d + column, result.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _silu_product_kernel(x, out, dim, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = column < dim
    u = tl.load(x + row * 2 * dim + column, mask=mask, other=0.0).to(tl.float32)
    w = tl.load(x + row * 2 * dim + dim + column, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + row * dim + column, (u * tl.sigmoid(u) * w).to(out.dtype.element_ty), mask=mask)


@triton.jit
def _bias_silu_kernel(x, bias, out, count, dim, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = place < count
    values = tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
    values += tl.load(bias + place % dim, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + place, (values * tl.sigmoid(values)).to(out.dtype.element_ty), mask=mask)


@triton.jit
def _add_with_bias_kernel(x, y, bias, out, count, dim, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = place < count
    values = tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
    values += tl.load(y + place, mask=mask, other=0.0).to(tl.float32)
    values += tl.load(bias + place % dim, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + place, values.to(out.dtype.element_ty), mask=mask)
