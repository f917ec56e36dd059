"""What blocks are made of, forward and backward: launches of `kernels.py`, products of matrices, attention.

Rows are tokens of all elements of the batch, [rows, dim]. Functions that end in `_backward` take the gradients of what
their namesakes gave; those of biases and norm weights go through `Sums`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import triton
from jaxtyping import Float
from torch import Tensor

from scenetok_ns.models.ops import triton_backward as kernels
from scenetok_ns.models.ops.attention import attention
from scenetok_ns.models.ops.rope import RotaryTable

Rows = Float[Tensor, "rows dim"]

PROGRAMS = 528
"""Of backward kernels: four for each processor of an H100; half as many for few rows, which are then as fast and leave
less to add. Each of them adds up its share of the rows."""


STAGES = 3
"""Rows of backward kernels that are on their way at a time."""


@dataclass
class Sums:
    """Sums over rows: what each program of the backward kernels added up, in one table, whose rows are added once."""

    widths: dict[str, int] = field(default_factory=dict)
    _table: Tensor | None = None

    def reserve(self, name: str, width: int) -> None:
        self.widths[name] = width

    def allocate(self, rows: int, device: torch.device) -> None:
        programs = PROGRAMS if rows >= 40 * PROGRAMS else PROGRAMS // 2
        self._table = torch.empty(programs, sum(self.widths.values()), device=device)

    def __getitem__(self, name: str) -> Float[Tensor, "programs width"]:
        assert self._table is not None
        names = list(self.widths)
        return self._table.narrow(1, sum(self.widths[n] for n in names[: names.index(name)]), self.widths[name])

    def added(self) -> dict[str, Tensor]:
        assert self._table is not None
        parts = self._table.sum(0).split(list(self.widths.values()))
        return dict(zip(self.widths, parts, strict=True))


@dataclass(frozen=True)
class Modulation:
    """Results of an adaLN layer and, in the backward pass, where their gradients and sums of them go."""

    values: Float[Tensor, "rows columns"]
    gradients: Float[Tensor, "rows columns"] | None = None
    sums: Float[Tensor, "programs columns"] | None = None


@dataclass(frozen=True)
class Columns:
    """Where a kernel finds its modulations: first columns of those that it uses."""

    modulation: Modulation
    shift: int = 0
    scale: int = 0
    gate: int = 0


def add_and_norm(
    x: Rows,
    added: Rows | None,
    weight: Tensor | None,
    modulation: Columns | None,
    *,
    gated: bool = False,
    eps: float = 0.0,
    dtype: torch.dtype | None = None,
    over_shift: bool = False,
) -> tuple[Rows, Rows, Tensor]:
    """(total, out, inverse): total = x + added (times the gate, if `gated`), in the dtype of x; out = total normed by
    `weight` and modulated (if not `gated`), in `dtype`; without a weight, total in `dtype`. What is not made is `x`.

    over_shift: out takes the place of the modulation's shift, which no backward pass needs.
    """
    rows, dim = x.shape
    norm, copy = weight is not None, weight is None and dtype is not None and dtype != x.dtype
    modulated = modulation is not None and not gated
    total = x if added is None else torch.empty_like(x)
    if over_shift and norm and modulation is not None and modulation.modulation.values.dtype == dtype:
        out = modulation.modulation.values.narrow(1, modulation.shift, dim)
    else:
        out = x.new_empty(rows, dim, dtype=dtype) if norm or copy else total
    inverse = x.new_empty(rows, dtype=torch.float32) if norm else x
    where = modulation or Columns(Modulation(x))
    values = where.modulation.values
    kernels.residual_norm[(rows,)](
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
        where.gate,
        where.shift,
        where.scale,
        eps,
        BLOCK=triton.next_power_of_2(dim),
        RESIDUAL=added is not None,
        GATE=gated,
        NORM=norm,
        MODULATE=modulated,
        COPY=copy,
        num_warps=4,
    )
    return total, out, inverse


def norm_backward(
    gradient_out: Rows,
    gradient: Rows | None,
    total: Rows,
    inverse: Tensor,
    weight: Tensor,
    sums: Tensor,
    modulation: Columns | None = None,
    added_sums: Tensor | None = None,
) -> tuple[Rows, Rows]:
    """Gradients of total and, in the dtype of `gradient_out`, of what was added to it (the same).

    `gradient`: of total, from what else reads it. `sums`: for the weight; `added_sums`: for the bias of what was added.
    """
    rows, dim = total.shape
    gradient_total = torch.empty_like(total)
    residual = added_sums is not None
    copy = residual and total.dtype != gradient_out.dtype
    gradient_added = torch.empty_like(gradient_out) if copy else gradient_total
    where = modulation or Columns(Modulation(total, total, sums))
    values, gradients, modulation_sums = _backward_places(where)
    kernels.norm_backward[(len(sums),)](
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
        where.shift,
        where.scale,
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


def residual_backward(
    gradient: Rows,
    sums: Tensor,
    dtype: torch.dtype,
    *,
    second: Rows | None = None,
    added: Rows | None = None,
    modulation: Columns | None = None,
) -> tuple[Rows, Rows]:
    """Gradients of a sum, to which `second` is added, and of what was added, in `dtype`. With a modulation, `added` was
    multiplied by its gate. `sums`: for the bias of what was added."""
    rows, dim = gradient.shape
    total = gradient if second is None else torch.empty_like(gradient)
    copy = modulation is not None or dtype != gradient.dtype
    gradient_added = torch.empty_like(gradient, dtype=dtype) if copy else total
    where = modulation or Columns(Modulation(gradient, gradient, sums))
    values, gradients, modulation_sums = _backward_places(where)
    kernels.residual_backward[(len(sums),)](
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
        where.gate,
        sums.stride(0),
        BLOCK=triton.next_power_of_2(dim),
        SECOND=second is not None,
        GATE=modulation is not None,
        COPY=copy,
        STAGES=STAGES,
        num_warps=4,
    )
    return total, gradient_added


def _backward_places(where: Columns) -> tuple[Tensor, Tensor, Tensor]:
    modulation = where.modulation
    assert modulation.gradients is not None and modulation.sums is not None
    return modulation.values, modulation.gradients, modulation.sums


def heads_(
    x: Float[Tensor, "b n parts heads d"], weights: tuple[Tensor, ...] | None, rotary: RotaryTable | None, eps: float
) -> Float[Tensor, "parts b n heads"] | None:
    """Norm and rotation of each head of the first part, or the first two, in place; what the norm divided by, inverted.

    Parts lie side by side (queries, keys, values); one for each weight is changed, without weights all but the values.
    """
    if weights is None and rotary is None:
        return None
    b, n, parts, count, d = x.shape
    changed = max(1, parts - 1)
    inverse = x if weights is None else x.new_empty(changed, b, n, count, dtype=torch.float32)
    cos, sin = (x, x) if rotary is None else rotary
    given = (x,) if weights is None else weights
    kernels.heads[(b * n, changed)](
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


def heads_backward(
    gradients: tuple[Float[Tensor, "b heads n d"], ...],
    result: Float[Tensor, "b n parts heads d"],
    weights: tuple[Tensor, ...] | None,
    rotary: RotaryTable | None,
    inverse: Tensor | None,
    sums: Tensor,
    weight_sums: Tensor | None,
) -> Float[Tensor, "b n parts heads d"]:
    """Gradients of the parts, of what `heads_` was given, side by side. `sums`: for their biases; `weight_sums`: for
    the weights, head by head."""
    layouts = {gradient.stride() for gradient in gradients}
    if len(layouts) > 1 or gradients[0].stride(-1) != 1:
        gradients = tuple(gradient.contiguous() for gradient in gradients)
    b, n, parts, count, d = result.shape
    out = torch.empty_like(result)
    cos, sin = (result, result) if rotary is None else rotary
    given = (result,) if weights is None else weights
    first = gradients[0]
    kernels.heads_backward[(len(sums), parts)](
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


def silu_product_backward_(
    gradient_out: Rows, x: Float[Tensor, "rows 2*dim"], sums: Tensor
) -> tuple[Float[Tensor, "rows 2*dim"], Rows]:
    """Gradient of x, which takes the place of x, and the product once more. `sums`: for the bias of x."""
    rows, dim = gradient_out.shape
    out = torch.empty_like(gradient_out)
    kernels.silu_product_backward[(len(sums), triton.cdiv(dim, 1024))](
        gradient_out, x, out, sums, rows, dim, sums.stride(0), BLOCK=1024, STAGES=STAGES, num_warps=4
    )
    return x, out


@dataclass
class Attended:
    """An attention with its graph, whichever kernel serves it."""

    out: Float[Tensor, "b n heads d"]
    _inputs: tuple[Tensor, ...]
    _out: Tensor

    @classmethod
    def of(
        cls, q: Float[Tensor, "b n heads d"], k: Float[Tensor, "b keys heads d"], v: Float[Tensor, "b keys heads d"]
    ) -> Attended:
        with torch.enable_grad():
            inputs = tuple(x.detach().transpose(1, 2).requires_grad_() for x in (q, k, v))
            out = attention(*inputs)
        return cls(out.detach().transpose(1, 2), inputs, out)

    def backward(self, gradient: Float[Tensor, "b n heads d"]) -> tuple[Tensor, ...]:
        """Gradients of q, k and v, [b, heads, n, d]."""
        return torch.autograd.grad(self._out, self._inputs, gradient.transpose(1, 2))


def linear(x: Rows, weight: Float[Tensor, "out dim"], bias: Float[Tensor, " out"]) -> Float[Tensor, "rows out"]:
    return torch.addmm(bias, x, weight.t())


def weight_gradient(gradient: Float[Tensor, "rows out"], x: Rows) -> Float[Tensor, "out dim"]:
    """Of a linear layer, in float32: not rounded in between, where the product can be had so."""
    if gradient.is_cuda and gradient.dtype != torch.float32 and hasattr(torch.ops.aten.mm, "dtype"):
        return torch.mm(gradient.t(), x, out_dtype=torch.float32)
    return torch.mm(gradient.t(), x).float()
