"""Triton kernels of the fused blocks: element-wise work of training, each as one pass over memory.

Numbers are formed in float32 and rounded once. Backward kernels run a fixed number of programs, which walk over the
rows and add up what biases and norm weights get: each leaves one row of sums, and these are added once for a block.
Rows to come are loaded while one is worked on (STAGES of them are on their way).
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def residual_norm(
    x,
    added,
    modulations,
    weight,
    total,
    out,
    inverse,
    dim,
    out_stride,
    stride,
    gate,
    shift,
    scale,
    eps,
    BLOCK: tl.constexpr,
    RESIDUAL: tl.constexpr,
    GATE: tl.constexpr,
    NORM: tl.constexpr,
    MODULATE: tl.constexpr,
    COPY: tl.constexpr,
):
    """total = x + gate * added; out = norm(total) * weight * (1 + scale) + shift, or total in another precision. `out`
    may lie where the shift does."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    mask = column < dim
    place = row * dim + column
    modulation = modulations + row * stride + column
    value = tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
    if RESIDUAL:
        more = tl.load(added + place, mask=mask, other=0.0).to(tl.float32)
        if GATE:
            more = more * tl.load(modulation + gate, mask=mask, other=0.0).to(tl.float32)
        rounded = (value + more).to(total.dtype.element_ty)
        tl.store(total + place, rounded, mask=mask)
        value = rounded.to(tl.float32)  # what the backward pass will see
    if NORM:
        root = tl.rsqrt(tl.sum(value * value, axis=0) / dim + eps)
        tl.store(inverse + row, root)
        value = value * root * tl.load(weight + column, mask=mask, other=0.0)
        if MODULATE:
            factor = 1.0 + tl.load(modulation + scale, mask=mask, other=0.0).to(tl.float32)
            value = value * factor + tl.load(modulation + shift, mask=mask, other=0.0).to(tl.float32)
    if NORM or COPY:
        tl.store(out + row * out_stride + column, value.to(out.dtype.element_ty), mask=mask)


@triton.jit
def norm_backward(
    gradient_out,
    gradient,
    total,
    inverse,
    weight,
    modulations,
    gradient_total,
    gradient_added,
    gradient_modulations,
    weight_sums,
    added_sums,
    modulation_sums,
    rows,
    dim,
    stride,
    shift,
    scale,
    sums_stride,
    BLOCK: tl.constexpr,
    GRADIENT: tl.constexpr,
    MODULATE: tl.constexpr,
    RESIDUAL: tl.constexpr,
    COPY: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Gradient of `total` from those of the norm's result and of what else reads it. Gradients of modulations may take
    the places of modulations."""
    column = tl.arange(0, BLOCK)
    mask = column < dim
    weights = tl.load(weight + column, mask=mask, other=0.0)
    for_weight = tl.zeros((BLOCK,), tl.float32)
    for_added = tl.zeros((BLOCK,), tl.float32)
    for_shift = tl.zeros((BLOCK,), tl.float32)
    for_scale = tl.zeros((BLOCK,), tl.float32)
    for row in tl.range(tl.program_id(0).to(tl.int64), rows, tl.num_programs(0), num_stages=STAGES):
        place = row * dim + column
        grad = tl.load(gradient_out + place, mask=mask, other=0.0).to(tl.float32)
        root = tl.load(inverse + row)
        normed = tl.load(total + place, mask=mask, other=0.0).to(tl.float32) * root
        if MODULATE:
            modulation = row * stride + column
            factor = 1.0 + tl.load(modulations + modulation + scale, mask=mask, other=0.0).to(tl.float32)
            of_scale = grad * normed * weights
            kind = gradient_modulations.dtype.element_ty
            tl.store(gradient_modulations + modulation + shift, grad.to(kind), mask=mask)
            tl.store(gradient_modulations + modulation + scale, of_scale.to(kind), mask=mask)
            for_shift += grad
            for_scale += of_scale
            grad = grad * factor
        for_weight += grad * normed
        grad = grad * weights
        grad = root * (grad - normed * (tl.sum(grad * normed, axis=0) / dim))
        if GRADIENT:
            grad += tl.load(gradient + place, mask=mask, other=0.0).to(tl.float32)
        tl.store(gradient_total + place, grad.to(gradient_total.dtype.element_ty), mask=mask)
        if COPY:
            tl.store(gradient_added + place, grad.to(gradient_added.dtype.element_ty), mask=mask)
        if RESIDUAL:
            for_added += grad
    start = tl.program_id(0).to(tl.int64) * sums_stride + column
    tl.store(weight_sums + start, for_weight, mask=mask)
    if RESIDUAL:
        tl.store(added_sums + start, for_added, mask=mask)
    if MODULATE:
        tl.store(modulation_sums + start + shift, for_shift, mask=mask)
        tl.store(modulation_sums + start + scale, for_scale, mask=mask)


@triton.jit
def residual_backward(
    gradient,
    second,
    added,
    modulations,
    gradient_total,
    gradient_added,
    gradient_modulations,
    added_sums,
    modulation_sums,
    rows,
    dim,
    stride,
    gate,
    sums_stride,
    BLOCK: tl.constexpr,
    SECOND: tl.constexpr,
    GATE: tl.constexpr,
    COPY: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Gradients of what was added, and of its gate, whose place it may take; `gradient` and `second` are added up."""
    column = tl.arange(0, BLOCK)
    mask = column < dim
    for_added = tl.zeros((BLOCK,), tl.float32)
    for_gate = tl.zeros((BLOCK,), tl.float32)
    for row in tl.range(tl.program_id(0).to(tl.int64), rows, tl.num_programs(0), num_stages=STAGES):
        place = row * dim + column
        grad = tl.load(gradient + place, mask=mask, other=0.0).to(tl.float32)
        if SECOND:
            grad += tl.load(second + place, mask=mask, other=0.0).to(tl.float32)
            tl.store(gradient_total + place, grad.to(gradient_total.dtype.element_ty), mask=mask)
        if GATE:
            modulation = row * stride + gate + column
            gates = tl.load(modulations + modulation, mask=mask, other=0.0).to(tl.float32)
            of_gate = grad * tl.load(added + place, mask=mask, other=0.0).to(tl.float32)
            kind = gradient_modulations.dtype.element_ty
            tl.store(gradient_modulations + modulation, of_gate.to(kind), mask=mask)
            for_gate += of_gate
            grad = grad * gates
        if COPY:
            tl.store(gradient_added + place, grad.to(gradient_added.dtype.element_ty), mask=mask)
        for_added += grad
    start = tl.program_id(0).to(tl.int64) * sums_stride + column
    tl.store(added_sums + start, for_added, mask=mask)
    if GATE:
        tl.store(modulation_sums + start + gate, for_gate, mask=mask)


@triton.jit
def heads(
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
    """Norm and rotation of each head, in place. Rows are `stride` apart; parts (queries, keys) lie side by side."""
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


@triton.jit
def heads_backward(
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
    """Gradient before norm and rotation, from what they gave: turned back, it is the normed value. Only the first
    CHANGED parts were normed and rotated."""
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


@triton.jit
def silu_product_backward(
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
    """Gradients of both halves of x, in their places, and the product once more."""
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
