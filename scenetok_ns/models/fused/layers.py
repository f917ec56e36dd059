"""Layers of the fused blocks: each computes its result, saves what its gradient needs, and returns the gradient.

`FusedX` is the twin of `X` in networks/layers.py.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from scenetok_ns.models.fused import operations as ops
from scenetok_ns.models.fused.operations import Columns, Modulation, Sums
from scenetok_ns.models.fused.products import Attended, Rows, input_gradient, linear, weight_gradient
from scenetok_ns.models.networks.layers import FEED_FORWARD_MULTIPLE, CrossAttention, RMSNorm, SelfAttention, SwiGLU
from scenetok_ns.models.ops.dispatch import silu_product
from scenetok_ns.models.ops.rope import RotaryTable


class Weights:
    """Parameters of a block, cast together to the precision of its products, and their gradients."""

    def __init__(self, block: nn.Module, dtype: torch.dtype, *, in_float8: bool = False) -> None:
        """in_float8: Use FP8 products in `linear` and `input_gradient` (`float8.py`)."""
        self.dtype, self._in_float8 = dtype, in_float8
        self.exact = {name: p.detach() for name, p in block.named_parameters()}
        self.gradients: dict[str, Tensor] = {}
        self.sums = Sums()
        names = [name for name in self.exact if "norm" not in name]
        # Weights before biases, so that the weights of keys and values lie side by side, as one matrix.
        self._names = sorted(names, key=lambda name: name.endswith("bias"))
        self._cast: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if not self._cast:
            self._cast = self._cast_all()
        return self._cast[name]

    def drop(self) -> None:
        """Free the memory of the cast parameters, which are cast again on their next use."""
        self._cast = {}

    def _cast_all(self) -> dict[str, Tensor]:
        shapes = [_padded(name, self.exact[name].shape) for name in self._names]
        flat = self.exact[self._names[0]].new_empty(sum(shape.numel() for shape in shapes), dtype=self.dtype)
        parts = flat.split([shape.numel() for shape in shapes])
        cast = {name: part.view(shape) for name, part, shape in zip(self._names, parts, shapes, strict=True)}
        pairs = [pair for name in self._names for pair in _copies(name, cast[name], self.exact[name])]
        # Copies into part of each row would keep all others from being made by one kernel.
        together = [(to, of) for to, of in pairs if to.is_contiguous()]
        torch._foreach_copy_([to for to, _ in together], [of for _, of in together])
        for to, of in pairs:
            if not to.is_contiguous():
                to.copy_(of)
        return cast

    def linear(self, x: Rows, layer: str) -> Rows:
        """Apply the linear layer named `layer`."""
        return linear(x, self[f"{layer}.weight"], self[f"{layer}.bias"], in_float8=self._in_float8)

    def input_gradient(self, gradient: Rows, layer: str) -> Rows:
        """Return the gradient with respect to the input of the linear layer named `layer`."""
        return input_gradient(gradient, self[f"{layer}.weight"], in_float8=self._in_float8)

    def side_by_side(self, first: str, second: str) -> Tensor:
        """Return two weights or biases of the same shape, one below the other, as one tensor."""
        a, b = self[first], self[second]
        assert b.data_ptr() == a.data_ptr() + a.numel() * a.element_size()
        return a.as_strided((2 * len(a), *a.shape[1:]), a.stride())

    def weight_gradient(self, names: tuple[str, ...], gradient: Rows, x: Rows) -> None:
        """Store the gradients of linear layers whose weights lie side by side."""
        parts = weight_gradient(gradient, x).chunk(len(names))
        self.gradients |= dict(zip(names, parts, strict=True))

    def collect(self) -> dict[str, Tensor]:
        """Return all gradients by name, after the backward pass."""
        for name, added in self.sums.added().items():
            like = self.exact[name]
            if name.endswith("w12.bias"):
                added = _without_padding(added, len(like))
            self.gradients[name] = added if added.shape == like.shape else added.view(-1, *like.shape).sum(0)
        return self.gradients


def _padded(name: str, shape: torch.Size) -> torch.Size:
    """Return the shape of a feed-forward's parameter with its padded width (`networks.layers.padded_feed_forward`)."""
    if name.endswith(("w12.weight", "w12.bias")):
        half = shape[0] // 2
        return torch.Size((2 * (half + -half % FEED_FORWARD_MULTIPLE), *shape[1:]))
    if name.endswith("w3.weight"):
        return torch.Size((shape[0], shape[1] + -shape[1] % FEED_FORWARD_MULTIPLE))
    return shape


