"""Triton kernels around matrix products of few rows, for which cuDNN and cuBLAS use only half of a GPU.

dispatch.py calls them. They are faster because they do other work along with the product (norm and rotation of queries;
gate and residual sum), for which a separate kernel would have to wait for the product.
"""

from __future__ import annotations

import math
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from scenetok_ns.models.ops.rope import RotaryTable

FEW_KEYS = 1024
"""Maximum number of keys for `attend_triton`; it was measured with 512."""
ROWS = 64
"""Number of queries per program of `attend_triton`. Fewer queries, with two programs per processor, were slower on an
H100."""
BLOCKS = ((128, 4), (64, 3), (64, 2), (32, 2))
"""Number of keys in a block, and of blocks in flight, best first (10.1, 10.7 and 11 us for 512 keys on an H100; 8 warps
and larger blocks were slower). GPUs differ in how much they can hold."""
EVERY_GPUS_SHARED_MEMORY = 48 * 1024
TILE, DEPTH, IN_FLIGHT = 64, 128, 4
"""Number of output rows and columns per program of `linear_gated_triton`, number of terms of the sum that it loads at a
time, and number of such loads in flight."""


def attend_triton(
    q: Tensor, weight: Tensor | None, rotary: RotaryTable | None, keys: Tensor, values: Tensor, eps: float
) -> Tensor:
    b, n, heads, d = q.shape
    num_keys = keys.shape[2]
    block, in_flight = _block_of_keys(d, q.device)
    out = q.new_empty(b, n, heads, d)
    cos, sin = (q, q) if rotary is None else rotary  # never read without a rotation
    _attend_kernel[(triton.cdiv(n, ROWS), b * heads)](
        q,
        q if weight is None else weight,
        cos,
        sin,
        keys,
        values,
        out,
        n,
        num_keys,
        heads,
        *q.stride()[:2],
        *keys.stride()[:3],
        *values.stride()[:3],
        math.log2(math.e) / math.sqrt(d),
        eps,
        D=d,
        ROWS=ROWS,
        KEYS=block,
        NORM=weight is not None,
        ROTARY=rotary is not None,
        EVEN=num_keys % block == 0,
        num_warps=4,
        num_stages=in_flight,
    )
    return out


@cache
def _shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that a program may use. For torch 2.6, which does not report them, those of any GPU."""
    properties = torch.cuda.get_device_properties(device)
    return int(getattr(properties, "shared_memory_per_block_optin", EVERY_GPUS_SHARED_MEMORY))


def _block_of_keys(d: int, device: torch.device) -> tuple[int, int]:
    """Best of `BLOCKS` whose keys and values of `d` two-byte numbers fit into shared memory, with the queries."""
    fitting = (size for size in BLOCKS if 4 * d * size[0] * size[1] + 2 * d * ROWS <= _shared_memory(device))
    return next(fitting, BLOCKS[-1])


def suits_attend(q: Tensor, keys: Tensor) -> bool:
    """Whether `attend_triton` accepts these sizes, with a processor for each of its programs. If programs have to wait,
    cuDNN or flash-attn are faster."""
    b, n, heads, d = q.shape
    taken = d in (16, 32, 64, 128) and keys.shape[2] <= FEW_KEYS and q.stride(2) == d
    return taken and triton.cdiv(n, ROWS) * b * heads <= _processors(q.device)


def suits_linear_gated(rows: int, columns: int, inner: int, device: torch.device) -> bool:
    """Whether `linear_gated_triton` accepts these sizes, with a processor for each of its programs. Otherwise the
    library's product and a separate kernel are faster."""
    aligned = rows % TILE == 0 and columns % TILE == 0 and inner % DEPTH == 0
    held = _shared_memory(device) >= 2 * (TILE + TILE) * DEPTH * IN_FLIGHT
    return aligned and held and rows * columns // TILE**2 <= _processors(device)


