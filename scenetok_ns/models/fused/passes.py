"""Forward and backward pass of the blocks, written out."""

from __future__ import annotations

import torch
from torch import nn

from scenetok_ns.models.fused import operations as ops
from scenetok_ns.models.fused.operations import Columns, Modulation, Rows
from scenetok_ns.models.fused.parts import CrossAttentionPart, FeedForwardPart, SelfAttentionPart, Weights
from scenetok_ns.models.networks.block_execution import SharedGradient
from scenetok_ns.models.networks.compressor import CompressorBlock
from scenetok_ns.models.networks.dit import Block
from scenetok_ns.models.ops.rope import RotaryTable


class Norm:
    """A norm, its modulation, and the sum before it."""

    def __init__(self, weights: Weights, name: str, eps: float, slot: int | None = None) -> None:
        self._weights, self._name, self._eps, self._slot = weights, name, eps, slot
        weights.sums.reserve(name, len(weights.exact[name]))

    def forward(
        self, x: Rows, added: Rows | None = None, modulation: Modulation | None = None, *, again: bool = True
    ) -> tuple[Rows, Rows]:
        """x + added, and its norm. not again: `again` will not be called, and what only it needs is overwritten."""
        self.total, out, self._inverse = ops.add_and_norm(
            x,
            added,
            self._weights.exact[self._name],
            self._columns(modulation),
            eps=self._eps,
            dtype=self._weights.dtype,
            over_shift=not again,
        )
        return self.total, out

    def again(self, modulation: Modulation | None = None) -> Rows:
        """The norm, once more."""
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
        """Gradients of the sum and of what was added; `gradient`: of the sum, from elsewhere; `added`: its bias."""
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


class BlockPass:
    """One forward and backward pass of a block. `recompute`: norms are computed and weights cast again, not kept."""

    MODULATIONS = "adaLN_modulation.1"
    NUM_SUMS = 1
    """Inputs that the block adds to. They keep their precision; the others get that of the products."""

    def __init__(self, block: nn.Module, dtype: torch.dtype, batch: int, recompute: bool) -> None:
        self.weights = Weights(block, dtype)
        self.shared: list[SharedGradient] = []
        """Of the other inputs, in their order; to be set before the backward pass."""
        self.batch, self.recompute = batch, recompute
        self.weights.sums.reserve(f"{self.MODULATIONS}.bias", len(self.weights[f"{self.MODULATIONS}.bias"]))

    def modulate(self, activated: Rows) -> None:
        self._activated = activated
        name = self.MODULATIONS
        self.modulation = Modulation(
            ops.linear(activated, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])
        )

    def gate(self, slot: int) -> Columns:
        return Columns(self.modulation, gate=slot * self._activated.shape[1])

    def begin_backward(self, *, used: int = 6) -> None:
        """Gradients of modulations take the places of their values: each is used for the last time where its gradient
        is made. Only the first `used` of six have a gradient."""
        values, sums = self.modulation.values, self.weights.sums
        sums.allocate(len(values), values.device)
        name = f"{self.MODULATIONS}.bias"
        unused = values.shape[1] // 6 * used
        values[:, unused:].zero_()
        sums[name][:, unused:].zero_()
        self.modulation = Modulation(values, values, sums[name])

    def modulations_backward(self, shared: SharedGradient) -> None:
        """To the gradient of the activated condition."""
        name, gradients = f"{self.MODULATIONS}.weight", self.modulation.gradients
        assert gradients is not None
        self.weights.weight_gradient((name,), gradients, self._activated)
        shared.add(gradients, self.weights[name])

    def add(self, x: Rows, added: Rows, gate: Columns | None = None) -> tuple[Rows, Rows]:
        """x + added, times the gate if there is one: as it is, and in the precision of the products."""
        total, copy, _ = ops.add_and_norm(x, added, None, gate, gated=gate is not None, dtype=self.weights.dtype)
        return total, copy

    def add_backward(
        self,
        gradient: Rows,
        bias: str,
        *,
        second: Rows | None = None,
        added: Rows | None = None,
        gate: Columns | None = None,
    ) -> tuple[Rows, Rows]:
        """Gradients of x and of what was added; `bias`: name of its bias, which gets its sum."""
        sums = self.weights.sums[bias]
        return ops.residual_backward(gradient, sums, self.weights.dtype, second=second, added=added, modulation=gate)

    def query_backward(self, part: CrossAttentionPart, queries: Rows, gradient: Rows) -> tuple[Rows, Rows | None]:
        """Gradient of what queries were made of: added to `gradient` in the product, or what is still to be added."""
        if gradient.dtype == queries.dtype:
            return gradient.addmm_(queries, part.of_x), None
        return gradient, queries @ part.of_x


