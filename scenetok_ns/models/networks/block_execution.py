"""How the networks' blocks run in training: compiled, and with activations recomputed in the backward pass.

Both are settings of modules, not parts of them: no parameter or key of a state dict changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from scenetok_ns.models.ops.dispatch import triton_available

Checkpointing = Literal["none", "selective", "full"]
"""What of a block is computed again in the backward pass instead of being kept: nothing; all that is cheap (norms,
rotations, modulations, activations), so that only products of matrices and attentions are kept; everything."""

BACKEND = "inductor"
"""Of torch.compile; tests take one that builds no kernels."""

_COMPILED = "_compiled_for_training"
_FUSED = "_fused_for_training"

_aten = torch.ops.aten
_KEPT = frozenset(
    {
        _aten.mm.default,
        _aten.addmm.default,
        _aten.bmm.default,
        _aten._scaled_dot_product_cudnn_attention.default,
        _aten._scaled_dot_product_efficient_attention.default,
        _aten._scaled_dot_product_flash_attention.default,
        _aten._scaled_dot_product_flash_attention_for_cpu.default,
    }
)
"""Operations whose results selective checkpointing keeps."""


def run_block(block: nn.Module, checkpointing: Checkpointing, *args: Any) -> Any:
    """Call a block, as `compile_for_training` and `checkpointing` say where gradients are wanted.

    Without gradients it is called as it is: rendering has other shapes, and would compile for each of them.
    """
    if not torch.is_grad_enabled():
        return block(*args)
    fused = block.__dict__.get(_FUSED)
    if fused is not None and _on_gpu(args[0]) and (result := fused(block, checkpointing, *args)) is not NotImplemented:
        return result
    compiled = block.__dict__.get(_COMPILED)
    if checkpointing == "full":
        call = block if compiled is None else partial(compiled, False)
        return checkpoint(call, *args, use_reentrant=False)
    if compiled is not None:
        return compiled(checkpointing == "selective", *args)
    return _selective(block.forward, *args) if checkpointing == "selective" else block(*args)


def compile_for_training(modules: Iterable[nn.Module]) -> None:
    """Compile modules that are called through `run_block`: each kind and shape once, however many there are."""
    import torch._dynamo

    # A block is smaller than a bucket of gradients: cut at bucket borders, it would be compiled in pieces.
    torch._dynamo.config.optimize_ddp = False
    for module in modules:
        module.__dict__[_COMPILED] = torch.compile(partial(_forward, module), backend=BACKEND, dynamic=False)


def _on_gpu(x: torch.Tensor) -> bool:
    return x.is_cuda and triton_available()


def _forward(module: nn.Module, selective: bool, *args: Any) -> Any:
    """What is compiled: the compiler itself carries out the selection, and joins what is computed again."""
    return _selective(module.forward, *args) if selective else module.forward(*args)


def _selective(function: Callable[..., Any], *args: Any) -> Any:
    contexts = partial(create_selective_checkpoint_contexts, _keep_products)
    return checkpoint(function, *args, use_reentrant=False, context_fn=contexts)


def _keep_products(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in _KEPT else CheckpointPolicy.PREFER_RECOMPUTE


_ATTRIBUTE = "_gradient_shared_by_blocks"


class SharedGradient:
    """Each block adds to it inside of a product. That costs less than what autograd does: to write each share, and to
    add it in a pass of its own."""

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.taken = False
        """Whether a block is there that gives it out: the first, whose backward pass is the last."""

    def add(self, gradient: Tensor, weight: Tensor) -> None:
        self.total = gradient @ weight if self.total is None else self.total.addmm_(gradient, weight)

    def give_out(self) -> Tensor | None:
        total, self.total = self.total, None
        return total


def read_by_blocks(x: Tensor) -> Tensor:
    """The same, for one pass through blocks that follow one another: fused ones will add up its gradient together."""
    x = x.view_as(x)
    if torch.is_grad_enabled():
        setattr(x, _ATTRIBUTE, SharedGradient())
    return x


def shared_gradient(x: Tensor) -> SharedGradient:
    """That of `read_by_blocks`, or one of this block alone."""
    return getattr(x, _ATTRIBUTE, None) or SharedGradient()
