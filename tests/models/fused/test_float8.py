"""FP8: the kernel and torch's product agree with their plain twins, and blocks with FP8 products with exact ones.

Without a GPU, the kernel runs in Triton's interpreter, in another process (see test_operations.py). The interpreter may
round to a neighbour, and halves numbers that rounding carries to the next power of two; a GPU does neither.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from scenetok_ns.models.fused import float8
from scenetok_ns.models.fused.blocks import fused_forward
from scenetok_ns.models.networks.compressor import CompressorBlock
from scenetok_ns.models.networks.dit import Block

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
ON_GPU = torch.cuda.is_available() and not INTERPRETED
DEVICE = "cuda" if ON_GPU else "cpu"
kernels_run = pytest.mark.skipif(not ON_GPU and not INTERPRETED, reason="needs a CUDA device or the interpreter")
multiplies = pytest.mark.skipif(
    not ON_GPU or torch.cuda.get_device_capability() < float8.CAPABILITY, reason="needs a GPU that multiplies FP8"
)


def test_in_the_interpreter() -> None:
    if INTERPRETED or ON_GPU:
        pytest.skip("the other tests run here")
    pytest.importorskip("triton", reason="torch comes without Triton here")
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pytest", "-rp", "-p", "no:cacheprovider", "-k", "kernel", __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "PASSED" in done.stdout, done.stdout[-3000:] + done.stderr[-2000:]


def rows(count: int, width: int) -> Tensor:
    """Rows of very different magnitudes, as a part of a wider tensor; the second row is zero."""
    torch.manual_seed(0)
    x = torch.randn(count, 3 * width) * 10.0 ** (torch.arange(count)[:, None] % 6 - 3)
    x[1] = 0
    return x.to(DEVICE, torch.bfloat16)[:, width : 2 * width]


@kernels_run
def test_the_kernel_rounds_as_its_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(float8, "uses_kernels", lambda x: True)
    x = rows(6, 48)
    (codes, scale), (expected, of_twin) = float8.quantize_rows(x), float8.quantize_rows_plain(x)
    torch.testing.assert_close(scale, of_twin)
    assert codes.dtype == torch.float8_e4m3fn and codes.is_contiguous()
    if not INTERPRETED:
        assert torch.equal(codes.float(), expected.float())
        return
    away = (codes.float() - expected.float()).abs() > expected.float().abs() / 8 + 2**-9
    assert away.float().mean() < 0.03


@multiplies
@pytest.mark.gpu
@pytest.mark.parametrize("bias", [False, True])
def test_torchs_product_is_the_plain_one(bias: bool) -> None:
    x, weight = rows(40, 64), torch.randn(96, 64, device=DEVICE).bfloat16()
    added = torch.randn(96, device=DEVICE).bfloat16() if bias else None
    expected = float8.product_plain(float8.quantize_rows(x), float8.quantize_rows(weight), added, torch.float32)
    found = float8.product(x, weight, added).float()
    assert (found - expected).norm() < 5e-3 * expected.norm()  # the result is rounded to bfloat16


def test_rounding_keeps_each_row_to_its_scale() -> None:
    x = rows(6, 48).float()
    codes, scale = float8.quantize_rows_plain(x)
    back = codes.float() * scale
    assert torch.equal(back[1], torch.zeros_like(back[1]))
    largest = x.abs().amax(1, keepdim=True)
    assert ((back - x).abs() <= x.abs() / 16 + largest / 448 / 2**9).all()
    torch.testing.assert_close(back.abs().amax(1, keepdim=True), largest)


@pytest.mark.skipif(ON_GPU, reason="on the CPU")
def test_a_product_multiplies_what_the_codes_stand_for() -> None:
    x, weight, bias = rows(6, 48), torch.randn(32, 48).bfloat16(), torch.randn(32).bfloat16()
    exact = x.float() @ weight.float().t() + bias.float()
    found = float8.product(x, weight, bias)
    assert found.dtype == torch.bfloat16
    error = ((found.float() - exact).norm(dim=1) / exact.norm(dim=1)).max()
    assert 1e-3 < error < 0.05
    assert float8.fits(weight) and not float8.fits(weight[:24]) and not float8.fits(weight[:, :40])


@pytest.mark.skipif(ON_GPU, reason="on the CPU")
@pytest.mark.parametrize("kind", ["denoiser", "compressor"])
def test_blocks_differ_by_the_rounding_alone(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compares results and all gradients, and counts the products that run in FP8."""
    torch.manual_seed(0)
    block: nn.Module = Block(64, 4, 4.0) if kind == "denoiser" else CompressorBlock(64, 4, 4.0, last=False)
    for parameter in block.parameters():
        nn.init.normal_(parameter, 0.5 if parameter.ndim == 1 else 0.0, 0.1)
    args = [torch.randn(2, 12, 64) for _ in range(3)] + ([] if kind == "denoiser" else [None])
    calls: list[Tensor] = []
    product = float8.product
    monkeypatch.setattr(float8, "product", lambda *given: (calls.append(given[0]), product(*given))[1])
    found = []
    for in_float8 in (False, True):
        block.zero_grad()
        inputs = [None if x is None else x.clone().requires_grad_() for x in args]
        result = fused_forward(block, "none", *inputs, in_float8=in_float8)
        results = result if isinstance(result, tuple) else (result,)
        sum(each.square().sum() for each in results).backward()
        # A bias of keys shifts all scores equally, so its gradient without rounding is zero.
        weights = [p for name, p in block.named_parameters() if not name.endswith("to_k.bias")]
        gradients = [x.grad for x in (*inputs, *weights) if x is not None]
        found.append([*(each.detach() for each in results), *gradients])
        assert len(calls) == (0 if not in_float8 else 11 if kind == "denoiser" else 19)
    for exact, rounded in zip(*found, strict=True):
        error = (rounded - exact).norm() / exact.norm()
        assert 0 <= error < 0.15
    assert any(not torch.equal(exact, rounded) for exact, rounded in zip(*found, strict=True))
