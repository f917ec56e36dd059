"""The transformer that denoiser and scene generator share: adaLN blocks with self- and cross-attention."""

from __future__ import annotations

import math
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from scenetok_ns.models.networks.block_execution import Checkpointing, read_by_blocks, run_block
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
"""Of all norms of denoiser and scene generator (the compressor's differ)."""

FREQUENCIES = 256
"""Width of the sinusoidal time embedding."""


class TimestepEmbedder(nn.Module):
    """Network times to features: sinusoids, then two linear layers."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size))

    def forward(self, t_net: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch hidden"]:
        return self.mlp(timestep_sinusoid(t_net).to(linears(self.mlp)[0].weight.dtype))


def timestep_sinusoid(t_net: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch 256"]:
    """Cosines, then sines, of t_net * 10000^(-j/128); float32. `t_net` is flow.network_time(t), 0 to 999."""
    half = FREQUENCIES // 2
    steps = torch.arange(half, device=t_net.device, dtype=torch.float32)
    angles = t_net.float()[..., None] * torch.exp(-math.log(10_000.0) * steps / half)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class Block(nn.Module):
    """Self-attention and feed-forward, modulated and gated by the condition, around an ungated cross-attention."""

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
    ) -> Float[Tensor, "b n hidden"]:
        """`activated`: what `activate` makes of the condition. `context`: what is attended to, or its keys and values
        from `attn2.keys_values`."""
        shift1, scale1, gate1, shift2, scale2, gate2 = modulations(self.adaLN_modulation, activated, 6)
        x = x + gate1 * self.attn(modulate(self.norm1(x), shift1, scale1), rotary)
        kv = self.attn2.keys_values(context) if isinstance(context, Tensor) else context
        x = x + self.attn2(x, kv, rotary)
        return x + gate2 * self.mlp(modulate(self.norm2(x), shift2, scale2))


class FinalLayer(nn.Module):
    def __init__(self, hidden_size: int, out_features: int) -> None:
        super().__init__()
        self.norm_final = RMSNorm(hidden_size, NORM_EPS)
        self.linear = nn.Linear(hidden_size, out_features)
        self.adaLN_modulation = adaln(hidden_size, 2)

    def forward(
        self, x: Float[Tensor, "b n hidden"], activated: Float[Tensor, "b n hidden"]
    ) -> Float[Tensor, "b n out"]:
        shift, scale = modulations(self.adaLN_modulation, activated, 2)
        return self.linear(modulate(self.norm_final(x), shift, scale))


Context = Tensor | list[KeyValues]
"""What all blocks attend to: a tensor [b, keys, hidden], or keys and values for each block (`Trunk.keys_values`)."""


class Trunk(nn.Module):
    """Time embedder, blocks and final layer; the networks add their input embeddings."""

    def __init__(self, hidden_size: int, depth: int, num_heads: int, mlp_ratio: float, out_features: int) -> None:
        super().__init__()
        self.head_dim = hidden_size // num_heads
        self.checkpointing: Checkpointing = "none"
        self.t_embedder = TimestepEmbedder(hidden_size)
        self.blocks = nn.ModuleList(Block(hidden_size, num_heads, mlp_ratio) for _ in range(depth))
        self.final_layer = FinalLayer(hidden_size, out_features)

    def keys_values(self, context: Float[Tensor, "b keys hidden"]) -> list[KeyValues]:
        return [cast(Block, block).attn2.keys_values(context) for block in self.blocks]

    def forward(
        self,
        x: Float[Tensor, "b n hidden"],
        condition: Float[Tensor, "b n hidden"],
        context: Context,
        rotary: RotaryTable | None = None,
    ) -> Float[Tensor, "b n out"]:
        activated = read_by_blocks(activate(condition))
        context = read_by_blocks(context) if isinstance(context, Tensor) else context
        for index, block in enumerate(self.blocks):
            own = context if isinstance(context, Tensor) else context[index]
            x = run_block(block, self.checkpointing, x, activated, own, rotary)
        return run_block(self.final_layer, "none", x, activated)

    def compilable(self) -> list[nn.Module]:
        return [*self.blocks, self.final_layer]

    @torch.no_grad()
    def initialize(self) -> None:
        """Weights for training from scratch: Xavier-uniform, with silent adaLN and final layers (README of parity)."""
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
