"""Layers that the three networks share. Attribute names are those of the released state dicts."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from scenetok_ns.models.ops.attention import attention, attention_masked
from scenetok_ns.models.ops.rope import Float32Tables, RotaryTable, apply_rotary

KeyValues = tuple[Float[Tensor, "b heads keys d"], Float[Tensor, "b heads keys d"]]
"""Keys and values of one cross-attention, ready for use."""


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last axis, computed in float32 and then cast back."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps).to(x.dtype)


FEED_FORWARD_MULTIPLE = 64
"""On CUDA the feed-forwards compute with a width that is a multiple of this (`padded_feed_forward`)."""


class SwiGLU(nn.Module):
    """Feed-forward w3(SiLU(u) * w), where (u, w) are the halves of w12(x)."""

    def __init__(self, dim: int, mlp_ratio: float) -> None:
        super().__init__()
        # Truncated, not rounded to a multiple of 8: 1024 -> 2730 (parity README, c02).
        hidden = int(2 / 3 * int(mlp_ratio * dim))
        self.w12 = nn.Linear(dim, 2 * hidden)
        self.w3 = nn.Linear(hidden, dim)

    def forward(self, x: Float[Tensor, "b n dim"]) -> Float[Tensor, "b n dim"]:
        w12: Tensor = self.w12.weight
        bias: Tensor = self.w12.bias
        w3: Tensor = self.w3.weight
        if x.is_cuda:
            w12, bias, w3 = padded_feed_forward(w12, bias, w3, FEED_FORWARD_MULTIPLE)
        u, w = F.linear(x, w12, bias).chunk(2, dim=-1)
        return F.linear(F.silu(u) * w, w3, self.w3.bias)


def padded_feed_forward(
    w12: Float[Tensor, "2*hidden dim"], bias: Float[Tensor, " 2*hidden"], w3: Float[Tensor, "dim hidden"], multiple: int
) -> tuple[Float[Tensor, "2*padded dim"], Float[Tensor, " 2*padded"], Float[Tensor, "dim padded"]]:
    """Widen a SwiGLU by hidden units that are always zero, which does not change the function.

    With the released width of 2730, rows of half-precision matrices start at multiples of 4 bytes. The fast kernels of
    tensor cores need multiples of 16; with 2752 they can do all products, forward and backward.

    Returns:
        The weights, padded to a width that is a multiple of `multiple`.
    """
    extra = -w3.shape[1] % multiple
    if not extra:
        return w12, bias, w3
    halves = F.pad(w12.unflatten(0, (2, -1)), (0, 0, 0, extra)), F.pad(bias.unflatten(0, (2, -1)), (0, extra))
    return halves[0].flatten(0, 1), halves[1].flatten(), F.pad(w3, (0, extra))


class SelfAttention(nn.Module):
    """Multi-head self-attention. `qk_norm_eps` adds an RMSNorm of each head's queries and keys before the rotation."""

    def __init__(self, dim: int, num_heads: int, qk_norm_eps: float | None = None) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm, self.k_norm = _qk_norms(dim, num_heads, qk_norm_eps)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self,
        x: Float[Tensor, "b n dim"],
        rotary: RotaryTable | None = None,
        mask: Bool[Tensor, "n n"] | None = None,
    ) -> Float[Tensor, "b n dim"]:
        """`mask` marks the keys of each query; None: all."""
        q, k, v = self._heads(x)
        if rotary is not None:
            q, k = apply_rotary(q, rotary), apply_rotary(k, rotary)
        attended = attention(q, k, v) if mask is None else attention_masked(q, k, v, mask)
        return self.proj(rearrange(attended, "b h n d -> b n (h d)"))

    def forward_after(
        self, x: Float[Tensor, "b n dim"], rotary: RotaryTable, past: KeyValues
    ) -> tuple[Float[Tensor, "b n dim"], KeyValues]:
        """Attend to earlier tokens and to all of `x`; also return the keys of `x`, not yet rotated, and its values.

        past: Keys, rotated, and values of the earlier tokens.
        """
        q, k, v = self._heads(x)
        keys = torch.cat([past[0], apply_rotary(k, rotary)], dim=2)
        attended = attention(apply_rotary(q, rotary), keys, torch.cat([past[1], v], dim=2))
        return self.proj(rearrange(attended, "b h n d -> b n (h d)")), (k, v)

    def _heads(self, x: Float[Tensor, "b n dim"]) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.num_heads)
        return self.q_norm(q), self.k_norm(k), v


