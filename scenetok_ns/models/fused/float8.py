"""Matrix products in FP8 (e4m3) with one scale per row, an option of the fused blocks.

Activations, weights and gradients are rounded just before a product. The GPU's product uses fast accumulation; its
plain twin sums in float32. Gradients of weights, products that add to another tensor, and adaLN layers stay in
bfloat16.
"""

from __future__ import annotations

import importlib

import torch
from jaxtyping import Float
from torch import Tensor

LARGEST = 448.0
"""Largest number in e4m3. Rows are scaled so that their largest magnitude becomes this."""
SMALLEST = 1e-12
"""Lower bound of a row's largest magnitude when its scale is chosen, so that scales are never zero."""
MULTIPLE = 16
"""Torch's product needs matrices whose height and width are multiples of this."""
CAPABILITY = (8, 9)
"""Minimum compute capability of GPUs that multiply FP8 (Ada; Hopper has 9.0)."""

Codes = tuple[Float[Tensor, "rows dim"], Float[Tensor, "rows 1"]]
"""Numbers in e4m3, and the scale of each row in float32."""


def fits(weight: Float[Tensor, "out dim"]) -> bool:
    """Whether a product with `weight` can run in FP8."""
    return weight.shape[0] % MULTIPLE == 0 and weight.shape[1] % MULTIPLE == 0


def product(
    x: Float[Tensor, "rows dim"], weight: Float[Tensor, "out dim"], bias: Float[Tensor, " out"] | None = None
) -> Float[Tensor, "rows out"]:
    """Return x @ weight.T + bias in the dtype of `x`. Both factors are first rounded to FP8, row by row."""
    codes = quantize_rows(x), quantize_rows(weight.contiguous())
    if x.is_cuda:
        (a, scale_a), (b, scale_b) = codes
        return torch._scaled_mm(a, b.t(), scale_a, scale_b.t(), bias, out_dtype=x.dtype, use_fast_accum=True)
    return product_plain(*codes, bias, x.dtype)


def product_plain(
    x: Codes, weight: Codes, bias: Float[Tensor, " out"] | None, dtype: torch.dtype
) -> Float[Tensor, "rows out"]:
    """Multiply the numbers that the codes represent, in float32."""
    (a, scale_a), (b, scale_b) = x, weight
    out = (a.float() * scale_a) @ (b.float() * scale_b).t()
    return (out if bias is None else out + bias.float()).to(dtype)


def quantize_rows(x: Float[Tensor, "rows dim"]) -> Codes:
    """Round rows to FP8, each with a scale that makes its largest magnitude `LARGEST`.

    The numbers of a row must be contiguous in memory.
    """
    if uses_kernels(x):
        kernels = importlib.import_module("scenetok_ns.models.ops.triton_float8")
        return kernels.quantize_rows_triton(x, LARGEST, SMALLEST)
    return quantize_rows_plain(x)


def uses_kernels(x: Tensor) -> bool:
    """Whether rows are rounded by the Triton kernel."""
    return x.is_cuda


def quantize_rows_plain(x: Float[Tensor, "rows dim"]) -> Codes:
    scale = x.float().abs().amax(dim=1, keepdim=True).clamp_min(SMALLEST) / LARGEST
    return (x.float() / scale).to(torch.float8_e4m3fn), scale