@cache
def _processors(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def linear_gated_triton(
    x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor, gate: Tensor, layout: tuple[int, int, int, int]
) -> Tensor:
    columns, inner = weight.shape
    out = torch.empty_like(residual)
    _linear_gated_kernel[(x.numel() // inner // TILE, columns // TILE)](
        x,
        weight,
        bias,
        residual,
        gate,
        out,
        columns,
        inner,
        *layout,
        TILE=TILE,
        DEPTH=DEPTH,
        num_warps=4,
        num_stages=IN_FLIGHT,
    )
    return out


@triton.jit
def _attend_kernel(
    q,
    weight,
    cos,
    sin,
    keys,
    values,
    out,
    n,
    num_keys,
    heads,
    q_b,
    q_n,
    k_b,
    k_h,
    k_n,
    v_b,
    v_h,
    v_n,
    scale,
    eps,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    NORM: tl.constexpr,
    ROTARY: tl.constexpr,
    EVEN: tl.constexpr,
):
    """Attend to blocks of keys with a running maximum. The softmax uses powers of 2."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    element, head = (tl.program_id(1) // heads).to(tl.int64), tl.program_id(1) % heads
    column = tl.arange(0, D)[None, :]
    inside = row < n
    x = tl.load(q + element * q_b + row * q_n + head * D + column, mask=inside, other=0.0)
    if NORM or ROTARY:
        x = x.to(tl.float32)
        if NORM:
            factor = tl.rsqrt(tl.sum(x * x, axis=1) / D + eps)[:, None]
            x = x * factor * tl.load(weight + head * D + column).to(tl.float32)
        if ROTARY:
            angle = row * D + 2 * tl.arange(0, D // 2)[None, :]  # both dimensions of a pair have one angle
            c, s = tl.load(cos + angle, mask=inside, other=0.0), tl.load(sin + angle, mask=inside, other=0.0)
            even, odd = tl.split(tl.reshape(x, (ROWS, D // 2, 2)))
            x = tl.reshape(tl.join(even * c - odd * s, odd * c + even * s), (ROWS, D))
    queries = x.to(out.dtype.element_ty)
    keys += element * k_b + head * k_h + tl.arange(0, D)[:, None]
    values += element * v_b + head * v_h + column
    highest = tl.full((ROWS,), -float("inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    mixed = tl.zeros((ROWS, D), tl.float32)
    for first in range(0, num_keys, KEYS):
        key = first + tl.arange(0, KEYS)
        if EVEN:
            scores = tl.dot(queries, tl.load(keys + key[None, :] * k_n))
            value = tl.load(values + key[:, None] * v_n)
        else:
            scores = tl.dot(queries, tl.load(keys + key[None, :] * k_n, mask=key[None, :] < num_keys, other=0.0))
            scores = tl.where(key[None, :] < num_keys, scores, -float("inf"))
            value = tl.load(values + key[:, None] * v_n, mask=key[:, None] < num_keys, other=0.0)
        higher = tl.maximum(highest, tl.max(scores, axis=1) * scale)
        share = tl.exp2(scores * scale - higher[:, None])
        fade = tl.exp2(highest - higher)
        total = total * fade + tl.sum(share, axis=1)
        mixed = tl.dot(share.to(value.dtype), value, mixed * fade[:, None])
        highest = higher
    place = out + ((element * n + row) * heads + head) * D + column
    tl.store(place, (mixed / total[:, None]).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _linear_gated_kernel(
    x,
    weight,
    bias,
    residual,
    gate,
    out,
    columns,
    inner,
    inner_rows,
    inner_stride,
    outer_rows,
    outer_stride,
    TILE: tl.constexpr,
    DEPTH: tl.constexpr,
):
    row = (tl.program_id(0) * TILE + tl.arange(0, TILE)).to(tl.int64)[:, None]
    column = tl.program_id(1) * TILE + tl.arange(0, TILE)[None, :]
    depth = tl.arange(0, DEPTH)
    left = x + row * inner + depth[None, :]
    right = weight + column.to(tl.int64) * inner + depth[:, None]
    total = tl.zeros((TILE, TILE), tl.float32)
    for first in range(0, inner, DEPTH):
        total = tl.dot(tl.load(left + first), tl.load(right + first), total)
    total += tl.load(bias + column).to(tl.float32)
    modulated = (row % inner_rows) * inner_stride + ((row // inner_rows) % outer_rows) * outer_stride + column
    total *= tl.load(gate + modulated).to(tl.float32)
    total += tl.load(residual + row * columns + column).to(tl.float32)
    tl.store(out + row * columns + column, total.to(out.dtype.element_ty))
