"""Element-wise work between matrix products, each operation as one pass over memory.

Fast operations and their plain twins have the following names, here, in triton_*.py, models/fused and models/engine:

* `NAME` is the operation that others call. It chooses between the next two.
* `NAME_plain` follows it directly. It does the same with torch's own operations, on every device.
* `NAME_triton`, in a triton_*.py, launches the Triton kernel `_NAME_kernel` (for a group norm, three kernels).
* `NAME_backward` takes the gradient of the result of `NAME`. A trailing underscore means that an argument is
  overwritten.
* `FusedX` in models/fused is the module `X` in models/networks with an explicit backward pass.
* `FastX` or `fast_x` in models/autoencoders is the module `X` or the function `x` laid out for inference.
* In models/engine, `x_forward` is `X.forward` over weights laid out for inference; other functions have the names of
  the functions in models/networks and models/flow that they replace.

Triton kernels run on CUDA with Triton, which comes with torch on Linux. All of them compile in about a second, and
Triton caches them on disk. Results are computed in float32 and rounded once.
"""

from __future__ import annotations

import importlib.util
import logging
from functools import cache
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from scenetok_ns.models.ops.attention import attention
from scenetok_ns.models.ops.rope import RotaryTable, apply_rotary

if TYPE_CHECKING:
    from types import ModuleType

logger = logging.getLogger(__name__)


def norm_modulate(
    x: Float[Tensor, "*rows dim"],
    scale: Float[Tensor, "*some dim"],
    shift: Float[Tensor, "*some dim"],
    eps: float,
    residual: Float[Tensor, "*rows dim"] | None = None,
    out: Float[Tensor, "*rows dim"] | None = None,
) -> Float[Tensor, "*rows dim"]:
    """Return x / rms(x) * scale + shift, plus `residual`.

    Args:
        x: Contiguous rows.
        scale, shift: [dim], or [b, n, dim] with contiguous rows; they broadcast over leading dimensions of `x`.
        eps: Epsilon of the norm.
        residual: Contiguous rows to add. None: nothing is added.
        out: Contiguous tensor for the result; None: a new one.
    """
    if _usable(x) and (layout := _layout(scale, x)) is not None and layout == _layout(shift, x):
        return _elementwise().norm_modulate_triton(x, scale, shift, layout, eps, residual, out)
    return norm_modulate_plain(x, scale, shift, eps, residual, out)


def norm_modulate_plain(
    x: Float[Tensor, "*rows dim"],
    scale: Float[Tensor, "*some dim"],
    shift: Float[Tensor, "*some dim"],
    eps: float,
    residual: Float[Tensor, "*rows dim"] | None = None,
    out: Float[Tensor, "*rows dim"] | None = None,
) -> Float[Tensor, "*rows dim"]:
    result = F.rms_norm(x.float(), x.shape[-1:], eps=eps) * scale + shift
    result = (result if residual is None else result + residual).to(x.dtype)
    return result if out is None else out.copy_(result)


def gated_residual(
    x: Float[Tensor, "c b n dim"], gate: Float[Tensor, "b1 n1 dim"], y: Float[Tensor, "c b n dim"]
) -> Float[Tensor, "c b n dim"]:
    """Return x + gate * y. The gate broadcasts over leading dimensions."""
    if _usable(x) and (layout := _layout(gate, x)) is not None:
        return _elementwise().gated_residual_triton(x, gate, y, layout)
    return gated_residual_plain(x, gate, y)


def gated_residual_plain(
    x: Float[Tensor, "c b n dim"], gate: Float[Tensor, "b1 n1 dim"], y: Float[Tensor, "c b n dim"]
) -> Float[Tensor, "c b n dim"]:
    return torch.addcmul(x, gate, y)


def residual_norm(
    x: Float[Tensor, "c b n dim"],
    y: Float[Tensor, "c b n dim"],
    gate: Float[Tensor, "b1 n1 dim"] | None,
    scale: Float[Tensor, "b1 n1 dim"],
    shift: Float[Tensor, "b1 n1 dim"],
    eps: float,
) -> tuple[Float[Tensor, "c b n dim"], Float[Tensor, "c b n dim"]]:
    """Return x + gate * y (without a gate: x + y), and `norm_modulate` of this sum.

    Gate, scale and shift broadcast over leading dimensions.
    """
    if _usable(x):
        layout = _layout(scale, x)
        others = (shift,) if gate is None else (shift, gate)
        if layout is not None and all(_layout(other, x) == layout for other in others):
            return _elementwise().residual_norm_triton(x, y, gate, scale, shift, layout, eps)
    return residual_norm_plain(x, y, gate, scale, shift, eps)


