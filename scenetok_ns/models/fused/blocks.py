"""Blocks with forward and backward pass written out, for training on CUDA: denoiser, generator and compressor.

The same functions as the modules, whose parameters they use, and equal to them but for rounding (tests). What a
compiler makes of the modules moves about twice as much memory between products of matrices as is needed. Here gradients
of modulations go straight to their columns, biases' gradients are summed where they arise, sums take place inside of
products, and what is cheap is computed again instead of kept.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from scenetok_ns.models.fused.passes import BlockPass, CompressorPass, DenoiserPass
from scenetok_ns.models.networks.block_execution import _FUSED, SharedGradient, shared_gradient
from scenetok_ns.models.networks.compressor import CompressorBlock
from scenetok_ns.models.networks.dit import Block

FUSIBLE = (Block, CompressorBlock)
"""Modules that `fused_forward` knows."""

HEAD_DIMS = (16, 32, 64, 128)
"""That the kernels can work on."""


def fused_forward(block: nn.Module, checkpointing: str, *args: Any) -> Any:
    """What `block(*args)` gives; NotImplemented, if this block or its input is not one for the kernels.

    checkpointing: what is computed again in the backward pass, see `compilation.Checkpointing`. Products between halves
    of a feed-forward always are.
    """
    if not _usable(block, args):
        return NotImplemented
    if isinstance(block, Block):
        x, activated, context, *rotary = args
        return _run(DenoiserPass, block, checkpointing, (x, activated, context), rotary[0] if rotary else None)[0]
    tokens, views, activated, table = args
    return _run(CompressorPass, block, checkpointing, (tokens, views, activated), table)


def _usable(block: nn.Module, args: tuple[Any, ...]) -> bool:
    """Frozen blocks don't profit: most of the work here is for gradients of parameters."""
    if not isinstance(block, FUSIBLE) or not all(isinstance(x, torch.Tensor) for x in args[:3]):
        return False
    attention = block.attn if isinstance(block, Block) else block.attn1
    head_dim = attention.proj.in_features // attention.num_heads
    parameters = list(block.parameters())
    return head_dim in HEAD_DIMS and all(p.requires_grad and p.is_leaf for p in parameters)


def _run(
    kind: Callable[..., Any], block: nn.Module, checkpointing: str, inputs: tuple[Tensor, ...], rotary: Any
) -> tuple[Tensor, ...]:
    device = inputs[0].device.type
    parameters = dict(block.named_parameters())
    dtype = next(iter(parameters.values())).dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)

    def make() -> BlockPass:
        return kind(block, dtype, len(inputs[0]), checkpointing == "selective", rotary)

    plan = Plan(make, dtype, list(parameters), checkpointing == "full")
    return FusedBlock.apply(plan, *inputs, *parameters.values())


class Plan:
    """What a fused block needs beside tensors."""

    def __init__(self, make: Callable[[], Any], dtype: torch.dtype, names: list[str], again: bool) -> None:
        self.make, self.dtype, self.names, self.again = make, dtype, names, again
        self.shared: list[SharedGradient] = []
        self.gives_out: list[bool] = []

    def share(self, inputs: tuple[Tensor, ...]) -> None:
        for x in inputs:
            shared = shared_gradient(x)
            self.shared.append(shared)
            self.gives_out.append(not shared.taken)
            shared.taken = True

    def run(self, inputs: tuple[Tensor, ...]) -> tuple[Any, tuple[Tensor, ...]]:
        """A pass, and its results as rows. Sums of blocks (the first inputs) keep their precision."""
        made = self.make()
        kept = made.NUM_SUMS
        rows = [x.detach().reshape(-1, x.shape[-1]).contiguous() for x in inputs]
        results = made.forward(*rows[:kept], *(x.to(self.dtype) for x in rows[kept:]))
        if made.recompute:
            made.weights.drop()
        return made, results


class FusedBlock(Function):
    """Inputs, then parameters -> results of a block."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, *tensors: Tensor) -> tuple[Tensor, ...]:
        count = len(tensors) - len(plan.names)
        inputs = tensors[:count]
        made, results = plan.run(inputs)
        plan.share(inputs[made.NUM_SUMS :])
        ctx.plan, ctx.shapes = plan, [x.shape for x in inputs]
        # Tensors that belong to no graph: what is kept of a pass, or of its inputs where it is run again.
        ctx.kept = [x.detach() for x in inputs] if plan.again else made
        ctx.set_materialize_grads(False)
        return tuple(result.view(x.shape) for result, x in zip(results, inputs, strict=False))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        if ctx.kept is None:
            raise RuntimeError("fused block: its backward pass was already taken, and what it needs is freed")
        made, ctx.kept = ctx.plan.run(ctx.kept)[0] if ctx.plan.again else ctx.kept, None
        rows = [None if g is None else g.reshape(-1, g.shape[-1]).contiguous() for g in gradients]
        made.shared = ctx.plan.shared
        sums = made.backward(*rows)
        others = (x.give_out() if last else None for x, last in zip(made.shared, ctx.plan.gives_out, strict=True))
        shaped = (None if g is None else g.view(shape) for g, shape in zip((*sums, *others), ctx.shapes, strict=True))
        of_weights = made.weights.collect()
        return None, *shaped, *(of_weights[name] for name in ctx.plan.names)


def fuse_for_training(modules: Iterable[nn.Module]) -> None:
    """Let blocks that are called through `run_block` run on the kernels of `fused/` where they can: on CUDA, with
    Triton and gradients for all parameters. Elsewhere nothing changes."""
    if importlib.util.find_spec("triton") is None:
        return
    from scenetok_ns.models.fused.blocks import FUSIBLE, fused_forward  # it imports the blocks

    for module in modules:
        if isinstance(module, FUSIBLE):
            module.__dict__[_FUSED] = fused_forward
