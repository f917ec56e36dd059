"""Matrix products and attention of the fused blocks, forward and backward, by torch's own kernels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from scenetok_ns.models.fused import float8
from scenetok_ns.models.ops.attention import attention

Rows = Float[Tensor, "rows dim"]


@dataclass
class Attended:
    """Attention with an autograd graph of its own, so that any kernel works."""

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
        """Return gradients of q, k and v, [b, heads, n, d]."""
        return torch.autograd.grad(self._out, self._inputs, gradient.transpose(1, 2))


def linear(
    x: Rows, weight: Float[Tensor, "out dim"], bias: Float[Tensor, " out"], *, in_float8: bool = False
) -> Float[Tensor, "rows out"]:
    if in_float8 and float8.fits(weight):
        return float8.product(x, weight, bias)
    return torch.addmm(bias, x, weight.t())


def input_gradient(gradient: Float[Tensor, "rows out"], weight: Float[Tensor, "out dim"], *, in_float8: bool) -> Rows:
    """Return the gradient with respect to a linear layer's input."""
    if in_float8 and float8.fits(weight):
        return float8.product(gradient, weight.t())
    return gradient @ weight


def weight_gradient(gradient: Float[Tensor, "rows out"], x: Rows) -> Float[Tensor, "out dim"]:
    """Return the gradient of a linear layer's weight in float32, without rounding to bfloat16 if torch can do that."""
    if gradient.is_cuda and gradient.dtype != torch.float32 and hasattr(torch.ops.aten.mm, "dtype"):
        return torch.mm(gradient.t(), x, out_dtype=torch.float32)
    return torch.mm(gradient.t(), x).float()
