"""Triton kernel that rounds rows to FP8 with a scale for each row; its plain twin is in fused/float8.py."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


def quantize_rows_triton(x: Tensor, largest: float, smallest: float) -> tuple[Tensor, Tensor]:
    rows, width = x.shape
    codes = torch.empty(x.shape, dtype=torch.float8_e4m3fn, device=x.device)
    scales = x.new_empty(rows, 1, dtype=torch.float32)
    _quantize_kernel[(rows,)](
        x, codes, scales, x.stride(0), width, largest, smallest, WIDTH=triton.next_power_of_2(width), num_warps=4
    )
    return codes, scales


@triton.jit
def _quantize_kernel(x, codes, scales, stride, width, largest, smallest, WIDTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, WIDTH)
    inside = columns < width
    values = tl.load(x + row * stride + columns, mask=inside, other=0.0).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(values), axis=0), smallest) / largest
    tl.store(codes + row * width + columns, (values / scale).to(tl.float8e4nv), mask=inside)
    tl.store(scales + row, scale)
