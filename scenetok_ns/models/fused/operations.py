"""Operations that the fused blocks consist of, forward and backward.

Rows are tokens of all elements of the batch, [rows, dim]. A function `NAME_backward` takes the gradient of the result
of `NAME`. Gradients of biases and norm weights are added up in `Sums`.

Each operation stands beside its plain twin: `NAME` launches the Triton kernel (`NAME_triton` in
ops/triton_norms_training and ops/triton_heads_training) on CUDA and calls `NAME_plain` elsewhere. A trailing underscore
means that an argument is overwritten.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from scenetok_ns.models.fused.products import Rows
from scenetok_ns.models.ops.rope import RotaryTable, apply_rotary

if TYPE_CHECKING:
    from types import ModuleType

PROGRAMS = 528
"""Number of programs of a gradient kernel: four for each processor of an H100. Few rows take half as many, which is as
fast and leaves less to add. Each program adds up its share of the rows."""


@dataclass
class Sums:
    """Sums over rows, by name. Each program of a gradient kernel fills one row of a table; its rows are added once."""

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
    """Output of an adaLN layer and, in the backward pass, buffers for its gradient and the gradient's sums."""

    values: Float[Tensor, "rows columns"]
    gradients: Float[Tensor, "rows columns"] | None = None
    sums: Float[Tensor, "programs columns"] | None = None

    @property
    def places(self) -> tuple[Tensor, Tensor, Tensor]:
        """Buffers of the backward pass: values, gradients and sums."""
        assert self.gradients is not None and self.sums is not None
        return self.values, self.gradients, self.sums


@dataclass(frozen=True)
class Columns:
    """A modulation, and the first columns of the shift, scale and gate that an operation uses."""

    modulation: Modulation
    shift: int = 0
    scale: int = 0
    gate: int = 0

    @property
    def numbers(self) -> tuple[int, int, int]:
        return self.shift, self.scale, self.gate


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
    """Add rows, then norm and modulate the total.

    Args:
        x: Rows; the total has their dtype.
        added: Rows to add, times the modulation's gate if `gated`; None: the total is `x`.
        weight: Weight of the RMS norm; None: no norm, the second result is the total in `dtype`.
        modulation: Shift and scale behind the norm, or the gate; None: neither.
        gated: Use the modulation's gate and neither shift nor scale.
        eps: Epsilon of the norm.
        dtype: Dtype of the second result; None: that of `x`.
        over_shift: Write the second result over the modulation's shift, which no backward pass needs, if it fits.

    Returns:
        The total, the normed and modulated total, and one over the root mean square of each row of the total (`x` if
        there is no norm).
    """
    if uses_kernels(x):
        values, columns = (
            (None, (0, 0, 0)) if modulation is None else (modulation.modulation.values, modulation.numbers)
        )
        return _residuals().add_and_norm_triton(x, added, weight, values, columns, gated, eps, dtype, over_shift)
    return add_and_norm_plain(x, added, weight, modulation, gated=gated, eps=eps, dtype=dtype)


def add_and_norm_plain(
    x: Rows,
    added: Rows | None,
    weight: Tensor | None,
    modulation: Columns | None,
    *,
    gated: bool = False,
    eps: float = 0.0,
    dtype: torch.dtype | None = None,
) -> tuple[Rows, Rows, Tensor]:
    total, dtype = x, dtype or x.dtype
    if added is not None:
        factor = _taken(modulation.modulation.values, modulation.gate, x) if gated and modulation is not None else 1.0
        total = (x.float() + added.float() * factor).to(x.dtype)
    if weight is None:
        return total, total.to(dtype), x
    inverse = (total.float().square().mean(1) + eps).rsqrt()
    out = total.float() * inverse[:, None] * weight
    if modulation is not None and not gated:
        values = modulation.modulation.values
        out = out * (1 + _taken(values, modulation.scale, x)) + _taken(values, modulation.shift, x)
    return total, out.to(dtype), inverse


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
    """Return gradients of the total and, in the dtype of `gradient_out`, of the rows that were added to it.

    Args:
        gradient_out: Gradient of the normed and modulated total.
        gradient: Gradient of the total from elsewhere; None: zero.
        total: First result of `add_and_norm`.
        inverse: Third result of `add_and_norm`.
        weight: Weight of the norm.
        sums: Buffer for the gradient of the weight.
        modulation: As in `add_and_norm`, with buffers for its gradients, which may be the buffers of its values.
        added_sums: Buffer for the gradient of the bias of the added rows.
    """
    if uses_kernels(total):
        places, columns = (
            (None, (0, 0, 0)) if modulation is None else (modulation.modulation.places, modulation.numbers)
        )
        return _residuals().norm_backward_triton(
            gradient_out, gradient, total, inverse, weight, sums, places, columns, added_sums
        )
    return norm_backward_plain(gradient_out, gradient, total, inverse, weight, sums, modulation, added_sums)


