"""`Compressor.gaussian_parameters` over weights laid out for inference, as one CUDA graph.

`_block_forward` is `CompressorBlock.forward`; how it differs from the module is listed in trunk.py.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.engine.options import EngineOptions
from scenetok_ns.models.engine.trunk import CHUNKS, feed_forward, folded_modulation
from scenetok_ns.models.networks.compressor import NORM_EPS, Compressor, CompressorBlock
from scenetok_ns.models.networks.layers import embed_patches
from scenetok_ns.models.ops.attention import attention
from scenetok_ns.models.ops.dispatch import gated_residual, norm_modulate, norm_rotate, silu_product
from scenetok_ns.models.ops.graphs import StepGraphs, working
from scenetok_ns.models.ops.rope import RotaryTable

Linear = tuple[Tensor, Tensor]
"""Weight and bias."""


class _FeedForward(NamedTuple):
    w12: Tensor
    w12_bias: Tensor
    w3: Tensor
    w3_bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(silu_product(F.linear(x, self.w12, self.w12_bias)), self.w3, self.w3_bias)


class _Block(NamedTuple):
    views_qkv: Linear
    views_proj: Linear
    tokens_norm: Tensor
    tokens_qkv: Linear
    tokens_proj: Linear
    cross_q: Linear
    cross_kv: Linear
    cross_proj: Linear
    views_mlp: _FeedForward | None
    """None in the last block, after which nothing reads the views."""
    tokens_mlp_norm: Tensor
    tokens_mlp: _FeedForward


class CompressingEngine:
    """Compresses latents to scene tokens with a copy of a compressor's weights. Use it from one thread at a time."""

    def __init__(
        self,
        compressor: Compressor,
        device: torch.device,
        options: EngineOptions,
        stream: torch.cuda.Stream | None = None,
    ) -> None:
        def stored(tensor: Tensor) -> Tensor:
            return tensor.detach().to(device, options.dtype)

        self.device, self._stream, self._options = device, stream, options
        self._pose_embed = copy.deepcopy(compressor.pose_embed).to(device).float().eval()
        self._rope = copy.deepcopy(compressor.feat_rope).to(device)
        self._scene_tokens = stored(compressor.scene_tokens)
        if options.exact_tokens:
            self._scene_tokens = compressor.scene_tokens.detach().to(device, torch.float32)
        self._embed = stored(compressor.y_embed.proj.weight), stored(cast(Tensor, compressor.y_embed.proj.bias))
        blocks = [cast(CompressorBlock, block) for block in compressor.aggregate]
        self._blocks = [_block_weights(block, stored) for block in blocks]
        modulation = [folded_modulation(block.adaLN_modulation, _view_norms(block)) for block in blocks]
        self._modulation = torch.cat([stored(weight) for weight, _ in modulation])
        self._modulation_bias = torch.cat([stored(bias) for _, bias in modulation])
        out = cast(nn.Linear, compressor.out_proj[0])
        self._out = stored(out.weight), stored(out.bias)
        self._heads = blocks[0].attn1.num_heads
        self._runs: tuple[tuple[int, ...], _Run] | None = None

    def gaussian_parameters(
        self, latents: Float[Tensor, "b v c h w"], cameras: CameraBatch
    ) -> Float[Tensor, "b N 2*dim"]:
        """Same contract as `Compressor.gaussian_parameters`; the result is valid on the engine's stream."""
        with working(self._stream):
            poses = self._pose_embed(cameras).flatten(1, 2)
            key = tuple(latents.shape)
            if self._runs is None or self._runs[0] != key:
                self._runs = None
                self._runs = key, _Run(self, latents, poses, self._options.graphs)
            return self._runs[1](self, latents, poses)

    def compute(self, latents: Tensor, poses: Tensor, rotary: RotaryTable) -> Tensor:
        """Run the network, given the embedded cameras. The graph captures this."""
        views = embed_patches(latents.to(self._embed[0].dtype), *self._embed).flatten(1, 2)
        condition = F.silu(poses).to(views.dtype)
        modulation = F.linear(condition, self._modulation, self._modulation_bias)
        tokens = self._scene_tokens.expand(len(latents), -1, -1).contiguous()
        width = CHUNKS * views.shape[-1]
        for index, block in enumerate(self._blocks):
            tokens, views = self._block_forward(
                block, tokens, views, modulation[..., width * index :][..., :width], rotary
            )
        return F.linear(tokens.to(views.dtype), *self._out)

    def rotary(self, num_views: int) -> RotaryTable:
        return self._rope(num_views)

    def _block_forward(
        self, block: _Block, tokens: Tensor, views: Tensor, modulation: Tensor, rotary: RotaryTable
    ) -> tuple[Tensor, Tensor]:
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.chunk(CHUNKS, dim=-1)
        inner = self._attend(norm_modulate(views, scale1, shift1, NORM_EPS), block.views_qkv, rotary)
        views = gated_residual(views, gate1, F.linear(inner, *block.views_proj))
        # Sums of tokens have the dtype of the stream, float32 if it is exact; layers run in that of the weights.
        inner = self._attend(self._normed(tokens, block.tokens_norm).to(views.dtype), block.tokens_qkv, None)
        tokens = tokens + F.linear(inner, *block.tokens_proj)
        q = self._split(F.linear(tokens.to(views.dtype), *block.cross_q)).transpose(1, 2)
        kv = self._split(F.linear(views, *block.cross_kv))
        k = norm_rotate(kv[:, :, : self._heads], None, rotary, NORM_EPS)
        inner = attention(q, k, kv[:, :, self._heads :].transpose(1, 2))
        tokens = tokens + F.linear(rearrange(inner, "b h n d -> b n (h d)"), *block.cross_proj)
        if block.views_mlp is not None:
            inner = block.views_mlp(norm_modulate(views, scale2, shift2, NORM_EPS))
            views = gated_residual(views, gate2, inner)
        inner = block.tokens_mlp(self._normed(tokens, block.tokens_mlp_norm).to(views.dtype))
        return tokens + inner, views

    def _attend(self, x: Tensor, qkv: Linear, rotary: RotaryTable | None) -> Tensor:
        heads = self._heads
        joined = self._split(F.linear(x, *qkv))
        if rotary is None:
            q, k = joined[:, :, : 2 * heads].transpose(1, 2).chunk(2, dim=1)
        else:
            q, k = norm_rotate(joined[:, :, : 2 * heads], None, rotary, NORM_EPS).chunk(2, dim=1)
        attended = attention(q, k, joined[:, :, 2 * heads :].transpose(1, 2))
        return rearrange(attended, "b h n d -> b n (h d)")

    def _split(self, x: Tensor) -> Float[Tensor, "b n heads d"]:
        return x.unflatten(-1, (-1, self._scene_tokens.shape[-1] // self._heads))

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        return norm_modulate(x, weight, torch.zeros_like(weight), NORM_EPS)


class _Run:
    """Buffers for a fixed number of scenes and views, and the graph that works on them.

    It does not hold the engine: in a circle of references, the weights would stay on the device after the engine has
    been dropped, until Python collects garbage.
    """

    def __init__(self, engine: CompressingEngine, latents: Tensor, poses: Tensor, graphs: bool) -> None:
        self._latents, self._poses = torch.empty_like(latents), torch.empty_like(poses)
        self._rotary = engine.rotary(latents.shape[1])
        self._out = torch.empty(0)
        self._graphs = StepGraphs() if graphs else None

    def __call__(self, engine: CompressingEngine, latents: Tensor, poses: Tensor) -> Tensor:
        self._latents.copy_(latents)
        self._poses.copy_(poses)
        if self._graphs is None:
            self._compute(engine)
        else:
            self._graphs.capture("compress", partial(self._compute, engine))
            self._graphs.replay("compress")
        return self._out.to(torch.float32, copy=True)

    def _compute(self, engine: CompressingEngine) -> None:
        self._out = engine.compute(self._latents, self._poses, self._rotary)


def _view_norms(block: CompressorBlock) -> list[Tensor]:
    """Weights of a block's view norms. The last block has no second norm, but its modulation has the full width."""
    first = block.norm1.weight
    return [first, torch.ones_like(first) if block.norm3 is None else block.norm3.weight]


def _block_weights(block: CompressorBlock, stored: Any) -> _Block:
    def linear(*layers: nn.Module) -> Linear:
        joined = [cast(nn.Linear, layer) for layer in layers]
        weights, biases = [stored(layer.weight) for layer in joined], [stored(layer.bias) for layer in joined]
        return torch.cat(weights), torch.cat(biases)

    views, tokens, cross = block.attn1, block.attn2, block.attn3
    return _Block(
        views_qkv=linear(views.qkv),
        views_proj=linear(views.proj),
        tokens_norm=stored(block.norm2.weight),
        tokens_qkv=linear(tokens.qkv),
        tokens_proj=linear(tokens.proj),
        cross_q=linear(cross.to_q),
        cross_kv=linear(cross.to_k, cross.to_v),
        cross_proj=linear(cross.proj),
        views_mlp=None if block.mlp1 is None else _FeedForward(*map(stored, feed_forward(block.mlp1))),
        tokens_mlp_norm=stored(block.norm4.weight),
        tokens_mlp=_FeedForward(*map(stored, feed_forward(block.mlp2))),
    )
