"""Forward and backward pass of the blocks, written out.

`FusedBlock` is the twin of `networks.dit.Block`, `FusedCompressorBlock` of `networks.compressor.CompressorBlock`.
"""

from __future__ import annotations

import torch
from torch import nn

from scenetok_ns.models.fused import operations as ops
from scenetok_ns.models.fused.layers import (
    FusedCrossAttention,
    FusedRMSNorm,
    FusedSelfAttention,
    FusedSwiGLU,
    Weights,
)
from scenetok_ns.models.fused.operations import Columns, Modulation
from scenetok_ns.models.fused.products import Rows, linear
from scenetok_ns.models.fused.sharing import SharedGradient
from scenetok_ns.models.networks.compressor import CompressorBlock
from scenetok_ns.models.networks.dit import Block
from scenetok_ns.models.ops.rope import RotaryTable


class FusedPass:
    """One forward and backward pass of a block. With `recompute`, the backward pass recomputes norms and casts weights
    once more instead of saving them."""

    MODULATIONS = "adaLN_modulation.1"
    NUM_SUMS = 1
    """Number of leading inputs that the block adds to. These keep their precision; the others get that of products."""

    def __init__(
        self, block: nn.Module, dtype: torch.dtype, batch: int, recompute: bool, in_float8: bool = False
    ) -> None:
        self.weights = Weights(block, dtype, in_float8=in_float8)
        self.shared: list[SharedGradient] = []
        """Gradients of the other inputs, in the order of the inputs. Set them before the backward pass."""
        self.batch, self.recompute = batch, recompute
        self.weights.sums.reserve(f"{self.MODULATIONS}.bias", len(self.weights[f"{self.MODULATIONS}.bias"]))

    def modulate(self, activated: Rows) -> None:
        self._activated = activated
        name = self.MODULATIONS
        self.modulation = Modulation(linear(activated, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]))

    def gate(self, slot: int) -> Columns:
        return Columns(self.modulation, gate=slot * self._activated.shape[1])

    def begin_backward(self, *, used: int = 6) -> None:
        """Let the gradients of modulations overwrite their values, which are used for the last time where the gradient
        arises. Only the first `used` of six have a gradient."""
        values, sums = self.modulation.values, self.weights.sums
        sums.allocate(len(values), values.device)
        name = f"{self.MODULATIONS}.bias"
        unused = values.shape[1] // 6 * used
        values[:, unused:].zero_()
        sums[name][:, unused:].zero_()
        self.modulation = Modulation(values, values, sums[name])

    def modulations_backward(self, shared: SharedGradient) -> None:
        """Add this block's share to the gradient of the activated condition."""
        name, gradients = f"{self.MODULATIONS}.weight", self.modulation.gradients
        assert gradients is not None
        self.weights.weight_gradient((name,), gradients, self._activated)
        shared.add(gradients, self.weights[name])

    def add(self, x: Rows, added: Rows, gate: Columns | None = None) -> tuple[Rows, Rows]:
        """Return x + added, times the gate if there is one: in the dtype of x, and in that of the products."""
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
        """Return gradients of x and of what was added, whose bias has the name `bias`."""
        sums = self.weights.sums[bias]
        return ops.residual_backward(gradient, sums, self.weights.dtype, second=second, added=added, modulation=gate)

    def query_backward(self, part: FusedCrossAttention, queries: Rows, gradient: Rows) -> tuple[Rows, Rows | None]:
        """Add the gradient of the queries' source to `gradient` inside the product, or return it as the second part."""
        if gradient.dtype == queries.dtype:
            return gradient.addmm_(queries, part.of_x), None
        return gradient, queries @ part.of_x