def norm_backward_plain(
    gradient_out: Rows,
    gradient: Rows | None,
    total: Rows,
    inverse: Tensor,
    weight: Tensor,
    sums: Tensor,
    modulation: Columns | None = None,
    added_sums: Tensor | None = None,
) -> tuple[Rows, Rows]:
    grad, normed = gradient_out.float(), total.float() * inverse[:, None]
    if modulation is not None:
        values = modulation.modulation.values
        factor = 1 + _taken(values, modulation.scale, total)
        _put_gradient(modulation.modulation, modulation.shift, grad)
        _put_gradient(modulation.modulation, modulation.scale, grad * normed * weight)
        grad = grad * factor
    _put_sums(sums, grad * normed)
    grad = _through_norm(grad * weight, normed, inverse)
    if gradient is not None:
        grad = grad + gradient.float()
    if added_sums is not None:
        _put_sums(added_sums, grad)
    return grad.to(total.dtype), grad.to(gradient_out.dtype)


def residual_backward(
    gradient: Rows,
    sums: Tensor,
    dtype: torch.dtype,
    *,
    second: Rows | None = None,
    added: Rows | None = None,
    modulation: Columns | None = None,
) -> tuple[Rows, Rows]:
    """Return gradients of a sum of rows and, in `dtype`, of the rows that were added.

    Args:
        gradient: Gradient of the sum.
        sums: Buffer for the gradient of the bias of the added rows.
        dtype: Dtype of the second result.
        second: Another part of the sum's gradient; None: zero.
        added: Rows that were added, times the gate.
        modulation: The gate. None: no gate.
    """
    if uses_kernels(gradient):
        places, columns = (
            (None, (0, 0, 0)) if modulation is None else (modulation.modulation.places, modulation.numbers)
        )
        return _residuals().residual_backward_triton(gradient, sums, dtype, second, added, places, columns)
    return residual_backward_plain(gradient, sums, dtype, second=second, added=added, modulation=modulation)


def residual_backward_plain(
    gradient: Rows,
    sums: Tensor,
    dtype: torch.dtype,
    *,
    second: Rows | None = None,
    added: Rows | None = None,
    modulation: Columns | None = None,
) -> tuple[Rows, Rows]:
    grad = gradient.float() if second is None else gradient.float() + second.float()
    total = gradient if second is None else grad.to(gradient.dtype)
    if modulation is not None and added is not None:
        gates = _taken(modulation.modulation.values, modulation.gate, gradient).clone()
        _put_gradient(modulation.modulation, modulation.gate, grad * added.float())
        grad = grad * gates
    _put_sums(sums, grad)
    return total, grad.to(dtype)


def norm_rotate_(
    x: Float[Tensor, "b n parts heads d"], weights: tuple[Tensor, ...] | None, rotary: RotaryTable | None, eps: float
) -> Float[Tensor, "changed b n heads"] | None:
    """Norm and rotate each head of the leading parts, in place.

    Args:
        x: Queries, keys and values side by side, or some of them. One part for each weight is changed; without
            weights, all parts but the last of several.
        weights: Weights of the heads' RMS norms; None: no norms.
        rotary: Rotation by the position of each token; None: no rotation.
        eps: Epsilon of the norms.

    Returns:
        One over the root mean square of each head that was normed; None without norms.
    """
    if weights is None and rotary is None:
        return None
    if uses_kernels(x):
        return _heads().norm_rotate_triton_(x, weights, rotary, eps)
    return norm_rotate_plain_(x, weights, rotary, eps)


def norm_rotate_plain_(
    x: Float[Tensor, "b n parts heads d"], weights: tuple[Tensor, ...] | None, rotary: RotaryTable | None, eps: float
) -> Float[Tensor, "changed b n heads"] | None:
    inverse = []
    for part in range(max(1, x.shape[2] - 1)):
        values = x[:, :, part].float()
        if weights is not None:
            inverse.append((values.square().mean(-1) + eps).rsqrt())
            values = values * inverse[-1][..., None] * weights[min(part, len(weights) - 1)].float()
        x[:, :, part] = _rotated(values, rotary).to(x.dtype)
    return None if weights is None else torch.stack(inverse)


