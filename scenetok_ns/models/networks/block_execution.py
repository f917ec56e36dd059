"""How parts of the networks run in training: compiled, fused, or with activations recomputed in the backward pass.

The networks call their parts through `run_block` and need not know how they run. To compile, fuse or checkpoint a part,
give it a `Runner`, which is an attribute of the part. No parameter and no key of a state dict changes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from scenetok_ns.models.ops.dispatch import triton_available

Checkpointing = Literal["none", "selective", "full"]
"""Activations that the backward pass recomputes: none; the cheap ones (norms, rotations, modulations, activation
functions), so that only results of matrix products and attentions are saved; or all of them."""

BACKEND = "inductor"
"""Backend of torch.compile. Tests choose one that builds no kernels."""

_aten = torch.ops.aten
_SAVED = frozenset(
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
"""Operations whose results selective checkpointing saves."""


class Part(nn.Module):
    """A module that a network calls through `run_block`."""

    repeated: ClassVar[bool] = False
    """Whether a network consists mainly of such parts, so that checkpointing them is worth the time."""
    runner: Runner | None = None
    """Runs the part if gradients are wanted. None: the part is called as it is."""


@dataclass(frozen=True)
class Runner:
    """How a part runs if gradients are wanted."""

    checkpointing: Checkpointing = "none"
    compiled: Callable[..., Any] | None = None
    """The compiled forward pass. Takes the part's arguments after a flag for selective checkpointing."""
    fused: Callable[..., Any] | None = None
    """The forward and backward pass on fused kernels, called as fused(part, checkpointing, *args). Returns
    NotImplemented if the kernels do not fit the part or its input."""

    def __call__(self, part: Part, *args: Any) -> Any:
        if self.fused is not None and _on_gpu(args[0]):
            result = self.fused(part, self.checkpointing, *args)
            if result is not NotImplemented:
                return result
        if self.checkpointing == "full":
            call = part if self.compiled is None else partial(self.compiled, False)
            return checkpoint(call, *args, use_reentrant=False)
        if self.compiled is not None:
            return self.compiled(self.checkpointing == "selective", *args)
        return _selective(part.forward, *args) if self.checkpointing == "selective" else part(*args)

    def __deepcopy__(self, memo: dict[int, Any]) -> Runner:
        """Return a runner for a copied part: compiled and fused passes are bound to the original and stay behind."""
        return Runner(self.checkpointing)


def run_block(part: nn.Module, *args: Any) -> Any:
    """Call a part of a network, through its runner if it has one and gradients are wanted.

    Without gradients the part is called as it is: rendering has other shapes, and each of them would be compiled.
    """
    runner = getattr(part, "runner", None)
    if runner is None or not torch.is_grad_enabled():
        return part(*args)
    return runner(part, *args)


def parts_of(network: nn.Module) -> list[Part]:
    """All parts of a network, in the order in which it declares them."""
    return [module for module in network.modules() if isinstance(module, Part)]


def set_runner(part: Part, **changes: Any) -> None:
    """Change fields of a part's `Runner`."""
    part.runner = replace(part.runner or Runner(), **changes)


def checkpoint_for_training(network: nn.Module, checkpointing: Checkpointing) -> None:
    """Choose which activations of a network's repeated parts the backward pass recomputes, to save memory."""
    for part in parts_of(network):
        if part.repeated:
            set_runner(part, checkpointing=checkpointing)


def compile_for_training(network: nn.Module) -> None:
    """Compile the parts of a network. Parts of the same kind and shape are compiled only once."""
    import torch._dynamo

    # DDP would split the compiled graph at the borders of its gradient buckets. Blocks are smaller than a bucket.
    torch._dynamo.config.optimize_ddp = False
    for part in parts_of(network):
        set_runner(part, compiled=torch.compile(partial(_forward, part), backend=BACKEND, dynamic=False))


def _on_gpu(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and x.is_cuda and triton_available()


def _forward(part: Part, selective: bool, *args: Any) -> Any:
    """Function to compile. The compiler itself applies selective checkpointing, and fuses what is recomputed."""
    return _selective(part.forward, *args) if selective else part.forward(*args)


def _selective(function: Callable[..., Any], *args: Any) -> Any:
    contexts = partial(create_selective_checkpoint_contexts, _save_products)
    return checkpoint(function, *args, use_reentrant=False, context_fn=contexts)


def _save_products(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in _SAVED else CheckpointPolicy.PREFER_RECOMPUTE
