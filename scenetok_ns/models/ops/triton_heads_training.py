"""Triton kernels of the fused blocks in attention and feed-forward: norms and rotations of heads, SiLU products.

Kernels that compute gradients run a fixed number of programs that iterate over the rows. Each program adds up its share
of the gradients of biases and norm weights in a row of sums; these rows are added once for a whole block. The next
STAGES rows are loaded while a program works on one. Numbers are computed in float32 and rounded once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from scenetok_ns.models.ops.rope import RotaryTable
from scenetok_ns.models.ops.triton_norms_training import STAGES


def norm_rotate_triton_(
    x: Tensor, weights: tuple[Tensor, ...] | None, rotary: RotaryTable | None, eps: float
) -> Tensor | None:
    b, n, parts, count, d = x.shape
    changed = max(1, parts - 1)
    inverse = x if weights is None else x.new_empty(changed, b, n, count, dtype=torch.float32)
    cos, sin = (x, x) if rotary is None else rotary
    given = (x,) if weights is None else weights
    _norm_rotate_kernel[(b * n, changed)](
        x,
        given[0],
        given[-1],
        cos,
        sin,
        inverse,
        n,
        count,
        x.stride(1),
        eps,
        HEADS=triton.next_power_of_2(count),
        DIM=d,
        NORM=weights is not None,
        ROTARY=rotary is not None,
        num_warps=4,
    )
    return None if weights is None else inverse


@triton.jit
def _norm_rotate_kernel(
    x,
    weight,
    second_weight,
    cos,
    sin,
    inverse,
    n,
    count,
    stride,
    eps,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    NORM: tl.constexpr,
    ROTARY: tl.constexpr,
):
    """Normalise and rotate each head in place. Rows are `stride` apart; queries and keys lie side by side in a row."""
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    if part == 1:
        weight = second_weight
    head = tl.arange(0, HEADS)[:, None]
    mask = (head < count) & (tl.arange(0, DIM)[None, :] >= 0)
    place = x + row * stride + part * count * DIM + head * DIM + tl.arange(0, DIM)[None, :]
    values = tl.load(place, mask=mask, other=0.0).to(tl.float32)
    if NORM:
        root = tl.rsqrt(tl.sum(values * values, axis=1) / DIM + eps)
        norms = inverse + (part * tl.num_programs(0) + row) * count + tl.arange(0, HEADS)
        tl.store(norms, root, mask=tl.arange(0, HEADS) < count)
        values = values * root[:, None] * tl.load(weight + tl.arange(0, DIM))[None, :]
    if ROTARY:
        even, odd = tl.split(tl.reshape(values, (HEADS, DIM // 2, 2)))
        angle = (row % n) * DIM + 2 * tl.arange(0, DIM // 2)  # both dimensions of a pair have one angle
        cosine, sine = tl.load(cos + angle)[None, :], tl.load(sin + angle)[None, :]
        turned = tl.join(even * cosine - odd * sine, odd * cosine + even * sine)
        values = tl.reshape(turned, (HEADS, DIM))
    tl.store(place, values.to(x.dtype.element_ty), mask=mask)


def norm_rotate_backward_triton(
    gradients: tuple[Tensor, ...],
    result: Tensor,
    weights: tuple[Tensor, ...] | None,
    rotary: RotaryTable | None,
    inverse: Tensor | None,
    sums: Tensor,
    weight_sums: Tensor | None,
) -> Tensor:
    layouts = {gradient.stride() for gradient in gradients}
    if len(layouts) > 1 or gradients[0].stride(-1) != 1:
        gradients = tuple(gradient.contiguous() for gradient in gradients)
    b, n, parts, count, d = result.shape
    out = torch.empty_like(result)
    cos, sin = (result, result) if rotary is None else rotary
    given = (result,) if weights is None else weights
    first = gradients[0]
    _norm_rotate_backward_kernel[(len(sums), parts)](
        first,
        gradients[min(1, parts - 1)],
        gradients[-1],
        result,
        given[0],
        given[-1],
        cos,
        sin,
        result if inverse is None else inverse,
        out,
        sums,
        sums if weight_sums is None else weight_sums,
        b * n,
        n,
        count,
        first.stride(0),
        first.stride(2),
        first.stride(1),
        result.stride(1),
        sums.stride(0),
        HEADS=triton.next_power_of_2(count),
        DIM=d,
        CHANGED=max(1, parts - 1),
        NORM=weights is not None,
        ROTARY=rotary is not None,
        STAGES=STAGES,
        num_warps=4,
    )
    return out


@triton.jit
def _norm_rotate_backward_kernel(
    gradient,
    second,
    third,
    result,
    weight,
    second_weight,
    cos,
    sin,
    inverse,
    gradient_x,
    sums,
    weight_sums,
    rows,
    n,
    count,
    batch_stride,
    row_stride,
    head_stride,
    stride,
    sums_stride,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    CHANGED: tl.constexpr,
    NORM: tl.constexpr,
    ROTARY: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Compute the gradient before norm and rotation from their result, which is the normed value when rotated back.
    Only the first CHANGED parts were normalised and rotated."""
    part = tl.program_id(1)
    if part == 1:
        gradient = second
        weight = second_weight
    elif part == 2:
        gradient = third
    head = tl.arange(0, HEADS)[:, None]
    column = tl.arange(0, DIM)[None, :]
    mask = (head < count) & (column >= 0)
    inside = part * count * DIM + head * DIM + column
    for_x = tl.zeros((HEADS, DIM), tl.float32)
    for_weight = tl.zeros((HEADS, DIM), tl.float32)
    for row in tl.range(tl.program_id(0).to(tl.int64), rows, tl.num_programs(0), num_stages=STAGES):
        source = gradient + (row // n) * batch_stride + (row % n) * row_stride + head * head_stride + column
        grad = tl.load(source, mask=mask, other=0.0).to(tl.float32)
        if part < CHANGED:
            if NORM:
                values = tl.load(result + row * stride + inside, mask=mask, other=0.0).to(tl.float32)
            if ROTARY:
                angle = (row % n) * DIM + 2 * tl.arange(0, DIM // 2)
                cosine, sine = tl.load(cos + angle)[None, :], tl.load(sin + angle)[None, :]
                even, odd = tl.split(tl.reshape(grad, (HEADS, DIM // 2, 2)))
                grad = tl.reshape(tl.join(even * cosine + odd * sine, odd * cosine - even * sine), (HEADS, DIM))
                if NORM:
                    even, odd = tl.split(tl.reshape(values, (HEADS, DIM // 2, 2)))
                    values = tl.reshape(tl.join(even * cosine + odd * sine, odd * cosine - even * sine), (HEADS, DIM))
            if NORM:
                weights = tl.load(weight + tl.arange(0, DIM))[None, :]
                normed = tl.where(weights == 0.0, 0.0, values / tl.where(weights == 0.0, 1.0, weights))
                norms = inverse + (part * rows + row) * count + tl.arange(0, HEADS)
                root = tl.load(norms, mask=tl.arange(0, HEADS) < count, other=0.0)
                for_weight += grad * normed
                grad = grad * weights
                grad = root[:, None] * (grad - normed * (tl.sum(grad * normed, axis=1) / DIM)[:, None])
        tl.store(gradient_x + row * stride + inside, grad.to(gradient_x.dtype.element_ty), mask=mask)
        for_x += grad
    start = tl.program_id(0).to(tl.int64) * sums_stride + inside
    tl.store(sums + start, for_x, mask=mask)
    if NORM and part < CHANGED:
        tl.store(weight_sums + start, for_weight, mask=mask)


def silu_product_backward_triton_(gradient_out: Tensor, x: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
    rows, dim = gradient_out.shape
    out = torch.empty_like(gradient_out)
    _silu_product_backward_kernel[(len(sums), triton.cdiv(dim, 1024))](
        gradient_out, x, out, sums, rows, dim, sums.stride(0), BLOCK=1024, STAGES=STAGES, num_warps=4
    )
    return x, out


@triton.jit
def _silu_product_backward_kernel(
    gradient_out,
    x,
    out,
    sums,
    rows,
    dim,
    sums_stride,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Replace both halves of x with their gradients, and compute the product once more."""
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = column < dim
    for_u = tl.zeros((BLOCK,), tl.float32)
    for_w = tl.zeros((BLOCK,), tl.float32)
    for row in tl.range(tl.program_id(0).to(tl.int64), rows, tl.num_programs(0), num_stages=STAGES):
        place = row * 2 * dim + column
        grad = tl.load(gradient_out + row * dim + column, mask=mask, other=0.0).to(tl.float32)
        u = tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
        w = tl.load(x + place + dim, mask=mask, other=0.0).to(tl.float32)
        sigmoid = tl.sigmoid(u)
        of_w = grad * u * sigmoid
        of_u = grad * w * sigmoid * (1.0 + u * (1.0 - sigmoid))
        kind = x.dtype.element_ty
        tl.store(x + place, of_u.to(kind), mask=mask)
        tl.store(x + place + dim, of_w.to(kind), mask=mask)
        tl.store(out + row * dim + column, (u * sigmoid * w).to(out.dtype.element_ty), mask=mask)
        for_u += of_u
        for_w += of_w
    start = sums + tl.program_id(0).to(tl.int64) * sums_stride + column
    tl.store(start, for_u, mask=mask)
    tl.store(start + dim, for_w, mask=mask)