class CrossAttention(nn.Module):
    """Multi-head attention from `x` to a context, whose keys and values can be computed once and reused."""

    def __init__(self, dim: int, num_heads: int, qk_norm_eps: float | None = None) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_q = nn.Linear(dim, dim)
        self.to_k = nn.Linear(dim, dim)
        self.to_v = nn.Linear(dim, dim)
        self.q_norm, self.k_norm = _qk_norms(dim, num_heads, qk_norm_eps)
        self.proj = nn.Linear(dim, dim)

    def keys_values(self, context: Float[Tensor, "b keys dim"], rotary: RotaryTable | None = None) -> KeyValues:
        k, v = self.k_norm(self._heads(self.to_k(context))), self._heads(self.to_v(context))
        return (k if rotary is None else apply_rotary(k, rotary)), v

    def forward(
        self, x: Float[Tensor, "b n dim"], context: KeyValues, rotary: RotaryTable | None = None
    ) -> Float[Tensor, "b n dim"]:
        """Attend to a context. `rotary` rotates the queries; `keys_values` has already rotated the keys."""
        q = self.q_norm(self._heads(self.to_q(x)))
        if rotary is not None:
            q = apply_rotary(q, rotary)
        return self.proj(rearrange(attention(q, *context), "b h n d -> b n (h d)"))

    def _heads(self, x: Float[Tensor, "b n dim"]) -> Float[Tensor, "b heads n d"]:
        return rearrange(x, "b n (h d) -> b h n d", h=self.num_heads)


class PatchEmbed(nn.Module):
    """Embeds square patches of every view as tokens, view by view and row by row."""

    def __init__(self, channels: int, dim: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, kernel_size=patch_size, stride=patch_size)

    def initialize_as_linear(self) -> None:
        """Initialise with Xavier-uniform weights, with the fan of the equivalent linear layer, and zero bias."""
        nn.init.xavier_uniform_(self.proj.weight.flatten(1))
        if self.proj.bias is not None:
            nn.init.zeros_(self.proj.bias)

    def forward(self, x: Float[Tensor, "b v c h w"]) -> Float[Tensor, "b v n dim"]:
        return embed_patches(x, self.proj.weight, self.proj.bias)


def embed_patches(
    x: Float[Tensor, "b v c h w"], weight: Float[Tensor, "dim c p p"], bias: Float[Tensor, " dim"] | None
) -> Float[Tensor, "b v n dim"]:
    """Compute a convolution with stride equal to kernel size as one matrix product, which keeps the tokens in order."""
    p, q = weight.shape[-2:]
    patches = rearrange(x, "b v c (h p) (w q) -> b v (h w) (c p q)", p=p, q=q)
    return F.linear(patches, weight.flatten(1), bias)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale) + shift


def adaln(dim: int, chunks: int) -> nn.Sequential:
    """Layers that compute `chunks` shifts, scales and gates from the condition."""
    return nn.Sequential(nn.SiLU(), nn.Linear(dim, chunks * dim))


def activate(condition: Float[Tensor, "b n dim"]) -> Float[Tensor, "b n dim"]:
    """Apply the first layer of `adaln`. It is the same for all blocks, so it is computed and saved only once."""
    activated = F.silu(condition)
    device = condition.device.type
    return activated.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else activated


def modulations(
    layers: nn.Module, activated: Float[Tensor, "b n dim"], chunks: int
) -> tuple[Float[Tensor, "b n dim"], ...]:
    """Apply the second layer of `adaln` to the result of `activate`, and split it into `chunks` modulations."""
    return cast(nn.Sequential, layers)[1](activated).chunk(chunks, dim=-1)


def linears(module: nn.Module) -> list[nn.Linear]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)]


def reset_to_defaults(module: nn.Module) -> None:
    """Initialise every layer with the framework's defaults (kaiming-uniform weights, uniform biases, norms 1), and
    compute its tables."""
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d, RMSNorm)):
            layer.reset_parameters()
        elif isinstance(layer, Float32Tables):
            layer.fill_tables()


def check_shape(name: str, tensor: Tensor, expected: tuple[int | None, ...]) -> None:
    """Raise ValueError unless `tensor` has the expected sizes. None stands for any size."""
    fits = tensor.dim() == len(expected) and all(e in (None, n) for e, n in zip(expected, tensor.shape, strict=True))
    if not fits:
        wanted = ", ".join("any" if e is None else str(e) for e in expected)
        raise ValueError(f"{name}: expected shape [{wanted}], got {list(tensor.shape)}")


def _qk_norms(dim: int, num_heads: int, eps: float | None) -> tuple[nn.Module, nn.Module]:
    if eps is None:
        return nn.Identity(), nn.Identity()
    return RMSNorm(dim // num_heads, eps), RMSNorm(dim // num_heads, eps)