def norm_rotate_backward(
    gradients: tuple[Float[Tensor, "b heads n d"], ...],
    result: Float[Tensor, "b n parts heads d"],
    weights: tuple[Tensor, ...] | None,
    rotary: RotaryTable | None,
    inverse: Tensor | None,
    sums: Tensor,
    weight_sums: Tensor | None,
) -> Float[Tensor, "b n parts heads d"]:
    """Return the gradients of all parts side by side, before norm and rotation.

    Args:
        gradients: Gradient of each part of the result.
        result: `x` after `norm_rotate_`, whose other arguments follow.
        inverse: Result of `norm_rotate_`.
        sums: Buffer for the gradient of the first part's bias, head by head; those of further parts follow it.
        weight_sums: Buffer for the gradients of the norms' weights, head by head; those of a second part follow it.
    """
    if uses_kernels(result):
        return _heads().norm_rotate_backward_triton(gradients, result, weights, rotary, inverse, sums, weight_sums)
    return norm_rotate_backward_plain(gradients, result, weights, rotary, inverse, sums, weight_sums)


def norm_rotate_backward_plain(
    gradients: tuple[Float[Tensor, "b heads n d"], ...],
    result: Float[Tensor, "b n parts heads d"],
    weights: tuple[Tensor, ...] | None,
    rotary: RotaryTable | None,
    inverse: Tensor | None,
    sums: Tensor,
    weight_sums: Tensor | None,
) -> Float[Tensor, "b n parts heads d"]:
    out, changed = torch.empty_like(result), max(1, result.shape[2] - 1)
    back = None if rotary is None else (rotary[0], -rotary[1])
    for_biases, for_weights = [], []
    for part, gradient in enumerate(gradients):
        grad = gradient.transpose(1, 2).float()
        if part < changed:
            grad = _rotated(grad, back)
            if weights is not None and inverse is not None:
                weight = weights[min(part, len(weights) - 1)].float()
                normed = _rotated(result[:, :, part].float(), back) / torch.where(weight == 0, 1.0, weight)
                normed = torch.where(weight == 0, 0.0, normed)
                for_weights.append((grad * normed).flatten(2))
                grad = _through_norm(grad * weight, normed, inverse[part])
        for_biases.append(grad.flatten(2))
        out[:, :, part] = grad.to(result.dtype)
    _put_sums(sums, torch.cat(for_biases, dim=2).flatten(0, 1))
    if weight_sums is not None:
        _put_sums(weight_sums, torch.cat(for_weights, dim=2).flatten(0, 1))
    return out


def silu_product_backward_(
    gradient_out: Rows, x: Float[Tensor, "rows 2*dim"], sums: Tensor
) -> tuple[Float[Tensor, "rows 2*dim"], Rows]:
    """Return the gradient of `x`, written over `x`, and `silu_product(x)`. `sums`: buffer for the bias's gradient."""
    if uses_kernels(x):
        return _heads().silu_product_backward_triton_(gradient_out, x, sums)
    return silu_product_backward_plain_(gradient_out, x, sums)


def silu_product_backward_plain_(
    gradient_out: Rows, x: Float[Tensor, "rows 2*dim"], sums: Tensor
) -> tuple[Float[Tensor, "rows 2*dim"], Rows]:
    grad = gradient_out.float()
    u, w = x.float().chunk(2, dim=1)
    sigmoid = u.sigmoid()
    gradients = torch.cat([grad * w * sigmoid * (1 + u * (1 - sigmoid)), grad * u * sigmoid], dim=1)
    product = (F.silu(u) * w).to(gradient_out.dtype)
    _put_sums(sums, gradients)
    return x.copy_(gradients), product


def uses_kernels(x: Tensor) -> bool:
    """Whether operations on `x` run as Triton kernels."""
    return x.is_cuda


def _taken(values: Tensor, first: int, x: Rows) -> Rows:
    return values.narrow(1, first, x.shape[1]).float()


def _put_gradient(modulation: Modulation, first: int, gradient: Rows) -> None:
    _, gradients, sums = modulation.places
    gradients.narrow(1, first, gradient.shape[1]).copy_(gradient)
    _put_sums(sums.narrow(1, first, gradient.shape[1]), gradient)


def _put_sums(sums: Tensor, rows: Rows) -> None:
    """Fill the table of sums as if its first program had added up all rows. Wider rows also fill the next columns."""
    sums = sums.as_strided((len(sums), rows.shape[1]), sums.stride())
    sums.zero_()
    sums[0] = rows.sum(0)


def _through_norm(gradient: Tensor, normed: Tensor, inverse: Tensor) -> Tensor:
    """Compute the gradient of x from the gradient of normed = x * inverse."""
    return inverse[..., None] * (gradient - normed * (gradient * normed).mean(-1, keepdim=True))


def _rotated(x: Float[Tensor, "b n heads d"], rotary: RotaryTable | None) -> Float[Tensor, "b n heads d"]:
    return x if rotary is None else apply_rotary(x.transpose(1, 2), rotary).transpose(1, 2)


@cache
def _residuals() -> ModuleType:
    return importlib.import_module("scenetok_ns.models.ops.triton_norms_training")


@cache
def _heads() -> ModuleType:
    return importlib.import_module("scenetok_ns.models.ops.triton_heads_training")