class DenoiserPass(BlockPass):
    """Of `dit.Block`."""

    def __init__(
        self, block: Block, dtype: torch.dtype, batch: int, recompute: bool, rotary: RotaryTable | None = None
    ) -> None:
        super().__init__(block, dtype, batch, recompute)
        weights = self.weights
        self.norm1 = Norm(weights, "norm1.weight", block.norm1.eps, 0)
        self.norm2 = Norm(weights, "norm2.weight", block.norm2.eps, 3)
        self.attn = SelfAttentionPart(block.attn, "attn", weights, rotary)
        self.attn2 = CrossAttentionPart(block.attn2, "attn2", weights, rotary, None)
        self.mlp = FeedForwardPart(block.mlp, "mlp", weights)
        for name in ("attn.proj.bias", "attn2.proj.bias", "mlp.w3.bias"):
            weights.sums.reserve(name, len(weights[name]))

    def forward(self, x: Rows, activated: Rows, context: Rows) -> tuple[Rows]:
        self.modulate(activated)
        self.context = context
        _, h1 = self.norm1.forward(x, None, self.modulation, again=self.recompute)
        self.added1 = self.attn.forward(h1, self.batch)
        x, self.queried = self.add(x, self.added1, self.gate(2))
        added = self.attn2.forward(self.queried, context, self.batch)
        x, h2 = self.norm2.forward(x, added, self.modulation, again=self.recompute)
        self.added2 = self.mlp.forward(h2)
        kept: list[Rows | None] = [h1, h2]
        self.kept = [None] * 2 if self.recompute else kept
        return (self.add(x, self.added2, self.gate(5))[0],)

    def backward(self, gradient: Rows) -> tuple[Rows]:
        of_activated, of_context = self.shared
        self.begin_backward()
        modulation = self.modulation
        h1, h2 = self.kept
        g, of_added = self.add_backward(gradient, "mlp.w3.bias", added=self.added2, gate=self.gate(5))
        of_norm = self.mlp.backward(of_added, self.norm2.again(modulation) if h2 is None else h2)
        g, of_added = self.norm2.backward(of_norm, g, modulation, "attn2.proj.bias")
        queries, keys_values = self.attn2.backward(of_added, self.queried, self.context)
        of_context.add(keys_values, self.attn2.of_context)
        g, second = self.query_backward(self.attn2, queries, g)
        g, of_added = self.add_backward(g, "attn.proj.bias", second=second, added=self.added1, gate=self.gate(2))
        of_norm = self.attn.backward(of_added, self.norm1.again(modulation) if h1 is None else h1)
        g, _ = self.norm1.backward(of_norm, g, modulation)
        self.modulations_backward(of_activated)
        return (g,)


