"""Blocks with their backward pass written out: results and all gradients equal those of the modules.

On a GPU the blocks run on the Triton kernels, on a CPU on their plain twins (test_operations.py compares these).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from support.small_networks import NETWORKS, denoiser_inputs, randomized, small_denoiser
from torch import Tensor, nn

from scenetok_ns.models.fused.blocks import fuse_for_training, fused_forward
from scenetok_ns.models.networks import block_execution
from scenetok_ns.models.networks.block_execution import parts_of, run_block, set_runner
from scenetok_ns.models.networks.compressor import CompressorBlock
from scenetok_ns.models.networks.dit import Block
from scenetok_ns.models.networks.layers import RMSNorm
from scenetok_ns.models.ops.rope import GridRotary, RotaryTable, angles_3d, rotary_table

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
gpu_only = pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")


@pytest.fixture(autouse=True)
def exact_products() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fused blocks run on a CPU, too."""
    monkeypatch.setattr(block_execution, "_on_gpu", lambda x: isinstance(x, Tensor))


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


def test_without_rotation_and_with_padded_feed_forwards() -> None:
    """The generator has such blocks; 80 * 8 / 3 = 213 hidden units are computed as 256."""
    block, args = block_of("denoiser", 80, 5), inputs_of("denoiser", 80, 5)[:3]
    expected = everything(block, args, block)
    found = everything(block, args, lambda *args: fused(block, "none", *args))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4, msg=name)


def gradients(network: nn.Module, run: Any) -> dict[str, Tensor]:
    network.zero_grad()
    run(network).square().mean().backward()
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


def check_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-6, msg=key)


@pytest.mark.skipif(DEVICE == "cuda", reason="these networks are fed on the CPU")
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_networks_of_fused_blocks(name: str, everywhere: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients of what all blocks read are added up among them."""
    make, run = NETWORKS[name]
    network = randomized(make())
    expected = gradients(network, run)
    fuse_for_training(network)
    calls: list[nn.Module] = []
    for part in parts_of(network):
        if part.runner is not None:
            fused = part.runner.fused
            set_runner(part, fused=lambda *args, fused=fused: (calls.append(args[0]), fused(*args))[1])
    check_equal(gradients(network, run), expected)
    assert calls == [part for part in parts_of(network) if part.repeated]


@pytest.mark.skipif(DEVICE == "cuda", reason="these networks are fed on the CPU")
def test_passes_over_the_same_state_keep_their_gradients_apart(everywhere: None) -> None:
    """Two predictions from one projected state: their blocks read the same tensor in both passes."""
    network = randomized(small_denoiser())
    latents, cameras, t_net, tokens = denoiser_inputs()

    def twice(network: Any) -> Tensor:
        state = network.project(tokens)
        first = network(latents, cameras, t_net, state)
        second = network(latents + 1, cameras, t_net, state)
        return torch.cat([first, second, first * second])

    def one_of_two(network: Any) -> Tensor:
        state = network.project(tokens)
        network(latents, cameras, t_net, state)
        return network(latents + 1, cameras, t_net, state)

    expected = [gradients(network, run) for run in (twice, one_of_two)]
    fuse_for_training(network)
    for run, value in zip((twice, one_of_two), expected, strict=True):
        check_equal(gradients(network, run), value)


def test_a_pass_is_taken_back_once() -> None:
    block, args = block_of("denoiser", 32, 2), inputs_of("denoiser", 32, 2)
    result = fused(block, "none", *args)
    result.sum().backward()
    with pytest.raises(RuntimeError, match="already taken"):
        result.sum().backward()


@pytest.mark.parametrize("change", ["frozen", "keys and values", "heads of 12"])
def test_what_the_kernels_are_not_for_is_left_to_the_module(change: str) -> None:
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
    """Compare both with float32, in the published sizes. Rows do not divide evenly among programs."""
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


def test_blocks_are_fused_for_training_only(everywhere: None) -> None:
    calls = []

    def declined(block: nn.Module, *args: Any) -> Any:
        calls.append(block)
        return NotImplemented

    block, args = block_of("denoiser", 48, 3), inputs_of("denoiser", 48, 3)
    set_runner(block, fused=declined)  # type: ignore[arg-type]
    expected = block(*args)
    assert torch.equal(run_block(block, *args), expected) and calls == [block]
    with torch.no_grad():
        run_block(block, *args)
    assert calls == [block]


def test_a_masked_pass_is_left_to_the_modules(everywhere: None) -> None:
    """The kernels accept no self-attention mask, so a pass with a mask must not run on them."""
    denoiser = randomized(small_denoiser()).to(DEVICE).requires_grad_(True)
    latents, cameras, t_net, tokens = denoiser_inputs()
    inputs = latents.to(DEVICE), denoiser.embed_poses(cameras.to(DEVICE)), t_net.to(DEVICE)

    def velocity() -> Tensor:
        return denoiser.velocity_causal(*inputs, denoiser.project(tokens.to(DEVICE)), 1).detach()

    plain = velocity()
    fuse_for_training(denoiser)
    torch.testing.assert_close(velocity(), plain)
    whole = denoiser.velocity(*inputs, denoiser.project(tokens.to(DEVICE)))
    assert float((whole - plain).abs().max()) > 1e-3
