"""Settings of torch's CUDA allocator."""

from __future__ import annotations

import os
import sys

import torch

VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""Environment variables by which users configure the allocator."""


def let_segments_grow() -> None:
    """Let the allocator map memory page by page, unless the user has configured it otherwise.

    Tensors of training steps and of `low_vram` have many sizes: segments that cannot grow are left with gaps, and a
    recorded step keeps these gaps. Call this before the first large tensor is created.
    """
    if sys.platform != "linux" or any(os.environ.get(name) for name in VARIABLES):
        return
    if hasattr(torch._C, "_accelerator_setAllocatorSettings"):  # from torch 2.9 on
        torch._C._accelerator_setAllocatorSettings("expandable_segments:True")
    else:
        torch.cuda.memory._set_allocator_settings("expandable_segments:True")
