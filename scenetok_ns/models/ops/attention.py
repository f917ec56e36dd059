"""Attention for all networks: flash-attn if it is installed and fits, else torch's own choice of kernel."""

from __future__ import annotations

import importlib
import logging
from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

logger = logging.getLogger(__name__)

FLASH_MAX_HEAD_DIM = 256
"""Maximum head dimension of the flash-attn kernels, which also need a multiple of 8."""

FLASH_4_MAX_HEAD_DIM = 128
"""Maximum head dimension of version 4 on Blackwell, for sequences of any length."""

_MODULES = {2: "flash_attn", 3: "flash_attn_interface", 4: "flash_attn.cute"}
"""Module of each version of flash-attn. All have `flash_attn_func` on [b, length, heads, d]."""

_PREFERRED = {8: (2,), 9: (3, 4, 2), 10: (4, 2), 11: (4, 2), 12: (2,)}
"""Versions for each generation of GPUs (major compute capability), fastest first. Version 4 rejects generation 12."""


def attention(
    q: Float[Tensor, "b heads queries d"], k: Float[Tensor, "b heads keys d"], v: Float[Tensor, "b heads keys d"]
) -> Float[Tensor, "b heads queries d"]:
    """Return softmax(q k^T / sqrt(d)) v; every query attends to every key.

    Half-precision CUDA tensors go to `attention_flash`, everything else goes to `attention_plain`. On Hopper, version 3
    of flash-attn is used, or, for training without version 3, version 4. Data-centre Blackwell GPUs use version 4.
    Version 2 is used if these are missing, from Ampere on.
    """
    trains = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    if _flash_usable(q, k, v) and (version := flash_version(_generation(q), q.shape[-1], trains=trains)):
        return attention_flash(q, k, v, version)
    return attention_plain(q, k, v)


def attention_plain(
    q: Float[Tensor, "b heads queries d"], k: Float[Tensor, "b heads keys d"], v: Float[Tensor, "b heads keys d"]
) -> Float[Tensor, "b heads queries d"]:
    """Compute attention with torch, which may choose any kernel."""
    return F.scaled_dot_product_attention(q, k, v)


def attention_masked(
    q: Float[Tensor, "b heads queries d"],
    k: Float[Tensor, "b heads keys d"],
    v: Float[Tensor, "b heads keys d"],
    mask: Bool[Tensor, "queries keys"],
) -> Float[Tensor, "b heads queries d"]:
    """Attention in which a query attends only to the keys that its row of `mask` marks; by torch's own kernels."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def attention_flash(
    q: Float[Tensor, "b heads queries d"],
    k: Float[Tensor, "b heads keys d"],
    v: Float[Tensor, "b heads keys d"],
    version: int,
) -> Float[Tensor, "b heads queries d"]:
    """Compute attention with an installed version of flash-attn."""
    if version == 3:
        from flash_attn_interface import flash_attn_func
    elif version == 4:
        from flash_attn.cute import flash_attn_func
    else:
        from flash_attn import flash_attn_func
    out = flash_attn_func(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    # Version 4 and some releases of version 3 return the log-sum-exp as well.
    return (out[0] if isinstance(out, tuple) else out).transpose(1, 2)


def flash_version(generation: int, head_dim: int, *, trains: bool) -> int:
    """Return the version of flash-attn for a generation of GPUs (major compute capability), or 0 for none.

    Version 4 is compiled from Python when it is first called, which torch.compile cannot trace. Compiled code therefore
    uses another version, or torch's attention. On Hopper, the backward pass of version 4 is a quarter faster than
    cuDNN's, but its forward pass is slower (docs/performance.md, training steps).
    """
    return _installed_version(generation, head_dim, trains, torch.compiler.is_compiling())


def _installed_version(generation: int, head_dim: int, trains: bool, compiling: bool) -> int:
    """Like `flash_version`, but a constant for torch.compile, which would trace the imports."""
    fit_for_4 = not compiling and (trains if generation == 9 else head_dim <= FLASH_4_MAX_HEAD_DIM)
    for version in _PREFERRED.get(generation, (2,) if generation > 8 else ()):
        if (version != 4 or fit_for_4) and _import_flash(version):
            return version
    return 0


# torch.compiler.assume_constant_result sets this attribute, but imports the compiler, which takes two seconds.
_installed_version._dynamo_marked_constant = True  # type: ignore[attr-defined]


@cache
def _import_flash(version: int) -> bool:
    try:
        module = importlib.import_module(_MODULES[version])
        if getattr(module, "__file__", "") is None:  # version 4 alone, in the folder that it shares with version 2
            return False
        return callable(module.flash_attn_func)
    except ModuleNotFoundError:
        return False
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        # A wheel for another version of torch typically fails here with an undefined symbol.
        logger.warning(
            "flash-attn %d is installed but cannot be used (%s); torch's attention is used instead", version, error
        )
        return False


def _generation(q: Tensor) -> int:
    return torch.cuda.get_device_capability(q.device)[0]


def _flash_usable(q: Tensor, k: Tensor, v: Tensor) -> bool:
    return (
        q.is_cuda
        and q.dtype in (torch.float16, torch.bfloat16)
        and q.dtype == k.dtype == v.dtype
        and q.shape[-1] <= FLASH_MAX_HEAD_DIM
        and q.shape[-1] % 8 == 0
    )
