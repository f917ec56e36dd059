"""One attention for all networks: flash-attn where it is installed and usable, else torch's own dispatch."""

from __future__ import annotations

import importlib
import logging
from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

logger = logging.getLogger(__name__)

FLASH_MAX_HEAD_DIM = 256
"""Largest head dimension of the flash-attn kernels; they also want a multiple of 8."""

_MODULES = {2: "flash_attn", 3: "flash_attn_interface"}
"""What versions 2 and 3 of flash-attn are imported as. Both have `flash_attn_func` on [b, length, heads, d]."""


def attention(
    q: Float[Tensor, "b heads queries d"], k: Float[Tensor, "b heads keys d"], v: Float[Tensor, "b heads keys d"]
) -> Float[Tensor, "b heads queries d"]:
    """softmax(q k^T / sqrt(d)) v, every query attending to every key.

    flash-attn serves half-precision CUDA tensors: version 3 on Hopper, else version 2 from Ampere on. Everything else
    goes to scaled_dot_product_attention, whose choice of kernel is never restricted.
    """
    if _flash_usable(q, k, v) and (version := flash_version(_generation(q))):
        if version == 3:
            from flash_attn_interface import flash_attn_func
        else:
            from flash_attn import flash_attn_func
        out = flash_attn_func(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        # Some releases of version 3 give the log-sum-exp as well.
        return (out[0] if isinstance(out, tuple) else out).transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v)


@torch.compiler.assume_constant_result
def flash_version(generation: int) -> int:
    """Version of flash-attn for GPUs of a generation (major compute capability); 0: none. torch.compile asks once
    instead of tracing an import."""
    if generation == 9 and _import_flash(3):
        return 3
    return 2 if generation >= 8 and _import_flash(2) else 0


@cache
def _import_flash(version: int) -> bool:
    try:
        return callable(importlib.import_module(_MODULES[version]).flash_attn_func)
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
