"""Parts of the fused blocks: each computes its result, keeps what its gradient takes, and gives the gradient."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from scenetok_ns.models.fused import operations as ops
from scenetok_ns.models.fused.operations import Attended, Rows, Sums
from scenetok_ns.models.networks.layers import FEED_FORWARD_MULTIPLE, CrossAttention, RMSNorm, SelfAttention, SwiGLU
from scenetok_ns.models.ops.rope import RotaryTable
from scenetok_ns.models.ops.triton_elementwise import silu_product


class Weights:
    """Parameters of a block in the precision of its products, cast together, and the gradients that they get."""

    def __init__(self, block: nn.Module, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.exact = {name: p.detach() for name, p in block.named_parameters()}
        self.gradients: dict[str, Tensor] = {}
        self.sums = Sums()
        names = [name for name in self.exact if "norm" not in name]
        # Weights before biases: those of keys and values then lie side by side, as one matrix.
        self._names = sorted(names, key=lambda name: name.endswith("bias"))
        self._cast: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if not self._cast:
            self._cast = self._cast_all()
        return self._cast[name]

    def drop(self) -> None:
        """Free the memory of what is cast; when it is asked for again, it is cast again."""
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

    def side_by_side(self, first: str, second: str) -> Tensor:
        """Two weights or biases of the same shape, one below the other."""
        a, b = self[first], self[second]
        assert b.data_ptr() == a.data_ptr() + a.numel() * a.element_size()
        return a.as_strided((2 * len(a), *a.shape[1:]), a.stride())

    def weight_gradient(self, names: tuple[str, ...], gradient: Rows, x: Rows) -> None:
        """Of linear layers whose weights lie side by side."""
        parts = ops.weight_gradient(gradient, x).chunk(len(names))
        self.gradients |= dict(zip(names, parts, strict=True))

    def collect(self) -> dict[str, Tensor]:
        """All gradients, by name, once the backward pass is over."""
        for name, added in self.sums.added().items():
            like = self.exact[name]
            if name.endswith("w12.bias"):
                added = _without_padding(added, len(like))
            self.gradients[name] = added if added.shape == like.shape else added.view(-1, *like.shape).sum(0)
        return self.gradients


def _padded(name: str, shape: torch.Size) -> torch.Size:
    """Shape of a feed-forward's parameter with a width that is a multiple (see layers.padded_feed_forward)."""
    if name.endswith(("w12.weight", "w12.bias")):
        half = shape[0] // 2
        return torch.Size((2 * (half + -half % FEED_FORWARD_MULTIPLE), *shape[1:]))
    if name.endswith("w3.weight"):
        return torch.Size((shape[0], shape[1] + -shape[1] % FEED_FORWARD_MULTIPLE))
    return shape


