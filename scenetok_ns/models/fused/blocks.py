"""Blocks with forward and backward pass written out, for training on CUDA: denoiser, generator and compressor.

They compute the same functions as the modules, whose parameters they use, and equal them up to rounding (tests). A
compiler moves about twice as much memory between matrix products as is needed. Here gradients of modulations go
straight to their columns, gradients of biases are summed where they arise, sums take place inside products, and cheap
results are recomputed instead of saved.

Names follow the rule of ops/dispatch.py: `FusedX` is the fused twin of the module `X` in networks/, and an operation
`NAME` stands beside `NAME_plain`. On a CPU the fused blocks run on the plain twins, for tests.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from scenetok_ns.models.fused.passes import FusedBlock, FusedCompressorBlock
from scenetok_ns.models.fused.sharing import SharedGradient, shared_gradient
from scenetok_ns.models.networks.block_execution import parts_of, set_runner
from scenetok_ns.models.networks.compressor import CompressorBlock
from scenetok_ns.models.networks.dit import Block

if TYPE_CHECKING:
    from scenetok_ns.models.fused.passes import FusedPass

FUSIBLE = (Block, CompressorBlock)
"""Modules that `fused_forward` knows."""

HEAD_DIMS = (16, 32, 64, 128)
"""Head dimensions that the kernels support."""


def fuse_for_training(network: nn.Module, *, in_float8: bool = False) -> None:
    """Run the blocks of a network on the fused kernels in training, wherever the kernels fit.

    They fit on CUDA, with Triton and with gradients for all parameters. Other blocks do not change.

    Args:
        network: Network whose blocks are changed in place.
        in_float8: Use FP8 products (`float8.py`).
    """
    if importlib.util.find_spec("triton") is None:
        return
    fused = partial(fused_forward, chain=object(), in_float8=in_float8)
    for part in parts_of(network):
        if isinstance(part, FUSIBLE):
            set_runner(part, fused=fused)


def fused_forward(
    block: nn.Module, checkpointing: str, *args: Any, chain: object | None = None, in_float8: bool = False
) -> Any:
    """Return what `block(*args)` returns, or NotImplemented if the kernels do not fit this block or its input.

    Args:
        block: A block of `FUSIBLE`.
        checkpointing: What the backward pass recomputes, see `block_execution.Checkpointing`. It always recomputes
            the products between halves of a feed-forward.
        *args: Arguments of the block's forward pass.
        chain: Identity of the blocks that share gradients of their common inputs, see `sharing.shared_gradient`.
        in_float8: Use FP8 for the products that `float8.py` names.
    """
    if not _usable(block, args):
        return NotImplemented
    if isinstance(block, Block):
        x, activated, context, *rotary = args
        inputs, table = (x, activated, context), rotary[0] if rotary else None
        return _run(FusedBlock, block, checkpointing, inputs, table, chain, in_float8)[0]
    tokens, views, activated, table = args
    return _run(FusedCompressorBlock, block, checkpointing, (tokens, views, activated), table, chain, in_float8)


def _usable(block: nn.Module, args: tuple[Any, ...]) -> bool:
    """Whether the kernels fit. Frozen blocks do not use them, because they mainly speed up gradients of parameters."""
    if len(args) > 4:  # the kernels take no mask of the self-attention
        return False
    return all(isinstance(x, torch.Tensor) for x in args[:3]) and fits_kernels(block)


def fits_kernels(part: nn.Module) -> bool:
    """Whether a part of a network can run fused: a block that trains as a whole, with heads of a known dimension."""
    if not isinstance(part, FUSIBLE):
        return False
    attention = part.attn if isinstance(part, Block) else part.attn1
    head_dim = attention.proj.in_features // attention.num_heads
    return head_dim in HEAD_DIMS and all(p.requires_grad and p.is_leaf for p in part.parameters())


def _run(
    kind: Callable[..., Any],
    block: nn.Module,
    checkpointing: str,
    inputs: tuple[Tensor, ...],
    rotary: Any,
    chain: object | None,
    in_float8: bool,
) -> tuple[Tensor, ...]:
    device = inputs[0].device.type
    parameters = dict(block.named_parameters())
    dtype = next(iter(parameters.values())).dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)

    def make() -> FusedPass:
        return kind(block, dtype, len(inputs[0]), checkpointing == "selective", rotary, in_float8)

    shared = [shared_gradient(x, chain, id(block)) for x in inputs[kind.NUM_SUMS :]]  # type: ignore[attr-defined]
    plan = Plan(make, dtype, list(parameters), checkpointing == "full", shared)
    return BlockFunction.apply(plan, *inputs, *parameters.values())


class Plan:
    """Everything except tensors that a fused block needs.

    Args:
        make: Creates a pass.
        dtype: Precision of the products.
        names: Names of the block's parameters.
        recompute: Run the forward pass once more in the backward pass instead of saving its results.
        shared: For each input that the block only reads, its gradient and whether this block releases it.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        dtype: torch.dtype,
        names: list[str],
        recompute: bool,
        shared: list[tuple[SharedGradient, bool]],
    ) -> None:
        self.make, self.dtype, self.names, self.recompute, self.shared = make, dtype, names, recompute, shared

    def run(self, inputs: tuple[Tensor, ...]) -> tuple[Any, tuple[Tensor, ...]]:
        """Return a pass, and its results as rows. Sums of blocks (the first inputs) keep their precision."""
        made = self.make()
        sums = made.NUM_SUMS
        rows = [x.detach().reshape(-1, x.shape[-1]).contiguous() for x in inputs]
        results = made.forward(*rows[:sums], *(x.to(self.dtype) for x in rows[sums:]))
        if made.recompute:
            made.weights.drop()
        return made, results


class BlockFunction(Function):
    """Map inputs, then parameters, to the results of a block."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, *tensors: Tensor) -> tuple[Tensor, ...]:
        inputs = tensors[: len(tensors) - len(plan.names)]
        made, results = plan.run(inputs)
        ctx.plan, ctx.shapes = plan, [x.shape for x in inputs]
        # Tensors without a graph: what a pass saves, or its inputs if it is run once more.
        ctx.saved = [x.detach() for x in inputs] if plan.recompute else made
        ctx.set_materialize_grads(False)
        return tuple(result.view(x.shape) for result, x in zip(results, inputs, strict=False))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        if ctx.saved is None:
            raise RuntimeError("fused block: its backward pass was already taken, and what it needs is freed")
        made, ctx.saved = ctx.plan.run(ctx.saved)[0] if ctx.plan.recompute else ctx.saved, None
        rows = [None if g is None else g.reshape(-1, g.shape[-1]).contiguous() for g in gradients]
        made.shared = [shared for shared, _ in ctx.plan.shared]
        sums = made.backward(*rows)
        others = (shared.release() if first else None for shared, first in ctx.plan.shared)
        shaped = (None if g is None else g.view(shape) for g, shape in zip((*sums, *others), ctx.shapes, strict=True))
        of_weights = made.weights.collect()
        return None, *shaped, *(of_weights[name] for name in ctx.plan.names)