def _copies(name: str, to: Tensor, of: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return where the values of a parameter go, in pairs of target and source; set the padding to zero."""
    if to.shape == of.shape:
        return [(to, of)]
    if name.endswith("w3.weight"):
        to[:, of.shape[1] :].zero_()
        return [(to[:, : of.shape[1]], of)]
    half, whole = len(of) // 2, len(to) // 2
    to[half:whole].zero_()
    to[whole + half :].zero_()
    return [(to[:half], of[:half]), (to[whole : whole + half], of[half:])]


def _without_padding(gradient: Tensor, length: int) -> Tensor:
    if len(gradient) == length:
        return gradient
    first, second = gradient.chunk(2)
    return torch.cat((first[: length // 2], second[: length // 2]))


class FusedRMSNorm:
    """Norm with the residual sum before it and the modulation behind it."""

    def __init__(self, weights: Weights, name: str, eps: float, slot: int | None = None) -> None:
        self._weights, self._name, self._eps, self._slot = weights, name, eps, slot
        weights.sums.reserve(name, len(weights.exact[name]))

    def forward(
        self, x: Rows, added: Rows | None = None, modulation: Modulation | None = None, *, recompute: bool = True
    ) -> tuple[Rows, Rows]:
        """Return x + added and its norm. Without `recompute`, overwrite what only the method `recompute` needs."""
        self.total, out, self._inverse = ops.add_and_norm(
            x,
            added,
            self._weights.exact[self._name],
            self._columns(modulation),
            eps=self._eps,
            dtype=self._weights.dtype,
            over_shift=not recompute,
        )
        return self.total, out

    def recompute(self, modulation: Modulation | None = None) -> Rows:
        """Return the norm of the last `forward` once more."""
        return ops.add_and_norm(
            self.total,
            None,
            self._weights.exact[self._name],
            self._columns(modulation),
            eps=self._eps,
            dtype=self._weights.dtype,
        )[1]

    def backward(
        self,
        gradient_out: Rows,
        gradient: Rows | None,
        modulation: Modulation | None = None,
        added: str | None = None,
    ) -> tuple[Rows, Rows]:
        """Return gradients of the sum and of what was added.

        Args:
            gradient_out: Gradient of the norm.
            gradient: Gradient of the sum from elsewhere; None: zero.
            modulation: Modulation that `forward` used.
            added: Name of the bias of what was added.
        """
        sums = self._weights.sums
        return ops.norm_backward(
            gradient_out,
            gradient,
            self.total,
            self._inverse,
            self._weights.exact[self._name],
            sums[self._name],
            self._columns(modulation),
            None if added is None else sums[added],
        )

    def _columns(self, modulation: Modulation | None) -> Columns | None:
        if modulation is None or self._slot is None:
            return None
        dim = len(self._weights.exact[self._name])
        return Columns(modulation, shift=self._slot * dim, scale=(self._slot + 1) * dim)


class FusedSelfAttention:
    """Self-attention. The gradient of its last bias arises where its result is added."""

    def __init__(self, layer: SelfAttention, prefix: str, weights: Weights, rotary: RotaryTable | None) -> None:
        self._layer, self._prefix, self._weights, self._rotary = layer, prefix, weights, rotary
        self._dim = weights.exact[f"{prefix}.proj.bias"].shape[0]
        weights.sums.reserve(f"{prefix}.qkv.bias", 3 * self._dim)
        _reserve_norms(layer, prefix, weights)

    def forward(self, x: Rows, batch: int) -> Rows:
        weights, prefix = self._weights, self._prefix
        qkv = weights.linear(x, f"{prefix}.qkv")
        self._qkv = qkv.view(batch, -1, 3, self._layer.num_heads, self._dim // self._layer.num_heads)
        norms = (self._layer.q_norm, self._layer.k_norm)
        self._inverse = ops.norm_rotate_(self._qkv, _norm_weights(*norms), self._rotary, _eps(norms[0]))
        self._attended = Attended.of(*self._qkv.unbind(2))
        out = self._attended.out.reshape(x.shape)
        return weights.linear(out, f"{prefix}.proj")

    def backward(self, gradient: Rows, x: Rows) -> Rows:
        weights, prefix = self._weights, self._prefix
        parts = _into_attention(self._attended, gradient, f"{prefix}.proj", weights)
        qkv = ops.norm_rotate_backward(
            parts,
            self._qkv,
            _norm_weights(self._layer.q_norm, self._layer.k_norm),
            self._rotary,
            self._inverse,
            weights.sums[f"{prefix}.qkv.bias"],
            _norm_sums(weights, f"{prefix}.q_norm.weight"),
        )
        rows = qkv.view(len(x), -1)
        weights.weight_gradient((f"{prefix}.qkv.weight",), rows, x)
        return weights.input_gradient(rows, f"{prefix}.qkv")


class FusedCrossAttention:
    """Attention from `x` to a context. The gradient of its last bias arises where its result is added."""

    def __init__(
        self,
        layer: CrossAttention,
        prefix: str,
        weights: Weights,
        of_queries: RotaryTable | None,
        of_keys: RotaryTable | None,
    ) -> None:
        self._layer, self._prefix, self._weights = layer, prefix, weights
        self._of_queries, self._of_keys = of_queries, of_keys
        self._dim = weights.exact[f"{prefix}.proj.bias"].shape[0]
        for name in ("to_q", "to_k", "to_v"):
            weights.sums.reserve(f"{prefix}.{name}.bias", self._dim)
        _reserve_norms(layer, prefix, weights)

    def forward(self, x: Rows, context: Rows, batch: int) -> Rows:
        weights, prefix, layer = self._weights, self._prefix, self._layer
        heads = layer.num_heads, self._dim // layer.num_heads
        q = weights.linear(x, f"{prefix}.to_q")
        bias = weights.side_by_side(f"{prefix}.to_k.bias", f"{prefix}.to_v.bias")
        kv = linear(context, self.of_context, bias)
        self._q, self._kv = q.view(batch, -1, 1, *heads), kv.view(batch, -1, 2, *heads)
        self._inverse_q = ops.norm_rotate_(self._q, _norm_weights(layer.q_norm), self._of_queries, _eps(layer.q_norm))
        self._inverse_k = ops.norm_rotate_(self._kv, _norm_weights(layer.k_norm), self._of_keys, _eps(layer.k_norm))
        self._attended = Attended.of(self._q[:, :, 0], *self._kv.unbind(2))
        out = self._attended.out.reshape(x.shape)
        return weights.linear(out, f"{prefix}.proj")

    def backward(self, gradient: Rows, x: Rows, context: Rows) -> tuple[Rows, Rows]:
        """Return gradients of queries, and of keys and values, before norms and rotations (`of_x`, `of_context`)."""
        weights, prefix, layer = self._weights, self._prefix, self._layer
        of_q, of_k, of_v = _into_attention(self._attended, gradient, f"{prefix}.proj", weights)
        q = ops.norm_rotate_backward(
            (of_q,),
            self._q,
            _norm_weights(layer.q_norm),
            self._of_queries,
            self._inverse_q,
            weights.sums[f"{prefix}.to_q.bias"],
            _norm_sums(weights, f"{prefix}.q_norm.weight"),
        )
        kv = ops.norm_rotate_backward(
            (of_k, of_v),
            self._kv,
            _norm_weights(layer.k_norm),
            self._of_keys,
            self._inverse_k,
            weights.sums[f"{prefix}.to_k.bias"],
            _norm_sums(weights, f"{prefix}.k_norm.weight"),
        )
        of_queries, of_context = q.view(len(x), -1), kv.view(len(context), -1)
        weights.weight_gradient((f"{prefix}.to_q.weight",), of_queries, x)
        weights.weight_gradient((f"{prefix}.to_k.weight", f"{prefix}.to_v.weight"), of_context, context)
        return of_queries, of_context

    @property
    def of_x(self) -> Float[Tensor, "dim dim"]:
        """Matrix that maps gradients of queries to gradients of x."""
        return self._weights[f"{self._prefix}.to_q.weight"]

    @property
    def of_context(self) -> Float[Tensor, "2*dim dim"]:
        """Matrix that maps gradients of keys and values to gradients of the context."""
        return self._weights.side_by_side(f"{self._prefix}.to_k.weight", f"{self._prefix}.to_v.weight")


class FusedSwiGLU:
    """Feed-forward. The gradient of its last bias arises where its result is added."""

    def __init__(self, layer: SwiGLU, prefix: str, weights: Weights) -> None:
        self._prefix, self._weights = prefix, weights
        self._hidden = layer.w3.in_features
        weights.sums.reserve(f"{prefix}.w12.bias", len(weights[f"{prefix}.w12.bias"]))

    def forward(self, x: Rows) -> Rows:
        weights, prefix = self._weights, self._prefix
        self._halves = weights.linear(x, f"{prefix}.w12")
        product = silu_product(self._halves)
        return weights.linear(product, f"{prefix}.w3")

    def backward(self, gradient: Rows, x: Rows) -> Rows:
        weights, prefix = self._weights, self._prefix
        of_product = weights.input_gradient(gradient, f"{prefix}.w3")
        halves, product = ops.silu_product_backward_(of_product, self._halves, weights.sums[f"{prefix}.w12.bias"])
        w3, w12 = weight_gradient(gradient, product), weight_gradient(halves, x)
        weights.gradients[f"{prefix}.w3.weight"] = w3[:, : self._hidden].contiguous()
        weights.gradients[f"{prefix}.w12.weight"] = _without_padding(w12, 2 * self._hidden)
        return weights.input_gradient(halves, f"{prefix}.w12")


def _into_attention(attended: Attended, gradient: Rows, layer: str, weights: Weights) -> tuple[Tensor, ...]:
    """Return gradients of queries, keys and values, given that of the projected result."""
    out = attended.out
    weights.weight_gradient((f"{layer}.weight",), gradient, out.reshape(gradient.shape))
    return attended.backward(weights.input_gradient(gradient, layer).view(out.shape))


def _reserve_norms(layer: SelfAttention | CrossAttention, prefix: str, weights: Weights) -> None:
    """Reserve sums for the norms of queries and keys, head by head."""
    for name in ("q_norm", "k_norm"):
        if isinstance(getattr(layer, name), RMSNorm):
            weights.sums.reserve(f"{prefix}.{name}.weight", weights.exact[f"{prefix}.proj.bias"].shape[0])


def _norm_weights(*norms: nn.Module) -> tuple[Tensor, ...] | None:
    found = tuple(norm.weight.detach() for norm in norms if isinstance(norm, RMSNorm))
    return found or None


def _norm_sums(weights: Weights, name: str) -> Tensor | None:
    return weights.sums[name] if name in weights.sums.widths else None


def _eps(norm: nn.Module) -> float:
    return norm.eps if isinstance(norm, RMSNorm) else 0.0