def _copies(name: str, to: Tensor, of: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Where the values of a parameter go; the padding is set to zero."""
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


class SelfAttentionPart:
    """The bias of its last layer belongs to the sum that its result becomes part of."""

    def __init__(self, layer: SelfAttention, prefix: str, weights: Weights, rotary: RotaryTable | None) -> None:
        self._layer, self._prefix, self._weights, self._rotary = layer, prefix, weights, rotary
        self._dim = weights.exact[f"{prefix}.proj.bias"].shape[0]
        weights.sums.reserve(f"{prefix}.qkv.bias", 3 * self._dim)
        _reserve_norms(layer, prefix, weights)

    def forward(self, x: Rows, batch: int) -> Rows:
        weights, prefix = self._weights, self._prefix
        qkv = ops.linear(x, weights[f"{prefix}.qkv.weight"], weights[f"{prefix}.qkv.bias"])
        self._qkv = qkv.view(batch, -1, 3, self._layer.num_heads, self._dim // self._layer.num_heads)
        norms = (self._layer.q_norm, self._layer.k_norm)
        self._inverse = ops.heads_(self._qkv, _norm_weights(*norms), self._rotary, _eps(norms[0]))
        self._attended = Attended.of(*self._qkv.unbind(2))
        out = self._attended.out.reshape(x.shape)
        return ops.linear(out, weights[f"{prefix}.proj.weight"], weights[f"{prefix}.proj.bias"])

    def backward(self, gradient: Rows, x: Rows) -> Rows:
        weights, prefix = self._weights, self._prefix
        parts = _into_attention(self._attended, gradient, f"{prefix}.proj.weight", weights)
        qkv = ops.heads_backward(
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
        return rows @ weights[f"{prefix}.qkv.weight"]


class CrossAttentionPart:
    """Queries from one side, keys and values from the other. The bias of its last layer belongs to the sum that its
    result becomes part of."""

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
        q = ops.linear(x, weights[f"{prefix}.to_q.weight"], weights[f"{prefix}.to_q.bias"])
        bias = weights.side_by_side(f"{prefix}.to_k.bias", f"{prefix}.to_v.bias")
        kv = ops.linear(context, self.of_context, bias)
        self._q, self._kv = q.view(batch, -1, 1, *heads), kv.view(batch, -1, 2, *heads)
        self._inverse_q = ops.heads_(self._q, _norm_weights(layer.q_norm), self._of_queries, _eps(layer.q_norm))
        self._inverse_k = ops.heads_(self._kv, _norm_weights(layer.k_norm), self._of_keys, _eps(layer.k_norm))
        self._attended = Attended.of(self._q[:, :, 0], *self._kv.unbind(2))
        out = self._attended.out.reshape(x.shape)
        return ops.linear(out, weights[f"{prefix}.proj.weight"], weights[f"{prefix}.proj.bias"])

    def backward(self, gradient: Rows, x: Rows, context: Rows) -> tuple[Rows, Rows]:
        """Gradients of queries, and of keys and values, before norms and rotations; see `of_x`, `of_context`."""
        weights, prefix, layer = self._weights, self._prefix, self._layer
        of_q, of_k, of_v = _into_attention(self._attended, gradient, f"{prefix}.proj.weight", weights)
        q = ops.heads_backward(
            (of_q,),
            self._q,
            _norm_weights(layer.q_norm),
            self._of_queries,
            self._inverse_q,
            weights.sums[f"{prefix}.to_q.bias"],
            _norm_sums(weights, f"{prefix}.q_norm.weight"),
        )
        kv = ops.heads_backward(
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
        """What takes gradients of queries to x."""
        return self._weights[f"{self._prefix}.to_q.weight"]

    @property
    def of_context(self) -> Float[Tensor, "2*dim dim"]:
        """What takes gradients of keys and values to the context."""
        return self._weights.side_by_side(f"{self._prefix}.to_k.weight", f"{self._prefix}.to_v.weight")


class FeedForwardPart:
    """The bias of its last layer belongs to the sum that its result becomes part of."""

    def __init__(self, layer: SwiGLU, prefix: str, weights: Weights) -> None:
        self._prefix, self._weights = prefix, weights
        self._hidden = layer.w3.in_features
        weights.sums.reserve(f"{prefix}.w12.bias", len(weights[f"{prefix}.w12.bias"]))

    def forward(self, x: Rows) -> Rows:
        weights, prefix = self._weights, self._prefix
        self._halves = ops.linear(x, weights[f"{prefix}.w12.weight"], weights[f"{prefix}.w12.bias"])
        product = silu_product(self._halves)
        return ops.linear(product, weights[f"{prefix}.w3.weight"], weights[f"{prefix}.w3.bias"])

    def backward(self, gradient: Rows, x: Rows) -> Rows:
        weights, prefix = self._weights, self._prefix
        of_product = gradient @ weights[f"{prefix}.w3.weight"]
        halves, product = ops.silu_product_backward_(of_product, self._halves, weights.sums[f"{prefix}.w12.bias"])
        w3, w12 = ops.weight_gradient(gradient, product), ops.weight_gradient(halves, x)
        weights.gradients[f"{prefix}.w3.weight"] = w3[:, : self._hidden].contiguous()
        weights.gradients[f"{prefix}.w12.weight"] = _without_padding(w12, 2 * self._hidden)
        return halves @ weights[f"{prefix}.w12.weight"]


def _into_attention(attended: Attended, gradient: Rows, name: str, weights: Weights) -> tuple[Tensor, ...]:
    """Gradients of queries, keys and values from that of the projected result."""
    out = attended.out
    weights.weight_gradient((name,), gradient, out.reshape(gradient.shape))
    return attended.backward((gradient @ weights[name]).view(out.shape))


def _reserve_norms(layer: SelfAttention | CrossAttention, prefix: str, weights: Weights) -> None:
    """Sums for the norms of queries and keys are made head by head."""
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