class CompressorPass(BlockPass):
    """Of `CompressorBlock`."""

    NUM_SUMS = 2

    def __init__(
        self, block: CompressorBlock, dtype: torch.dtype, batch: int, recompute: bool, rotary: RotaryTable | None
    ) -> None:
        super().__init__(block, dtype, batch, recompute)
        weights = self.weights
        self.norm1 = Norm(weights, "norm1.weight", block.norm1.eps, 0)
        self.norm2 = Norm(weights, "norm2.weight", block.norm2.eps)
        self.norm4 = Norm(weights, "norm4.weight", block.norm4.eps)
        self.attn1 = SelfAttentionPart(block.attn1, "attn1", weights, rotary)
        self.attn2 = SelfAttentionPart(block.attn2, "attn2", weights, None)
        self.attn3 = CrossAttentionPart(block.attn3, "attn3", weights, None, rotary)
        self.mlp2 = FeedForwardPart(block.mlp2, "mlp2", weights)
        biases = ["attn1.proj.bias", "attn2.proj.bias", "attn3.proj.bias", "mlp2.w3.bias"]
        self.last = block.norm3 is None or block.mlp1 is None
        if block.norm3 is not None and block.mlp1 is not None:
            self.norm3 = Norm(weights, "norm3.weight", block.norm3.eps, 3)
            self.mlp1 = FeedForwardPart(block.mlp1, "mlp1", weights)
            biases.append("mlp1.w3.bias")
        for name in biases:
            weights.sums.reserve(name, len(weights[name]))

    def forward(self, tokens: Rows, views: Rows, activated: Rows) -> tuple[Rows, Rows]:
        self.modulate(activated)
        _, h1 = self.norm1.forward(views, None, self.modulation, again=self.recompute)
        self.added1 = self.attn1.forward(h1, self.batch)
        views, self.views = self.add(views, self.added1, self.gate(2))
        _, h2 = self.norm2.forward(tokens)
        tokens, self.queried = self.add(tokens, self.attn2.forward(h2, self.batch))
        added = self.attn3.forward(self.queried, self.views, self.batch)
        h3 = None
        if not self.last:
            _, h3 = self.norm3.forward(views, None, self.modulation, again=self.recompute)
            self.added2 = self.mlp1.forward(h3)
            views, _ = self.add(views, self.added2, self.gate(5))
        tokens, h4 = self.norm4.forward(tokens, added)
        tokens, _ = self.add(tokens, self.mlp2.forward(h4))
        kept: list[Rows | None] = [h1, h2, h3, h4]
        self.kept = [None] * 4 if self.recompute else kept
        return tokens, views

    def backward(self, of_tokens: Rows | None, of_views: Rows | None) -> tuple[Rows, Rows]:
        self.begin_backward(used=3 if self.last else 6)
        modulation = self.modulation
        h1, h2, h3, h4 = self.kept
        if of_tokens is None:
            of_tokens = torch.zeros_like(self.norm4.total)
        tokens, of_added = self.add_backward(of_tokens, "mlp2.w3.bias")
        of_norm = self.mlp2.backward(of_added, self.norm4.again() if h4 is None else h4)
        tokens, of_added = self.norm4.backward(of_norm, tokens, added="attn3.proj.bias")
        queries, keys_values = self.attn3.backward(of_added, self.queried, self.views)
        tokens, second = self.query_backward(self.attn3, queries, tokens)
        tokens, of_added = self.add_backward(tokens, "attn2.proj.bias", second=second)
        of_norm = self.attn2.backward(of_added, self.norm2.again() if h2 is None else h2)
        tokens, _ = self.norm2.backward(of_norm, tokens)

        if not self.last:
            views = torch.zeros_like(self.views) if of_views is None else of_views
            views, of_added = self.add_backward(views, "mlp1.w3.bias", added=self.added2, gate=self.gate(5))
            of_norm = self.mlp1.backward(of_added, self.norm3.again(modulation) if h3 is None else h3)
            views, _ = self.norm3.backward(of_norm, views, modulation)
        second = None
        if self.last:
            views, second = keys_values @ self.attn3.of_context, of_views
        elif views.dtype == keys_values.dtype:
            views.addmm_(keys_values, self.attn3.of_context)
        else:
            second = keys_values @ self.attn3.of_context
        views, of_added = self.add_backward(
            views, "attn1.proj.bias", second=second, added=self.added1, gate=self.gate(2)
        )
        of_norm = self.attn1.backward(of_added, self.norm1.again(modulation) if h1 is None else h1)
        views, _ = self.norm1.backward(of_norm, views, modulation)
        self.modulations_backward(self.shared[0])
        return tokens, views
