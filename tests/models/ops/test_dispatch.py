"""Triton kernels agree with their plain twins, at small sizes and in float32, for all options of each operation.

They run on a GPU if there is one. Otherwise they run in Triton's interpreter (test_interpreted_kernels.py).
test_dispatch_gpu.py tests the published sizes in bfloat16.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from scenetok_ns.models.ops import dispatch as ops
from scenetok_ns.models.ops.rope import RotaryTable, angles_3d, rotary_table

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
EPS = 1e-3

kernels_run = pytest.mark.skipif(DEVICE == "cpu" and not INTERPRETED, reason="needs a CUDA device")


@pytest.fixture(autouse=True)
def with_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(ops, "_usable", lambda x: True)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, device=DEVICE)


def check(fast: Callable[..., Any], plain: Callable[..., Any], *args: Any, **options: Any) -> None:
    torch.testing.assert_close(fast(*args, **options), plain(*args, **options), rtol=1e-4, atol=1e-4)


def test_every_operation_has_a_plain_twin_and_a_kernel() -> None:
    """Checks the naming rule at the top of dispatch.py."""
    public = [name for name, value in vars(ops).items() if getattr(value, "__module__", "") == ops.__name__]
    operations = [name for name in public if not name.startswith("_") and name != "triton_available"]
    names = {name for name in operations if not name.endswith("_plain")}
    assert len(names) == 12 and {name + "_plain" for name in names} == set(operations) - names
    if INTERPRETED or DEVICE == "cuda":
        modules = (ops._elementwise(), ops._products(), ops._maps())
        launchers = {name for module in modules for name in vars(module) if name.endswith("_triton")}
        assert launchers == {name + "_triton" for name in names}


@kernels_run
@pytest.mark.parametrize("rows", [(2, 5), (1, 1), ()])
def test_norm_modulate(rows: tuple[int, ...]) -> None:
    x, scale, shift = normal(3, 2, 5, 24), normal(*rows, 24), normal(*rows, 24)
    check(ops.norm_modulate, ops.norm_modulate_plain, x, scale, shift, EPS)
    check(ops.norm_modulate, ops.norm_modulate_plain, x, scale, shift, EPS, normal(*x.shape))
    out = torch.empty_like(x)
    assert ops.norm_modulate(x, scale, shift, EPS, None, out) is out
    torch.testing.assert_close(out, ops.norm_modulate_plain(x, scale, shift, EPS), rtol=1e-4, atol=1e-4)


@kernels_run
def test_residuals() -> None:
    x, y = normal(2, 2, 3, 5, 24)
    gate, scale, shift = normal(3, 3, 5, 24)
    check(ops.gated_residual, ops.gated_residual_plain, x, gate, y)
    for own in (gate, None):
        check(ops.residual_norm, ops.residual_norm_plain, x, y, own, scale, shift, EPS)
    check(ops.add_with_bias, ops.add_with_bias_plain, x, y, normal(24))


def table() -> RotaryTable:
    cos, sin = rotary_table(angles_3d(16, 1, (2, 3)))
    return cos.to(DEVICE), sin.to(DEVICE)


@kernels_run
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("rotated", [False, True])
def test_heads_and_their_attention(normed: bool, rotated: bool) -> None:
    qkv = normal(2, 6, 9, 16)
    weight, rotary = normal(3, 16) if normed else None, table() if rotated else None
    check(ops.norm_rotate, ops.norm_rotate_plain, qkv[:, :, :3], weight, rotary, EPS)
    keys, values = (qkv[:, :, 3 * i : 3 * i + 3].transpose(1, 2) for i in (1, 2))
    if INTERPRETED:  # a GPU decides by its size whether to use this kernel, and multiplies float32 as TF32
        ops._products()._shared_memory = lambda device: 2**17
        check(ops._products().attend_triton, ops.attend_plain, qkv[:, :, :3], weight, rotary, keys, values, EPS)


@kernels_run
def test_activations() -> None:
    x, bias = normal(2, 5, 48), normal(48)
    check(ops.silu_product, ops.silu_product_plain, x)
    check(ops.bias_silu, ops.bias_silu_plain, x, bias)


@pytest.mark.skipif(not INTERPRETED, reason="a GPU multiplies float32 as TF32")
def test_linear_gated() -> None:
    x, residual, gate = normal(1, 1, 64, 128), normal(1, 1, 64, 64), normal(1, 64, 64)
    weight, bias = normal(64, 128) / 8, normal(64)
    layout = ops._layout(gate, residual)
    found = ops._products().linear_gated_triton(x, weight, bias, residual, gate, layout)
    expected = ops.linear_gated_plain(x, weight, bias, residual, gate)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@kernels_run
@pytest.mark.parametrize("gated", [False, True])
def test_depthwise_conv(gated: bool) -> None:
    x, bias = normal(1, 2, 3, 5, 8), normal(8)
    for own in (bias, None):
        check(ops.depthwise_conv, ops.depthwise_conv_plain, x, normal(27, 8), own, gated=gated)


@kernels_run
@pytest.mark.parametrize(("fold", "channels"), [((1, 1, 1), 4), ((1, 2, 2), 8), ((2, 2, 2), 16)])
def test_join_phases(fold: tuple[int, int, int], channels: int) -> None:
    phases = fold[0] * fold[1] * fold[2]
    x = normal(1, 2, 3, 2, channels)
    computed = normal(1, *(size + factor - 1 for size, factor in zip((2, 3, 2), fold, strict=True)), phases * 8)
    check(ops.join_phases, ops.join_phases_plain, computed, x, normal(8), fold)


@kernels_run
@pytest.mark.parametrize("silu", [False, True])
def test_group_norm(silu: bool) -> None:
    x, weight, bias, before = normal(2, 3, 5, 16), normal(16), normal(16), normal(16)
    for added in (before, None):
        check(ops.group_norm, ops.group_norm_plain, x, weight, bias, 4, EPS, added, silu=silu)


@kernels_run
def test_group_norm_of_a_nearly_constant_group_is_finite() -> None:
    """In some of these groups, rounding makes the mean of squares smaller than the square of the mean."""
    x = (1000 + 100 * torch.rand(24, 1, 1, 1, device=DEVICE)).expand(24, 3, 5, 16).contiguous()
    weight, bias = torch.ones(16, device=DEVICE), normal(16)
    found = ops.group_norm(x, weight, bias, 4, 1e-6, None, silu=False)
    assert found.isfinite().all() and (found - bias).abs().max() < 200
