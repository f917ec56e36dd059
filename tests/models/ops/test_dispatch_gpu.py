"""Triton kernels in bfloat16, at the sizes of the published networks, agree with their plain twins in float32."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from scenetok_ns.models.ops import dispatch as ops
from scenetok_ns.models.ops.rope import angles_3d, rotary_table

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = torch.device("cuda")


def relative_error(found: Tensor, exact: Tensor) -> float:
    return float((found.float() - exact).norm() / exact.norm())


@pytest.mark.parametrize("shape", [(1, 1, 512, 1024), (2, 1, 640, 1536), (1, 3, 70, 192)])
@pytest.mark.parametrize("kind", ["each token", "one row", "latents first", "channels"])
def test_norm_modulate(shape: tuple[int, ...], kind: str) -> None:
    b, n, dim = shape[1:]
    torch.manual_seed(0)
    x = torch.randn(shape, device=CUDA, dtype=torch.bfloat16)
    rows = {"each token": (b, n), "one row": (1, 1), "latents first": (n, b), "channels": ()}[kind]
    both = torch.randn(*rows, 5 * dim, device=CUDA, dtype=torch.bfloat16)
    both = both.transpose(0, 1) if kind == "latents first" else both
    scale, shift = both[..., dim : 2 * dim], both[..., 3 * dim : 4 * dim]
    exact = F.rms_norm(x.float(), (dim,), eps=1e-6) * scale.float() + shift.float()
    for residual in (None, x):
        found = ops.norm_modulate(x, scale, shift, 1e-6, residual)
        assert relative_error(found, exact if residual is None else exact + x.float()) < 4e-3


@pytest.mark.parametrize("shape", [(1, 1, 512, 1024), (2, 1, 70, 192)])
@pytest.mark.parametrize("gated", [False, True])
def test_residual_norm(shape: tuple[int, ...], gated: bool) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(2, *shape, device=CUDA, dtype=torch.bfloat16)
    both = torch.randn(*shape[1:3], 5 * shape[3], device=CUDA, dtype=torch.bfloat16)
    shift, scale, gate = both.chunk(5, dim=-1)[:3]
    total = x.float() + (gate.float() * y.float() if gated else y.float())
    exact = F.rms_norm(total, shape[3:], eps=1e-6) * scale.float() + shift.float()
    found = ops.residual_norm(x, y, gate if gated else None, scale, shift, 1e-6)
    assert relative_error(found[0], total) < 4e-3 and relative_error(found[1], exact) < 6e-3
    if gated:
        assert relative_error(ops.gated_residual(x, gate, y), total) < 4e-3


@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("normed", [False, True])
def test_norm_rotate(rotary: bool, normed: bool) -> None:
    torch.manual_seed(0)
    qkv = torch.randn(2, 512, 48, 64, device=CUDA, dtype=torch.bfloat16)
    weight = torch.rand(32, 64, device=CUDA, dtype=torch.bfloat16) + 0.5 if normed else None
    table = rotary_table(angles_3d(64, 8, (8, 8), CUDA)) if rotary else None
    found = ops.norm_rotate(qkv[:, :, :32], weight, table, 1e-6)
    exact = ops.norm_rotate_plain(qkv[:, :, :32].float(), None if weight is None else weight.float(), table, 1e-6)
    assert found.shape == exact.shape and relative_error(found, exact) < 4e-3


@pytest.mark.parametrize("side", [3, 5])
@pytest.mark.parametrize("gated", [False, True])
def test_depthwise_conv(side: int, gated: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 6, 9, 20, 192, device=CUDA, dtype=torch.bfloat16)
    weight = torch.randn(side**3, 192, device=CUDA, dtype=torch.bfloat16) / side
    bias = torch.randn(192, device=CUDA, dtype=torch.bfloat16)
    for own in (bias, None):
        found = ops.depthwise_conv(x, weight, own, gated=gated)
        exact = ops.depthwise_conv_plain(x.float(), weight.float(), None if own is None else own.float(), gated=gated)
        assert relative_error(found, exact) < 4e-3


@pytest.mark.parametrize("num_keys", [512, 200])
@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("batch", [1, 2])  # two do not fit a GPU of 132 processors at once
def test_attend(num_keys: int, rotary: bool, batch: int) -> None:
    torch.manual_seed(0)
    qkv = torch.randn(batch, 512, 48, 64, device=CUDA, dtype=torch.bfloat16)
    weight = torch.rand(16, 64, device=CUDA, dtype=torch.bfloat16) + 0.5
    table = rotary_table(angles_3d(64, 8, (8, 8), CUDA)) if rotary else None
    keys, values = (qkv[:, :num_keys, 16 * i : 16 * (i + 1)].transpose(1, 2) for i in (1, 2))
    found = ops.attend(qkv[:, :, :16], weight, table, keys, values, 1e-6)
    exact = ops.attend_plain(qkv[:, :, :16].float(), weight.float(), table, keys.float(), values.float(), 1e-6)
    assert found.shape == exact.shape and relative_error(found, exact) < 6e-3


@pytest.mark.parametrize("rows", [512, 1024, 70])
def test_linear_gated(rows: int) -> None:
    torch.manual_seed(0)
    x, residual = torch.randn(2, 1, 1, rows, 1024, device=CUDA, dtype=torch.bfloat16)
    weight, bias = (torch.randn(*shape, device=CUDA, dtype=torch.bfloat16) / 32 for shape in ((1024, 1024), (1024,)))
    gate = torch.randn(1, rows, 3 * 1024, device=CUDA, dtype=torch.bfloat16)[..., 1024:2048]
    found = ops.linear_gated(x, weight, bias, residual, gate)
    exact = residual.float() + gate.float() * F.linear(x.float(), weight.float(), bias.float())
    assert relative_error(found, exact) < 6e-3


@pytest.mark.parametrize("fold", [(1, 1, 1), (1, 2, 2), (2, 2, 2)])
@pytest.mark.parametrize("channels", [128, 256])
def test_join_phases(fold: tuple[int, int, int], channels: int) -> None:
    torch.manual_seed(0)
    phases = fold[0] * fold[1] * fold[2]
    x = torch.randn(1, 3, 5, 7, channels if phases > 1 else 32, device=CUDA, dtype=torch.bfloat16)
    sizes = [size + factor - 1 for size, factor in zip((3, 5, 7), fold, strict=True)]
    computed = torch.randn(1, *sizes, phases * 128, device=CUDA, dtype=torch.bfloat16)
    bias = torch.randn(128, device=CUDA, dtype=torch.bfloat16)
    exact = ops.join_phases_plain(computed.float(), x.float(), bias.float(), fold)
    assert relative_error(ops.join_phases(computed, x, bias, fold), exact) < 4e-3


def test_activations() -> None:
    x = torch.randn(3, 50, 2 * 2752, device=CUDA, dtype=torch.bfloat16)
    bias = torch.randn(2 * 2752, device=CUDA, dtype=torch.bfloat16)
    assert relative_error(ops.silu_product(x), ops.silu_product_plain(x.float())) < 4e-3
    assert relative_error(ops.bias_silu(x, bias), ops.bias_silu_plain(x.float(), bias.float())) < 4e-3


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("channels", [128, 512])
def test_group_norm(silu: bool, channels: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 40, 36, channels, device=CUDA, dtype=torch.bfloat16) + 2
    weight, bias, before = torch.randn(3, channels, device=CUDA, dtype=torch.bfloat16)
    arguments = (weight, bias, 32, 1e-6, before)
    exact = ops.group_norm_plain(
        x.double(), *(a.double() if isinstance(a, Tensor) else a for a in arguments), silu=silu
    )
    assert relative_error(ops.group_norm(x, *arguments, silu=silu), exact.float()) < 4e-3
