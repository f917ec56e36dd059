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
"""Largest head dimension of the flash-attn 2 kernels; they also want a multiple of 8."""


def attention(
    q: Float[Tensor, "b heads queries d"], k: Float[Tensor, "b heads keys d"], v: Float[Tensor, "b heads keys d"]
) -> Float[Tensor, "b heads queries d"]:
    """softmax(q k^T / sqrt(d)) v, every query attending to every key.

    flash-attn serves half-precision CUDA tensors. Everything else goes to scaled_dot_product_attention, whose choice
    of kernel is never restricted.
    """
    if _flash_usable(q, k, v) and flash_available():
        from flash_attn import flash_attn_func

        return flash_attn_func(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v)


@torch.compiler.assume_constant_result
def flash_available() -> bool:
    """Whether flash-attn can be used. torch.compile asks once instead of tracing an import."""
    return _import_flash()


@cache
def _import_flash() -> bool:
    try:
        return callable(importlib.import_module("flash_attn").flash_attn_func)
    except ModuleNotFoundError:
        return False
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        # Typical for a wheel built for another torch: an undefined symbol at import.
        logger.warning("flash-attn is installed but cannot be used (%s); torch's attention is used instead", error)
        return False


def _flash_usable(q: Tensor, k: Tensor, v: Tensor) -> bool:
    return (
        q.is_cuda
        and q.dtype in (torch.float16, torch.bfloat16)
        and q.dtype == k.dtype == v.dtype
        and q.shape[-1] <= FLASH_MAX_HEAD_DIM
        and q.shape[-1] % 8 == 0
    )
