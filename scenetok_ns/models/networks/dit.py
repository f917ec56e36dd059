"""The transformer that denoiser and scene generator share: adaLN blocks with self- and cross-attention."""

from __future__ import annotations

import math
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from scenetok_ns.models.networks.block_execution import Part, run_block
from scenetok_ns.models.networks.layers import (
    CrossAttention,
    KeyValues,
    PatchEmbed,
    RMSNorm,
    SelfAttention,
    SwiGLU,
    activate,
    adaln,
    linears,
    modulate,
    modulations,
    reset_to_defaults,
)
from scenetok_ns.models.ops.rope import RotaryTable

NORM_EPS = 1e-6
"""Epsilon of all norms of denoiser and scene generator. The compressor has another one."""

FREQUENCIES = 256
"""Width of the sinusoidal time embedding."""


class TimestepEmbedder(nn.Module):
    """Map network times to features: sinusoids, then two linear layers."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size))

    def forward(self, t_net: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch hidden"]:
        return self.mlp(timestep_sinusoid(t_net).to(linears(self.mlp)[0].weight.dtype))


def timestep_sinusoid(t_net: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch 256"]:
    """Return cosines, then sines, of t_net * 10000^(-j/128) in float32.

    Args:
        t_net: `flow.rectified_flow.network_time(t)`, from 0 (data) to 999 (noise).
    """
    half = FREQUENCIES // 2
    steps = torch.arange(half, device=t_net.device, dtype=torch.float32)
    angles = t_net.float()[..., None] * torch.exp(-math.log(10_000.0) * steps / half)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class Block(Part):
    """Self-attention and feed-forward, modulated and gated by the condition, around an ungated cross-attention."""

    repeated = True

    def __init__(self, hidden_size: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = RMSNorm(hidden_size, NORM_EPS)
        self.norm2 = RMSNorm(hidden_size, NORM_EPS)
        self.attn = SelfAttention(hidden_size, num_heads, NORM_EPS)
        self.attn2 = CrossAttention(hidden_size, num_heads, NORM_EPS)
        self.mlp = SwiGLU(hidden_size, mlp_ratio)
        self.adaLN_modulation = adaln(hidden_size, 6)

    def forward(
        self,
        x: Float[Tensor, "b n hidden"],
        activated: Float[Tensor, "b n hidden"],
        context: Float[Tensor, "b keys hidden"] | KeyValues,
        rotary: RotaryTable | None = None,
        mask: Bool[Tensor, "n n"] | None = None,
    ) -> Float[Tensor, "b n hidden"]:
        """Return `x` after one block.

        Args:
            x: Tokens.
            activated: Result of `layers.activate` for the condition of each token.
            context: Sequence to attend to, or its keys and values from `attn2.keys_values`.
            rotary: Rotation of the queries, and of the keys of the self-attention. None: no rotation.
            mask: Tokens that each token attends to in the self-attention; None: all.
        """
        changes = modulations(self.adaLN_modulation, activated, 6)
        attended = self.attn(modulate(self.norm1(x), *changes[:2]), rotary, mask)
        return self._after_attention(x, attended, context, rotary, changes[2:])

    def forward_after(
        self,
        x: Float[Tensor, "b n hidden"],
        activated: Float[Tensor, "b n hidden"],
        context: KeyValues,
        rotary: RotaryTable,
        past: KeyValues,
    ) -> tuple[Float[Tensor, "b n hidden"], KeyValues]:
        """Return `x` after one block whose self-attention also sees earlier tokens, and what later ones need of `x`.

        Arguments as in `forward` and `SelfAttention.forward_after`.
        """
        changes = modulations(self.adaLN_modulation, activated, 6)
        attended, own = self.attn.forward_after(modulate(self.norm1(x), *changes[:2]), rotary, past)
        return self._after_attention(x, attended, context, rotary, changes[2:]), own

    def _after_attention(
        self,
        x: Tensor,
        attended: Tensor,
        context: Tensor | KeyValues,
        rotary: RotaryTable | None,
        changes: tuple[Tensor, ...],
    ) -> Tensor:
        gate1, shift2, scale2, gate2 = changes
        x = x + gate1 * attended
        kv = self.attn2.keys_values(context) if isinstance(context, Tensor) else context
        x = x + self.attn2(x, kv, rotary)
        return x + gate2 * self.mlp(modulate(self.norm2(x), shift2, scale2))


class FinalLayer(Part):
    """Modulated norm, then a linear layer to the output features."""

    def __init__(self, hidden_size: int, out_features: int) -> None:
        super().__init__()
        self.norm_final = RMSNorm(hidden_size, NORM_EPS)
        self.linear = nn.Linear(hidden_size, out_features)
        self.adaLN_modulation = adaln(hidden_size, 2)

    def forward(
        self, x: Float[Tensor, "b n hidden"], activated: Float[Tensor, "b n hidden"]
    ) -> Float[Tensor, "b n out"]:
        return self.linear(self.features(x, activated))

    def features(
        self, x: Float[Tensor, "b n hidden"], activated: Float[Tensor, "b n hidden"]
    ) -> Float[Tensor, "b n hidden"]:
        """Return the input of the linear layer."""
        shift, scale = modulations(self.adaLN_modulation, activated, 2)
        return modulate(self.norm_final(x), shift, scale)


Context = Tensor | list[KeyValues]
"""Sequence [b, keys, hidden] that all blocks attend to, or its keys and values for each block (`Trunk.keys_values`)."""


class Trunk(nn.Module):
    """Time embedder, blocks and final layer. The networks add their input embeddings."""

    def __init__(self, hidden_size: int, depth: int, num_heads: int, mlp_ratio: float, out_features: int) -> None:
        super().__init__()
        self.head_dim = hidden_size // num_heads
        self.t_embedder = TimestepEmbedder(hidden_size)
        self.blocks = nn.ModuleList(Block(hidden_size, num_heads, mlp_ratio) for _ in range(depth))
        self.final_layer = FinalLayer(hidden_size, out_features)

    def keys_values(self, context: Float[Tensor, "b keys hidden"]) -> list[KeyValues]:
        """Return keys and values of every block's cross-attention."""
        return [cast(Block, block).attn2.keys_values(context) for block in self.blocks]

    def forward(
        self,
        x: Float[Tensor, "b n hidden"],
        condition: Float[Tensor, "b n hidden"],
        context: Context,
        rotary: RotaryTable | None = None,
        mask: Bool[Tensor, "n n"] | None = None,
    ) -> Float[Tensor, "b n out"]:
        """Return the output features of each token, given its condition and the sequence to attend to.

        mask: Tokens that each token attends to in self-attention; None: all.
        """
        activated = activate(condition)
        return run_block(self.final_layer, self._through_blocks(x, activated, context, rotary, mask), activated)

    def forward_after(
        self,
        x: Float[Tensor, "b n hidden"],
        condition: Float[Tensor, "b n hidden"],
        context: list[KeyValues],
        rotary: RotaryTable,
        past: list[KeyValues],
    ) -> tuple[Float[Tensor, "b n out"], list[KeyValues]]:
        """Return the output features of tokens that come after others, and keys and values of every block.

        past: Keys, rotated, and values of the earlier tokens in every block. The returned keys are not rotated.
        """
        activated = activate(condition)
        kept: list[KeyValues] = []
        for block, own, before in zip(self.blocks, context, past, strict=True):
            x, keys_values = cast(Block, block).forward_after(x, activated, own, rotary, before)
            kept.append(keys_values)
        return self.final_layer(x, activated), kept

    def forward_with_features(
        self,
        x: Float[Tensor, "b n hidden"],
        condition: Float[Tensor, "b n hidden"],
        context: Context,
        rotary: RotaryTable | None = None,
    ) -> tuple[Float[Tensor, "b n out"], Float[Tensor, "b n hidden"]]:
        """Return the result of `forward`, and the features before the last linear layer."""
        activated = activate(condition)
        features = self.final_layer.features(self._through_blocks(x, activated, context, rotary), activated)
        return self.final_layer.linear(features), features

    def _through_blocks(
        self,
        x: Tensor,
        activated: Tensor,
        context: Context,
        rotary: RotaryTable | None,
        mask: Tensor | None = None,
    ) -> Tensor:
        for index, block in enumerate(self.blocks):
            own = context if isinstance(context, Tensor) else context[index]
            x = run_block(block, x, activated, own, rotary, *(() if mask is None else (mask,)))
        return x

    @torch.no_grad()
    def initialize(self) -> None:
        """Initialise weights for training as published: Xavier-uniform, with zeros in adaLN and final layers."""
        reset_to_defaults(self)
        for linear in linears(self):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        for patches in self.modules():
            if isinstance(patches, PatchEmbed):
                patches.initialize_as_linear()
        for linear in linears(self.t_embedder):
            nn.init.normal_(linear.weight, std=0.02)
        modulations = [cast(Block, block).adaLN_modulation for block in self.blocks]
        for layer in (*modulations, self.final_layer.adaLN_modulation, self.final_layer.linear):
            for linear in linears(layer):
                nn.init.zeros_(linear.weight)
                nn.init.zeros_(linear.bias)