class FusedBlock(FusedPass):
    """Twin of `Block`."""

    def __init__(
        self,
        block: Block,
        dtype: torch.dtype,
        batch: int,
        recompute: bool,
        rotary: RotaryTable | None = None,
        in_float8: bool = False,
    ) -> None:
        super().__init__(block, dtype, batch, recompute, in_float8)
        weights = self.weights
        self.norm1 = FusedRMSNorm(weights, "norm1.weight", block.norm1.eps, 0)
        self.norm2 = FusedRMSNorm(weights, "norm2.weight", block.norm2.eps, 3)
        self.attn = FusedSelfAttention(block.attn, "attn", weights, rotary)
        self.attn2 = FusedCrossAttention(block.attn2, "attn2", weights, rotary, None)
        self.mlp = FusedSwiGLU(block.mlp, "mlp", weights)
        for name in ("attn.proj.bias", "attn2.proj.bias", "mlp.w3.bias"):
            weights.sums.reserve(name, len(weights[name]))

    def forward(self, x: Rows, activated: Rows, context: Rows) -> tuple[Rows]:
        self.modulate(activated)
        self.context = context
        _, h1 = self.norm1.forward(x, None, self.modulation, recompute=self.recompute)
        self.added1 = self.attn.forward(h1, self.batch)
        x, self.queried = self.add(x, self.added1, self.gate(2))
        added = self.attn2.forward(self.queried, context, self.batch)
        x, h2 = self.norm2.forward(x, added, self.modulation, recompute=self.recompute)
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
        of_norm = self.mlp.backward(of_added, self.norm2.recompute(modulation) if h2 is None else h2)
        g, of_added = self.norm2.backward(of_norm, g, modulation, "attn2.proj.bias")
        queries, keys_values = self.attn2.backward(of_added, self.queried, self.context)
        of_context.add(keys_values, self.attn2.of_context)
        g, second = self.query_backward(self.attn2, queries, g)
        g, of_added = self.add_backward(g, "attn.proj.bias", second=second, added=self.added1, gate=self.gate(2))
        of_norm = self.attn.backward(of_added, self.norm1.recompute(modulation) if h1 is None else h1)
        g, _ = self.norm1.backward(of_norm, g, modulation)
        self.modulations_backward(of_activated)
        return (g,)


class FusedCompressorBlock(FusedPass):
    """Twin of `CompressorBlock`."""

    NUM_SUMS = 2

    def __init__(
        self,
        block: CompressorBlock,
        dtype: torch.dtype,
        batch: int,
        recompute: bool,
        rotary: RotaryTable | None,
        in_float8: bool = False,
    ) -> None:
        super().__init__(block, dtype, batch, recompute, in_float8)
        weights = self.weights
        self.norm1 = FusedRMSNorm(weights, "norm1.weight", block.norm1.eps, 0)
        self.norm2 = FusedRMSNorm(weights, "norm2.weight", block.norm2.eps)
        self.norm4 = FusedRMSNorm(weights, "norm4.weight", block.norm4.eps)
        self.attn1 = FusedSelfAttention(block.attn1, "attn1", weights, rotary)
        self.attn2 = FusedSelfAttention(block.attn2, "attn2", weights, None)
        self.attn3 = FusedCrossAttention(block.attn3, "attn3", weights, None, rotary)
        self.mlp2 = FusedSwiGLU(block.mlp2, "mlp2", weights)
        biases = ["attn1.proj.bias", "attn2.proj.bias", "attn3.proj.bias", "mlp2.w3.bias"]
        self.last = block.norm3 is None or block.mlp1 is None
        if block.norm3 is not None and block.mlp1 is not None:
            self.norm3 = FusedRMSNorm(weights, "norm3.weight", block.norm3.eps, 3)
            self.mlp1 = FusedSwiGLU(block.mlp1, "mlp1", weights)
            biases.append("mlp1.w3.bias")
        for name in biases:
            weights.sums.reserve(name, len(weights[name]))

    def forward(self, tokens: Rows, views: Rows, activated: Rows) -> tuple[Rows, Rows]:
        self.modulate(activated)
        _, h1 = self.norm1.forward(views, None, self.modulation, recompute=self.recompute)
        self.added1 = self.attn1.forward(h1, self.batch)
        views, self.views = self.add(views, self.added1, self.gate(2))
        _, h2 = self.norm2.forward(tokens)
        tokens, self.queried = self.add(tokens, self.attn2.forward(h2, self.batch))
        added = self.attn3.forward(self.queried, self.views, self.batch)
        h3 = None
        if not self.last:
            _, h3 = self.norm3.forward(views, None, self.modulation, recompute=self.recompute)
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
        of_norm = self.mlp2.backward(of_added, self.norm4.recompute() if h4 is None else h4)
        tokens, of_added = self.norm4.backward(of_norm, tokens, added="attn3.proj.bias")
        queries, keys_values = self.attn3.backward(of_added, self.queried, self.views)
        tokens, second = self.query_backward(self.attn3, queries, tokens)
        tokens, of_added = self.add_backward(tokens, "attn2.proj.bias", second=second)
        of_norm = self.attn2.backward(of_added, self.norm2.recompute() if h2 is None else h2)
        tokens, _ = self.norm2.backward(of_norm, tokens)

        if not self.last:
            views = torch.zeros_like(self.views) if of_views is None else of_views
            views, of_added = self.add_backward(views, "mlp1.w3.bias", added=self.added2, gate=self.gate(5))
            of_norm = self.mlp1.backward(of_added, self.norm3.recompute(modulation) if h3 is None else h3)
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
        of_norm = self.attn1.backward(of_added, self.norm1.recompute(modulation) if h1 is None else h1)
        views, _ = self.norm1.backward(of_norm, views, modulation)
        self.modulations_backward(self.shared[0])
        return tokens, views
