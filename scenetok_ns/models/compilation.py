"""How the networks' blocks run in training: compiled, and with activations recomputed in the backward pass.

Both are settings of modules, not parts of them: no parameter or key of a state dict changes.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

Checkpointing = Literal["none", "selective", "full"]
"""What of a block is computed again in the backward pass instead of being kept: nothing; all that is cheap (norms,
rotations, modulations, activations), so that only products of matrices and attentions are kept; everything."""

SELECTIVE_BUDGET = 0.85
"""Part of its activations that a compiled block keeps under selective checkpointing."""

BACKEND = "inductor"
"""Of torch.compile; tests take one that builds no kernels."""

_COMPILED = "_compiled_for_training"

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
    call = block.__dict__.get(_COMPILED, block)
    if checkpointing == "full":
        return checkpoint(call, *args, use_reentrant=False)
    if checkpointing == "selective" and call is block:  # a compiled block keeps no more than it needs
        contexts = partial(create_selective_checkpoint_contexts, _keep_products)
        return checkpoint(call, *args, use_reentrant=False, context_fn=contexts)
    return call(*args)


def compile_for_training(modules: Iterable[nn.Module], *, keep_less: bool = False) -> None:
    """Compile modules that are called through `run_block`: each kind and shape once, however many there are.

    keep_less: they keep `SELECTIVE_BUDGET` of what they would keep for the backward pass, and compute again what
    costs least for its size.
    """
    import torch._dynamo
    import torch._functorch.config

    # A block is smaller than a bucket of gradients: cut at bucket borders, it would be compiled in pieces.
    torch._dynamo.config.optimize_ddp = False
    torch._functorch.config.activation_memory_budget = SELECTIVE_BUDGET if keep_less else 1.0
    for module in modules:
        module.__dict__[_COMPILED] = torch.compile(module.forward, backend=BACKEND, dynamic=False)


def _keep_products(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in _KEPT else CheckpointPolicy.PREFER_RECOMPUTE