def residual_norm_plain(
    x: Float[Tensor, "c b n dim"],
    y: Float[Tensor, "c b n dim"],
    gate: Float[Tensor, "b1 n1 dim"] | None,
    scale: Float[Tensor, "b1 n1 dim"],
    shift: Float[Tensor, "b1 n1 dim"],
    eps: float,
) -> tuple[Float[Tensor, "c b n dim"], Float[Tensor, "c b n dim"]]:
    """Compute the sum, then call `norm_modulate`, which chooses its implementation itself."""
    total = x + y if gate is None else torch.addcmul(x, gate, y)
    return total, norm_modulate(total, scale, shift, eps)


def norm_rotate(
    x: Float[Tensor, "b n heads d"], weight: Float[Tensor, "heads d"] | None, rotary: RotaryTable | None, eps: float
) -> Float[Tensor, "b heads n d"]:
    """Normalise each head, then rotate it by its position. `x` may be a slice of the result of a matrix product.

    The result is stored as [b, n, heads, d]. Attention then stores its own result in the same way, ready for the next
    matrix product.

    Args:
        x: Heads of each token.
        weight: Weight of each head's RMS norm; None: no norm.
        rotary: Rotation of each position; None: no rotation.
        eps: Epsilon of the norm.
    """
    if weight is None and rotary is None:
        return x.transpose(1, 2)
    if _usable(x) and x.stride(3) == 1 and x.stride(2) == x.shape[3]:
        return _elementwise().norm_rotate_triton(x, weight, rotary, eps)
    return norm_rotate_plain(x, weight, rotary, eps)


def norm_rotate_plain(
    x: Float[Tensor, "b n heads d"], weight: Float[Tensor, "heads d"] | None, rotary: RotaryTable | None, eps: float
) -> Float[Tensor, "b heads n d"]:
    if weight is not None:
        x = (F.rms_norm(x.float(), x.shape[-1:], eps=eps) * weight.float()).to(x.dtype)
    heads = x.transpose(1, 2)
    return heads if rotary is None else apply_rotary(heads, rotary)


def attend(
    q: Float[Tensor, "b n heads d"],
    weight: Float[Tensor, "heads d"] | None,
    rotary: RotaryTable | None,
    keys: Float[Tensor, "b heads m d"],
    values: Float[Tensor, "b heads m d"],
    eps: float,
) -> Float[Tensor, "b n heads d"]:
    """Normalise and rotate queries like `norm_rotate`, and attend to keys that are already normalised and rotated."""
    rows_lie_together = all(tensor.stride(-1) == 1 for tensor in (q, keys, values))
    if _usable(q) and rows_lie_together and _products().suits_attend(q, keys):
        return _products().attend_triton(q, weight, rotary, keys, values, eps)
    return attend_plain(q, weight, rotary, keys, values, eps)


def attend_plain(
    q: Float[Tensor, "b n heads d"],
    weight: Float[Tensor, "heads d"] | None,
    rotary: RotaryTable | None,
    keys: Float[Tensor, "b heads m d"],
    values: Float[Tensor, "b heads m d"],
    eps: float,
) -> Float[Tensor, "b n heads d"]:
    """Call both operations one after the other; each chooses its implementation itself."""
    return attention(norm_rotate(q, weight, rotary, eps), keys, values).transpose(1, 2)


