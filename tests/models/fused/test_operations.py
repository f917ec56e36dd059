"""Triton kernels of the fused blocks against their plain twins, for all options of each operation.

They run on a GPU if there is one. Otherwise they run in Triton's interpreter (test_interpreted_kernels.py).
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import Tensor

from scenetok_ns.models.fused import operations as ops
from scenetok_ns.models.fused.operations import Columns, Modulation
from scenetok_ns.models.ops.rope import RotaryTable, angles_3d, rotary_table

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
ROWS, DIM, PROGRAMS = 13, 24, 4

kernels_run = pytest.mark.skipif(DEVICE == "cpu" and not INTERPRETED, reason="needs a CUDA device")


@pytest.fixture(autouse=True)
def with_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "uses_kernels", lambda x: True)


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape).to(DEVICE, dtype)


def compare(fast: Any, plain: Any, dtype: torch.dtype = torch.float32) -> None:
    tolerance = 2e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(fast, plain, rtol=tolerance, atol=tolerance)


def both(run: Any) -> tuple[Any, Any]:
    """Results of `run(suffix)` for the operation and for its plain twin, from the same random numbers."""
    found = []
    for suffix in ("", "_plain"):
        torch.manual_seed(0)
        found.append(run(suffix))
    return found[0], found[1]


def operation(name: str, suffix: str) -> Any:
    return getattr(ops, name.removesuffix("_") + suffix + "_" * name.endswith("_"))


def places(*widths: int) -> tuple[Tensor, ...]:
    """Buffers for sums, side by side in one table, as in the blocks."""
    return normal(PROGRAMS, sum(widths)).split(list(widths), dim=1)


def modulation(sums: Tensor | None = None) -> Columns:
    """Gradients overwrite values, as in the blocks."""
    values = normal(ROWS, 4 * DIM)
    return Columns(Modulation(values, values, sums), shift=DIM, scale=2 * DIM, gate=3 * DIM)


def totals(sums: Tensor | None) -> Tensor | None:
    return None if sums is None else sums.sum(0)


@kernels_run
@pytest.mark.parametrize("how", ["norm", "modulated", "added", "gated", "copied"])
def test_add_and_norm(how: str) -> None:
    dtype = torch.bfloat16 if how == "copied" else torch.float32

    def run(suffix: str) -> Any:
        x, added, weight = normal(ROWS, DIM), normal(ROWS, DIM), normal(DIM)
        columns = modulation() if how in ("modulated", "gated") else None
        return operation("add_and_norm", suffix)(
            x,
            None if how in ("norm", "copied") else added,
            None if how in ("gated", "copied") else weight,
            columns,
            gated=how == "gated",
            eps=1e-3,
            dtype=dtype,
        )

    compare(*both(run), dtype)


@kernels_run
def test_the_norm_may_overwrite_the_shift() -> None:
    torch.manual_seed(0)
    x, weight, columns = normal(ROWS, DIM), normal(DIM), modulation()
    expected = ops.add_and_norm_plain(x, None, weight, columns, eps=1e-3)[1]
    found = ops.add_and_norm(x, None, weight, columns, eps=1e-3, dtype=torch.float32, over_shift=True)[1]
    compare(found, expected)
    assert found.data_ptr() == columns.modulation.values[:, DIM:].data_ptr()


@kernels_run
@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("residual", [False, True])
def test_norm_backward(modulated: bool, residual: bool) -> None:
    def run(suffix: str) -> Any:
        total, (sums, added_sums, modulation_sums) = normal(ROWS, DIM), places(DIM, DIM, 4 * DIM)
        inverse = (total.square().mean(1) + 1e-3).rsqrt()
        columns = modulation(modulation_sums) if modulated else None
        gradients = operation("norm_backward", suffix)(
            normal(ROWS, DIM),
            normal(ROWS, DIM) if residual else None,
            total,
            inverse,
            normal(DIM),
            sums,
            columns,
            added_sums if residual else None,
        )
        used = None if columns is None else columns.modulation
        found = [
            gradients[0],
            gradients[1] if residual else None,
            totals(sums),
            totals(added_sums) if residual else None,
        ]
        return found + ([] if used is None else [used.values, totals(used.sums)[DIM : 3 * DIM]])

    compare(*both(run))


@kernels_run
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("second", [False, True])
def test_residual_backward(gated: bool, second: bool) -> None:
    def run(suffix: str) -> Any:
        sums, modulation_sums = places(DIM, 4 * DIM)
        columns = modulation(modulation_sums) if gated else None
        gradients = operation("residual_backward", suffix)(
            normal(ROWS, DIM),
            sums,
            torch.float32,
            second=normal(ROWS, DIM) if second else None,
            added=normal(ROWS, DIM) if gated else None,
            modulation=columns,
        )
        used = None if columns is None else columns.modulation
        return [*gradients, totals(sums), *([] if used is None else [used.values, totals(used.sums)[3 * DIM :]])]

    compare(*both(run))


B, N, HEADS, D = 2, 4, 3, 16


def table() -> RotaryTable:
    cos, sin = rotary_table(angles_3d(D, 1, (2, 2)))
    return cos.to(DEVICE), sin.to(DEVICE)


@kernels_run
@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("rotated", [False, True])
def test_norm_rotate_and_its_gradient(parts: int, normed: bool, rotated: bool) -> None:
    changed = max(1, parts - 1)

    def run(suffix: str) -> Any:
        x = normal(B, N, parts, HEADS, D)
        weights = tuple(normal(D) for _ in range(changed)) if normed else None
        rotary = table() if rotated else None
        inverse = operation("norm_rotate_", suffix)(x, weights, rotary, 1e-3) if normed or rotated else None
        gradients = tuple(normal(B, HEADS, N, D) for _ in range(parts))
        biases, norms = places(parts * HEADS * D, changed * HEADS * D)
        # As in the blocks, the place is that of the first part; those of the others lie behind it.
        own, of_weights = biases[:, : HEADS * D], norms[:, : HEADS * D]
        out = operation("norm_rotate_backward", suffix)(
            gradients, x, weights, rotary, inverse, own, of_weights if normed else None
        )
        return [x, inverse, out, totals(biases), totals(norms) if normed else None]

    compare(*both(run))


@kernels_run
def test_silu_product_backward() -> None:
    def run(suffix: str) -> Any:
        sums = normal(PROGRAMS, 2 * DIM)
        return [
            *operation("silu_product_backward_", suffix)(normal(ROWS, DIM), normal(ROWS, 2 * DIM), sums),
            totals(sums),
        ]

    compare(*both(run))
