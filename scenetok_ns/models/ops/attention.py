"""One attention for all networks: flash-attn where it is installed and usable, else torch's own dispatch."""

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
"""Largest head dimension of the flash-attn kernels; they also want a multiple of 8."""

FLASH_4_MAX_HEAD_DIM = 128
"""Largest head dimension of version 4 on Blackwell, whatever the lengths."""

_MODULES = {2: "flash_attn", 3: "flash_attn_interface", 4: "flash_attn.cute"}
"""Module of each version of flash-attn. All have `flash_attn_func` on [b, length, heads, d]."""

_PREFERRED = {8: (2,), 9: (3, 4, 2), 10: (4, 2), 11: (4, 2), 12: (2,)}
"""Versions for a generation of GPUs (major compute capability), the fastest first. Version 4 refuses generation 12."""


def attention(
    q: Float[Tensor, "b heads queries d"], k: Float[Tensor, "b heads keys d"], v: Float[Tensor, "b heads keys d"]
) -> Float[Tensor, "b heads queries d"]:
    """Return softmax(q k^T / sqrt(d)) v; every query attends to every key.

    `attention_flash` serves half-precision CUDA tensors: version 3 of flash-attn on Hopper, version 4 on data centres'
    Blackwell and, where gradients are wanted, on Hopper, else version 2 from Ampere on. `attention_plain` serves
    everything else.
    """
    trains = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    if _flash_usable(q, k, v) and (version := flash_version(_generation(q), q.shape[-1], trains=trains)):
        return attention_flash(q, k, v, version)
    return attention_plain(q, k, v)


def attention_plain(
    q: Float[Tensor, "b heads queries d"], k: Float[Tensor, "b heads keys d"], v: Float[Tensor, "b heads keys d"]
) -> Float[Tensor, "b heads queries d"]:
    """Torch's attention, whose choice of kernel is never restricted."""
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
    """Attention of an installed version of flash-attn."""
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
    """Return the version of flash-attn for a generation of GPUs (major compute capability); 0: none.

    Version 4 is compiled from Python when it is first called, which torch.compile cannot trace: compiled code uses
    another version, or torch's attention. On Hopper its backward pass is a quarter faster than cuDNN's, its forward
    pass slower (docs/performance.md, training steps).
    """
    return _installed_version(generation, head_dim, trains, torch.compiler.is_compiling())


def _installed_version(generation: int, head_dim: int, trains: bool, compiling: bool) -> int:
    """Constant for torch.compile, which would trace imports."""
    fit_for_4 = not compiling and (trains if generation == 9 else head_dim <= FLASH_4_MAX_HEAD_DIM)
    for version in _PREFERRED.get(generation, (2,) if generation > 8 else ()):
        if (version != 4 or fit_for_4) and _import_flash(version):
            return version
    return 0


# What torch.compiler.assume_constant_result sets. The decorator imports the compiler, two seconds of every start.
_installed_version._dynamo_marked_constant = True  # type: ignore[attr-defined]


@cache
def _import_flash(version: int) -> bool:
    try:
        module = importlib.import_module(_MODULES[version])
        if getattr(module, "__file__", "") is None:  # the folder that versions 2 and 4 share, without version 2
            return False
        return callable(module.flash_attn_func)
    except ModuleNotFoundError:
        return False
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        # Typical for a wheel built for another torch: an undefined symbol at import.
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
