"""Triton kernels of the fused blocks around residual sums, norms and their modulations (`fused/operations.py`).

Kernels that compute gradients run a fixed number of programs that iterate over the rows. Each program adds up its share
of the gradients of biases and norm weights in a row of sums; these rows are added once for a whole block. The next
STAGES rows are loaded while a program works on one. Numbers are computed in float32 and rounded once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

STAGES = 3
"""Number of rows that a gradient kernel loads ahead."""


def add_and_norm_triton(
    x: Tensor,
    added: Tensor | None,
    weight: Tensor | None,
    modulations: Tensor | None,
    columns: tuple[int, int, int],
    gated: bool,
    eps: float,
    dtype: torch.dtype | None,
    over_shift: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Launch `_add_and_norm_kernel`. `columns` are the first columns of shift, scale and gate in `modulations`."""
    rows, dim = x.shape
    shift, scale, gate = columns
    norm, copy = weight is not None, weight is None and dtype is not None and dtype != x.dtype
    total = x if added is None else torch.empty_like(x)
    if over_shift and norm and modulations is not None and modulations.dtype == dtype:
        out = modulations.narrow(1, shift, dim)
    else:
        out = x.new_empty(rows, dim, dtype=dtype) if norm or copy else total
    inverse = x.new_empty(rows, dtype=torch.float32) if norm else x
    values = x if modulations is None else modulations
    _add_and_norm_kernel[(rows,)](
        x,
        x if added is None else added,
        values,
        x if weight is None else weight,
        total,
        out,
        inverse,
        dim,
        out.stride(0),
        values.stride(0),
        gate,
        shift,
        scale,
        eps,
        BLOCK=triton.next_power_of_2(dim),
        RESIDUAL=added is not None,
        GATE=gated,
        NORM=norm,
        MODULATE=modulations is not None and not gated,
        COPY=copy,
        num_warps=4,
    )
    return total, out, inverse


@triton.jit
def _add_and_norm_kernel(
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
    """Compute total = x + gate * added, and out = norm(total) * weight * (1 + scale) + shift, or total in another
    precision. `out` may overwrite the shift."""
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
        value = rounded.to(tl.float32)  # the backward pass sees this value
    if NORM:
        root = tl.rsqrt(tl.sum(value * value, axis=0) / dim + eps)
        tl.store(inverse + row, root)
        value = value * root * tl.load(weight + column, mask=mask, other=0.0)
        if MODULATE:
            factor = 1.0 + tl.load(modulation + scale, mask=mask, other=0.0).to(tl.float32)
            value = value * factor + tl.load(modulation + shift, mask=mask, other=0.0).to(tl.float32)
    if NORM or COPY:
        tl.store(out + row * out_stride + column, value.to(out.dtype.element_ty), mask=mask)


def norm_backward_triton(
    gradient_out: Tensor,
    gradient: Tensor | None,
    total: Tensor,
    inverse: Tensor,
    weight: Tensor,
    sums: Tensor,
    modulation: tuple[Tensor, Tensor, Tensor] | None,
    columns: tuple[int, int, int],
    added_sums: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Launch `_norm_backward_kernel`. `modulation` holds the values, and tensors for their gradients and the sums of
    these gradients."""
    rows, dim = total.shape
    shift, scale, _ = columns
    gradient_total = torch.empty_like(total)
    residual = added_sums is not None
    copy = residual and total.dtype != gradient_out.dtype
    gradient_added = torch.empty_like(gradient_out) if copy else gradient_total
    values, gradients, modulation_sums = (total, total, sums) if modulation is None else modulation
    _norm_backward_kernel[(len(sums),)](
        gradient_out,
        gradient_out if gradient is None else gradient,
        total,
        inverse,
        weight,
        values,
        gradient_total,
        gradient_added,
        gradients,
        sums,
        sums if added_sums is None else added_sums,
        modulation_sums,
        rows,
        dim,
        values.stride(0),
        shift,
        scale,
        sums.stride(0),
        BLOCK=triton.next_power_of_2(dim),
        GRADIENT=gradient is not None,
        MODULATE=modulation is not None,
        RESIDUAL=residual,
        COPY=copy,
        STAGES=STAGES,
        num_warps=4,
    )
    return gradient_total, gradient_added


@triton.jit
def _norm_backward_kernel(
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
    """Compute the gradient of `total` from the gradients of the norm's result and of other uses of `total`. Gradients
    of modulations may overwrite the modulations."""
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


def residual_backward_triton(
    gradient: Tensor,
    sums: Tensor,
    dtype: torch.dtype,
    second: Tensor | None,
    added: Tensor | None,
    modulation: tuple[Tensor, Tensor, Tensor] | None,
    columns: tuple[int, int, int],
) -> tuple[Tensor, Tensor]:
    rows, dim = gradient.shape
    total = gradient if second is None else torch.empty_like(gradient)
    copy = modulation is not None or dtype != gradient.dtype
    gradient_added = torch.empty_like(gradient, dtype=dtype) if copy else total
    values, gradients, modulation_sums = (gradient, gradient, sums) if modulation is None else modulation
    _residual_backward_kernel[(len(sums),)](
        gradient,
        gradient if second is None else second,
        gradient if added is None else added,
        values,
        total,
        gradient_added,
        gradients,
        sums,
        modulation_sums,
        rows,
        dim,
        values.stride(0),
        columns[2],
        sums.stride(0),
        BLOCK=triton.next_power_of_2(dim),
        SECOND=second is not None,
        GATE=modulation is not None,
        COPY=copy,
        STAGES=STAGES,
        num_warps=4,
    )
    return total, gradient_added


@triton.jit
def _residual_backward_kernel(
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
    """Compute the gradients of `added` and of its gate from the sum of `gradient` and `second`. The gradient of the
    gate may overwrite the gate."""
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
