"""Blocks on kernels of our own: results and all gradients equal those of the modules.

On a GPU if there is one. Without, the kernels run in Triton's interpreter, which is chosen when Triton is imported: in
another process, that runs this file once more.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from support.small_networks import NETWORKS, randomized
from torch import Tensor, nn

from scenetok_ns.models.networks import block_execution as compilation
from scenetok_ns.models.networks.compressor import CompressorBlock
from scenetok_ns.models.networks.dit import Block
from scenetok_ns.models.networks.layers import RMSNorm
from scenetok_ns.models.ops.rope import GridRotary, RotaryTable, angles_3d, rotary_table

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"

kernels_run = pytest.mark.skipif(DEVICE == "cpu" and not INTERPRETED, reason="needs a CUDA device")
gpu_only = pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")


@pytest.fixture(autouse=True)
def few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    if INTERPRETED:
        from scenetok_ns.models.fused import operations

        monkeypatch.setattr(operations, "PROGRAMS", 6)


@pytest.fixture(autouse=True)
def exact_products() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def test_in_the_interpreter() -> None:
    if INTERPRETED or DEVICE == "cuda":
        pytest.skip("the other tests run here")
    pytest.importorskip("triton", reason="torch comes without Triton here")
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pytest", "-rp", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "PASSED" in done.stdout, done.stdout[-1000:]


def block_of(kind: str, dim: int, heads: int) -> nn.Module:
    torch.manual_seed(0)
    block: nn.Module = (
        Block(dim, heads, 4.0) if kind == "denoiser" else CompressorBlock(dim, heads, 4.0, last=kind == "last")
    )
    for layer in block.modules():
        for name, parameter in layer.named_parameters(recurse=False):
            mean, std = (0.7, 0.2) if isinstance(layer, RMSNorm) else (0.0, 0.3 if name == "bias" else 0.1)
            nn.init.normal_(parameter, mean, std)
    return block.to(DEVICE)


def inputs_of(kind: str, dim: int, heads: int, *, latents: int = 2, keys: int = 5, batch: int = 3) -> list[Any]:
    """Arguments of the block's forward; other lengths for queries, keys and positions."""
    if kind == "denoiser":
        lengths, rotary = (4 * latents, 4 * latents, keys), rotary_table(angles_3d(dim // heads, latents, (2, 2)))
    else:
        lengths, rotary = (keys, 4 * latents, 4 * latents), GridRotary(dim // heads, (2, 2))(latents)
    table: RotaryTable = (rotary[0].to(DEVICE), rotary[1].to(DEVICE))
    return [torch.randn(batch, n, dim, device=DEVICE) for n in lengths] + [table]


def fused(block: nn.Module, checkpointing: Any, *args: Any) -> Any:
    from scenetok_ns.models.fused.blocks import fused_forward

    result = fused_forward(block, checkpointing, *args)
    assert result is not NotImplemented
    return result


def everything(block: nn.Module, args: list[Any], run: Any) -> dict[str, Tensor]:
    """Results, and gradients of inputs and parameters."""
    block.zero_grad()
    inputs = [x.detach().clone().requires_grad_() if isinstance(x, Tensor) else x for x in args]
    results = run(*inputs)
    results = results if isinstance(results, tuple) else (results,)
    torch.manual_seed(1)
    torch.autograd.backward(results, [torch.randn(x.shape).to(x) for x in results])
    found = {f"result {i}": x.detach() for i, x in enumerate(results)}
    found |= {f"input {i}": x.grad for i, x in enumerate(inputs) if isinstance(x, Tensor) and x.grad is not None}
    return found | {name: p.grad for name, p in block.named_parameters() if p.grad is not None}


@kernels_run
@pytest.mark.parametrize("kind", ["denoiser", "compressor", "last"])
@pytest.mark.parametrize("checkpointing", ["none", "selective", "full"])
def test_equal_to_the_module(kind: str, checkpointing: str) -> None:
    block, args = block_of(kind, 48, 3), inputs_of(kind, 48, 3)
    expected = everything(block, args, block)
    found = everything(block, args, lambda *args: fused(block, checkpointing, *args))
    assert found.keys() == expected.keys() and len(found) >= len(dict(block.named_parameters()))
    for name, value in expected.items():
        error = (found[name] - value).norm() / value.norm().clamp_min(1e-6)
        assert found[name].shape == value.shape and error < 3e-5, f"{name}: {error:.1e}"


@kernels_run
def test_without_rotation_and_with_padded_feed_forwards() -> None:
    """As in the generator; and 80 * 8 / 3 = 213 hidden units are computed as 256."""
    block, args = block_of("denoiser", 80, 5), inputs_of("denoiser", 80, 5)[:3]
    expected = everything(block, args, block)
    found = everything(block, args, lambda *args: fused(block, "none", *args))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4, msg=name)


@kernels_run
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_networks_of_fused_blocks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients of what all blocks read are added up among them."""
    make, run = NETWORKS[name]
    network = randomized(make())
    if DEVICE == "cuda":
        pytest.skip("these networks are fed on the CPU")

    def gradients() -> dict[str, Tensor]:
        network.zero_grad()
        run(network).square().mean().backward()
        return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}

    expected = gradients()
    monkeypatch.setattr(compilation, "_on_gpu", lambda x: True)
    compilation.fuse_for_training(network.compilable())
    found, used = gradients(), [m for m in network.modules() if compilation._FUSED in m.__dict__]
    assert used and found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-6, msg=key)


@kernels_run
def test_a_pass_is_taken_back_once() -> None:
    block, args = block_of("denoiser", 32, 2), inputs_of("denoiser", 32, 2)
    result = fused(block, "none", *args)
    result.sum().backward()
    with pytest.raises(RuntimeError, match="already taken"):
        result.sum().backward()


@kernels_run
@pytest.mark.parametrize("change", ["frozen", "keys and values", "heads of 12"])
def test_what_the_kernels_are_not_for_is_left_to_the_module(change: str) -> None:
    from scenetok_ns.models.fused.blocks import fused_forward

    dim = 36 if change == "heads of 12" else 48
    block, args = block_of("denoiser", dim, 3), inputs_of("denoiser", dim, 3)
    if change == "frozen":
        block.get_parameter("norm1.weight").requires_grad_(False)
    if change == "keys and values":
        args[2] = (args[2], args[2])
    assert fused_forward(block, "none", *args) is NotImplemented


@pytest.mark.gpu
@gpu_only
@pytest.mark.parametrize("checkpointing", ["none", "selective"])
@pytest.mark.parametrize(("kind", "dim"), [("denoiser", 1024), ("compressor", 768), ("last", 768)])
def test_as_exact_as_the_module_in_half_precision(kind: str, dim: int, checkpointing: str) -> None:
    """Of the published sizes: both are compared with float32. Rows do not divide evenly among programs."""
    heads = dim // 64
    block, args = block_of(kind, dim, heads), inputs_of(kind, dim, heads, latents=50, keys=300, batch=5)
    args[1:3] = [x.bfloat16() for x in args[1:3]]
    if kind == "denoiser":
        args[0] = args[0].bfloat16()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.mul_(0.3)
    exact = everything(block, [x.float() if isinstance(x, Tensor) else x for x in args], block)
    with torch.autocast("cuda", torch.bfloat16):
        plain = everything(block, args, block)
        found = everything(block, args, lambda *args: fused(block, checkpointing, *args))
    for name, value in exact.items():
        assert found[name].dtype == plain[name].dtype
        errors = [float((x[name].float() - value).norm() / value.norm().clamp_min(1e-6)) for x in (plain, found)]
        assert errors[1] < 1.3 * errors[0] + 1e-3, f"{name}: module {errors[0]:.1e}, fused {errors[1]:.1e}"


@pytest.mark.gpu
@gpu_only
def test_networks_take_fused_blocks_for_training_only(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def declined(block: nn.Module, *args: Any) -> Any:
        calls.append(block)
        return NotImplemented

    monkeypatch.setattr("scenetok_ns.models.fused.blocks.fused_forward", declined)
    block, args = block_of("denoiser", 48, 3), inputs_of("denoiser", 48, 3)
    compilation.fuse_for_training([block])
    compilation.run_block(block, "none", *args)
    assert calls == [block]
    with torch.no_grad():
        compilation.run_block(block, "none", *args)
    assert calls == [block]