def linear_gated(
    x: Float[Tensor, "c b n inner"],
    weight: Float[Tensor, "dim inner"],
    bias: Float[Tensor, " dim"],
    residual: Float[Tensor, "c b n dim"],
    gate: Float[Tensor, "b1 n1 dim"],
) -> Float[Tensor, "c b n dim"]:
    """Return residual + gate * (x W^T + bias). `x` and `residual` are contiguous; the gate broadcasts."""
    if _usable(x) and x.is_contiguous() and (layout := _layout(gate, residual)) is not None:
        products = _products()
        if products.suits_linear_gated(x.numel() // x.shape[-1], *weight.shape, x.device):
            return products.linear_gated_triton(x, weight, bias, residual, gate, layout)
    return linear_gated_plain(x, weight, bias, residual, gate)


def linear_gated_plain(
    x: Float[Tensor, "c b n inner"],
    weight: Float[Tensor, "dim inner"],
    bias: Float[Tensor, " dim"],
    residual: Float[Tensor, "c b n dim"],
    gate: Float[Tensor, "b1 n1 dim"],
) -> Float[Tensor, "c b n dim"]:
    """Compute the product with the library, then call `gated_residual`, which chooses its implementation itself."""
    return gated_residual(residual, gate, F.linear(x, weight, bias))


def silu_product(x: Float[Tensor, "*rows 2*dim"]) -> Float[Tensor, "*rows dim"]:
    """Return SiLU(u) * w of the halves (u, w) of a contiguous `x`."""
    if _usable(x):
        return _elementwise().silu_product_triton(x)
    return silu_product_plain(x)


def silu_product_plain(x: Float[Tensor, "*rows 2*dim"]) -> Float[Tensor, "*rows dim"]:
    u, w = x.chunk(2, dim=-1)
    return F.silu(u) * w


def bias_silu(
    x: Float[Tensor, "*rows dim"], bias: Float[Tensor, " dim"], out: Float[Tensor, "*rows dim"] | None = None
) -> Float[Tensor, "*rows dim"]:
    """Return SiLU(x + bias) of a contiguous `x`, in the contiguous `out` (None: a new tensor)."""
    if _usable(x):
        return _elementwise().bias_silu_triton(x, bias, out)
    return bias_silu_plain(x, bias, out)


def bias_silu_plain(
    x: Float[Tensor, "*rows dim"], bias: Float[Tensor, " dim"], out: Float[Tensor, "*rows dim"] | None = None
) -> Float[Tensor, "*rows dim"]:
    result = F.silu(x + bias)
    return result if out is None else out.copy_(result)


def group_norm(
    x: Float[Tensor, "n h w c"],
    weight: Float[Tensor, " c"],
    bias: Float[Tensor, " c"],
    groups: int,
    eps: float,
    before: Float[Tensor, " c"] | None = None,
    *,
    silu: bool,
) -> Float[Tensor, "n h w c"]:
    """Return the group norm of x + before, followed by SiLU if `silu` is set. `x` is contiguous, with channels last."""
    if _usable(x):
        return _maps().group_norm_triton(x, weight, bias, groups, eps, before, silu)
    return group_norm_plain(x, weight, bias, groups, eps, before, silu=silu)


def group_norm_plain(
    x: Float[Tensor, "n h w c"],
    weight: Float[Tensor, " c"],
    bias: Float[Tensor, " c"],
    groups: int,
    eps: float,
    before: Float[Tensor, " c"] | None = None,
    *,
    silu: bool,
) -> Float[Tensor, "n h w c"]:
    maps = (x if before is None else x + before).permute(0, 3, 1, 2)
    out = F.group_norm(maps, groups, weight, bias, eps).permute(0, 2, 3, 1)
    return F.silu(out) if silu else out


def add_with_bias(
    x: Float[Tensor, "*rows c"], y: Float[Tensor, "*rows c"], bias: Float[Tensor, " c"]
) -> Float[Tensor, "*rows c"]:
    """Return x + y + bias of contiguous tensors."""
    if _usable(x):
        return _elementwise().add_with_bias_triton(x, y, bias)
    return add_with_bias_plain(x, y, bias)


def add_with_bias_plain(
    x: Float[Tensor, "*rows c"], y: Float[Tensor, "*rows c"], bias: Float[Tensor, " c"]
) -> Float[Tensor, "*rows c"]:
    return x + (y + bias)


def depthwise_conv(
    x: Float[Tensor, "b t h w c"],
    weight: Float[Tensor, "taps c"],
    bias: Float[Tensor, " c"] | None = None,
    *,
    gated: bool = False,
) -> Float[Tensor, "b t h w c2"]:
    """Convolve each channel with its own cubic kernel, with zero padding.

    Args:
        x: Contiguous maps.
        weight: Kernels with 3 or 5 taps per side, row by row.
        bias: Bias to add to the result. None: nothing is added.
        gated: Return value * SiLU(gate) of the halves of the channels.
    """
    if _usable(x):
        return _maps().depthwise_conv_triton(x, weight, bias, gated)
    return depthwise_conv_plain(x, weight, bias, gated=gated)


def depthwise_conv_plain(
    x: Float[Tensor, "b t h w c"],
    weight: Float[Tensor, "taps c"],
    bias: Float[Tensor, " c"] | None = None,
    *,
    gated: bool = False,
) -> Float[Tensor, "b t h w c2"]:
    side = round(len(weight) ** (1 / 3))
    kernel = weight.t().contiguous().unflatten(1, (1, side, side, side))
    maps = F.conv3d(x.permute(0, 4, 1, 2, 3), kernel, bias, padding=side // 2, groups=x.shape[-1])
    out = maps.permute(0, 2, 3, 4, 1)
    if not gated:
        return out.contiguous()
    value, gate = out.chunk(2, dim=-1)
    return value * F.silu(gate)


def join_phases(
    computed: Float[Tensor, "b t1 h1 w1 phases*c"],
    x: Float[Tensor, "b t h w c0"],
    bias: Float[Tensor, " c"],
    fold: tuple[int, int, int],
) -> Float[Tensor, "b t2 h2 w2 c"]:
    """Return the image that is `fold` times as large as `x` in time, height and width. All tensors are contiguous.

    Its value at position fold * p + phase is the sum of three terms: `computed` at p + phase, of which the channels of
    this phase; `bias`; and the channels of `x` at p, repeated evenly over the channels of all phases, where the phases
    of a channel follow one another.
    """
    if _usable(x):
        return _maps().join_phases_triton(computed, x, bias, fold)
    return join_phases_plain(computed, x, bias, fold)


def join_phases_plain(
    computed: Float[Tensor, "b t1 h1 w1 phases*c"],
    x: Float[Tensor, "b t h w c0"],
    bias: Float[Tensor, " c"],
    fold: tuple[int, int, int],
) -> Float[Tensor, "b t2 h2 w2 c"]:
    b, t, h, w, channels = x.shape
    phases = fold[0] * fold[1] * fold[2]
    width = computed.shape[-1] // phases
    out = x.new_empty(b, t, fold[0], h, fold[1], w, fold[2], width)
    source = torch.arange(width * phases, device=x.device).view(width, phases) * channels // (width * phases)
    for phase, parts in enumerate(computed.unflatten(-1, (phases, width)).unbind(-2)):
        dt, dy, dx = phase // (fold[1] * fold[2]), phase // fold[2] % fold[1], phase % fold[2]
        own = parts[:, dt : dt + t, dy : dy + h, dx : dx + w]
        out[:, :, dt, :, dy, :, dx] = own + (x[..., source[:, phase]] + bias)
    return out.view(b, t * fold[0], h * fold[1], w * fold[2], width)


def _usable(x: Tensor) -> bool:
    """Whether operations on `x` run as Triton kernels."""
    return x.is_cuda and x.dtype in (torch.bfloat16, torch.float16) and triton_available()


@cache
def triton_available() -> bool:
    """Whether Triton is installed and works, which needs a C compiler and a supported GPU. Tried only once."""
    if importlib.util.find_spec("triton") is None:
        return False
    try:
        _elementwise().silu_product_triton(torch.zeros(1, 32, device="cuda", dtype=torch.bfloat16))
    except Exception as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        logger.warning("Triton does not work here (%s); torch's own operations are used, which are slower", reason)
        return False
    return True


@cache
def _elementwise() -> ModuleType:
    return importlib.import_module("scenetok_ns.models.ops.triton_norms")


@cache
def _products() -> ModuleType:
    return importlib.import_module("scenetok_ns.models.ops.triton_matmuls")


@cache
def _maps() -> ModuleType:
    return importlib.import_module("scenetok_ns.models.ops.triton_feature_maps")


def _layout(modulation: Tensor, x: Tensor) -> tuple[int, int, int, int] | None:
    """Memory layout of a modulation that broadcasts over leading dimensions of `x`: number and stride of the inner
    rows, then of the outer rows. None: the kernels do not support it."""
    if modulation.shape[-1] != x.shape[-1] or modulation.stride(-1) != 1:
        return None
    if modulation.ndim == 1:
        return 1, 0, 1, 0
    if modulation.ndim != 3 or x.ndim < 3:
        return None
    spread = modulation.expand(x.shape[-3:])
    return spread.shape[1], spread.stride(1), spread.shape[0], spread.stride(0)
