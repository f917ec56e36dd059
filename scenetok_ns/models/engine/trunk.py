"""The arithmetic of networks/dit.py over weights laid out for inference, as plain functions.

`trunk_forward` is `Trunk.forward`, `block_forward` is `Block.forward`. They differ from the modules, by no more than
rounding, in this:

* all blocks' adaLN layers are one matrix, so that the modulations of a step are one large product;
* a norm's weight is folded into the scale behind it, and the 1 of `1 + scale` into its bias;
* the feed-forward is padded with zeros to a multiple of 64: 2730, as published, falls on slow unaligned kernels;
* all blocks' keys and values of the context are one product.

Activations are [copies, b, n, hidden]: with guidance, the conditional and the unconditional copy of each element share
one set of modulations.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from scenetok_ns.models.networks.dit import NORM_EPS, Block, Trunk
from scenetok_ns.models.networks.layers import FEED_FORWARD_MULTIPLE, SwiGLU, padded_feed_forward
from scenetok_ns.models.ops.dispatch import (
    attend,
    linear_gated,
    norm_modulate,
    norm_rotate,
    residual_norm,
    silu_product,
)
from scenetok_ns.models.ops.rope import RotaryTable

CHUNKS = 6
"""Shift, scale and gate, for the self-attention and for the feed-forward."""


class BlockWeights(NamedTuple):
    """Weights of one block."""

    qkv: Tensor
    qkv_bias: Tensor
    qk_norm: Float[Tensor, "2*heads d"]
    proj: Tensor
    proj_bias: Tensor
    cross_q: Tensor
    cross_q_bias: Tensor
    cross_q_norm: Float[Tensor, "heads d"]
    cross_proj: Tensor
    cross_proj_bias: Tensor
    w12: Tensor
    w12_bias: Tensor
    w3: Tensor
    w3_bias: Tensor


class TrunkWeights(NamedTuple):
    blocks: list[BlockWeights]
    modulation: Float[Tensor, "all hidden"]
    """Rows: CHUNKS * hidden of each block, then shift and scale of the final layer."""
    modulation_bias: Float[Tensor, " all"]
    cross_kv: Float[Tensor, "depth*2*hidden hidden"]
    cross_kv_bias: Float[Tensor, " depth*2*hidden"]
    cross_k_norm: Float[Tensor, "depth d"]
    final: Tensor
    final_bias: Tensor

    @property
    def head_dim(self) -> int:
        return self.cross_k_norm.shape[1]


def trunk_weights(trunk: Trunk, device: torch.device, dtype: torch.dtype) -> TrunkWeights:
    """Copy a trunk's weights, fold them in float32, and store them in `dtype` on `device`."""
    blocks = [cast(Block, block) for block in trunk.blocks]

    def stored(tensor: Tensor) -> Tensor:
        return tensor.detach().to(device, dtype)

    def joined(layers: list[nn.Linear]) -> tuple[Tensor, Tensor]:
        return torch.cat([stored(layer.weight) for layer in layers]), torch.cat([stored(la.bias) for la in layers])

    final = trunk.final_layer
    adaln: list[tuple[nn.Module, list[Tensor]]] = [
        (block.adaLN_modulation, [block.norm1.weight, block.norm2.weight]) for block in blocks
    ]
    adaln.append((final.adaLN_modulation, [final.norm_final.weight]))
    # Cast one by one: all of them in float32 would take as much memory as the network.
    modulation, modulation_bias = zip(*(map(stored, folded_modulation(*each)) for each in adaln), strict=True)
    cross_kv, cross_kv_bias = joined([layer for block in blocks for layer in (block.attn2.to_k, block.attn2.to_v)])
    return TrunkWeights(
        blocks=[BlockWeights(*map(stored, _block_tensors(block))) for block in blocks],
        modulation=torch.cat(modulation),
        modulation_bias=torch.cat(modulation_bias),
        cross_kv=cross_kv,
        cross_kv_bias=cross_kv_bias,
        cross_k_norm=torch.stack([stored(cast(Tensor, block.attn2.k_norm.weight)) for block in blocks]),
        final=stored(final.linear.weight),
        final_bias=stored(final.linear.bias),
    )


def keys_values(
    weights: TrunkWeights, context: Float[Tensor, "b keys hidden"]
) -> tuple[Float[Tensor, "depth b heads keys d"], Float[Tensor, "depth b heads keys d"]]:
    """Return normed keys, and values, of every block, in the dtype of the weights."""
    depth, d = weights.cross_k_norm.shape
    both = F.linear(context.to(weights.cross_kv.dtype), weights.cross_kv, weights.cross_kv_bias)
    k, v = rearrange(both, "b n (depth two h d) -> two depth b h n d", depth=depth, two=2, d=d)
    return _norm(k, weights.cross_k_norm[:, None, None, None]), v.contiguous()


def modulations(
    weights: TrunkWeights, condition: Float[Tensor, "rows hidden"], out: Float[Tensor, "rows all"] | None = None
) -> Float[Tensor, "rows all"]:
    """Return shifts, scales (plus 1, times the norm's weight) and gates of all blocks and of the final layer."""
    if out is None:
        return F.linear(condition, weights.modulation, weights.modulation_bias)
    return torch.addmm(weights.modulation_bias, condition, weights.modulation.t(), out=out)


def trunk_forward(
    weights: TrunkWeights,
    x: Float[Tensor, "copies b n hidden"],
    modulation: Float[Tensor, "b1 n1 all"],
    keys: Float[Tensor, "depth copies*b heads keys d"],
    values: Float[Tensor, "depth copies*b heads keys d"],
    rotary: RotaryTable | None,
    features: Float[Tensor, "b n hidden"] | None = None,
) -> Float[Tensor, "copies b n out"]:
    """Run `Trunk.forward` with given modulations, which may be the same for all elements or tokens (b1, n1 = 1).

    features: Receives the input of the last linear layer for the first copy (`Trunk.forward_with_features`).
    """
    hidden = x.shape[-1]
    shifts_and_scales = [
        modulation[..., index * CHUNKS * hidden :][..., : 2 * hidden].chunk(2, dim=-1)
        for index in range(len(weights.blocks) + 1)
    ]
    normed = norm_modulate(x, shifts_and_scales[0][1], shifts_and_scales[0][0], NORM_EPS)
    for index, block in enumerate(weights.blocks):
        own = modulation[..., index * CHUNKS * hidden : (index + 1) * CHUNKS * hidden]
        shift, scale = shifts_and_scales[index + 1]
        x, normed = block_forward(block, x, normed, own, shift, scale, keys[index], values[index], rotary)
    if features is not None:
        features.copy_(normed[0])
    return F.linear(normed, weights.final, weights.final_bias)


def block_forward(
    weights: BlockWeights,
    x: Float[Tensor, "copies b n hidden"],
    normed: Float[Tensor, "copies b n hidden"],
    modulation: Float[Tensor, "b1 n1 6*hidden"],
    next_shift: Float[Tensor, "b1 n1 hidden"],
    next_scale: Float[Tensor, "b1 n1 hidden"],
    keys: Float[Tensor, "copies*b heads keys d"],
    values: Float[Tensor, "copies*b heads keys d"],
    rotary: RotaryTable | None,
) -> tuple[Float[Tensor, "copies b n hidden"], Float[Tensor, "copies b n hidden"]]:
    """Run `Block.forward` in few kernels.

    `normed` is the modulated first norm of `x`. The second result is the norm of the first, modulated for the layer
    that follows: the next block, or the final layer.
    """
    qkv = _heads(weights, normed, keys.shape[-1])
    heads = qkv.shape[2] // 3
    # Queries are rotated along with the keys. Where there is no key to rotate, `attend` saves a kernel by doing it.
    q, k = norm_rotate(qkv[:, :, : 2 * heads], weights.qk_norm, rotary, NORM_EPS).chunk(2, dim=1)
    attended = attend(q.transpose(1, 2), None, None, k, qkv[:, :, 2 * heads :].transpose(1, 2), NORM_EPS)
    return _after_attention(weights, x, attended, modulation, next_shift, next_scale, keys, values, rotary)


def trunk_forward_after(
    weights: TrunkWeights,
    x: Float[Tensor, "1 b n hidden"],
    modulation: Float[Tensor, "b n all"],
    keys: Float[Tensor, "depth b heads keys d"],
    values: Float[Tensor, "depth b heads keys d"],
    rotary: RotaryTable,
    seen_keys: Float[Tensor, "depth b heads m d"],
    seen_values: Float[Tensor, "depth b heads m d"],
    *,
    keep: bool,
) -> tuple[Float[Tensor, "1 b n out"], tuple[Float[Tensor, "depth b n heads d"], ...]]:
    """Run `Trunk.forward_after`.

    Args:
        seen_keys, seen_values: Rotated keys, and values, that the self-attention of every block sees. The last `n` are
            overwritten with those of `x`.
        keep: Also return the keys before rotation and the values of `x` in every block.
    """
    hidden, count, d = x.shape[-1], x.shape[2], weights.head_dim
    heads = hidden // d
    own_keys, own_values = seen_keys[:, :, :, -count:], seen_values[:, :, :, -count:]
    first_shift, first_scale = modulation[..., : 2 * hidden].chunk(2, dim=-1)
    normed = norm_modulate(x, first_scale, first_shift, NORM_EPS)
    made = []
    for index, block in enumerate(weights.blocks):
        own = modulation[..., index * CHUNKS * hidden : (index + 1) * CHUNKS * hidden]
        shift, scale = modulation[..., (index + 1) * CHUNKS * hidden :][..., : 2 * hidden].chunk(2, dim=-1)
        qkv = _heads(block, normed, d)
        q, k = norm_rotate(qkv[:, :, : 2 * heads], block.qk_norm, rotary, NORM_EPS).chunk(2, dim=1)
        own_keys[index].copy_(k)
        own_values[index].copy_(qkv[:, :, 2 * heads :].transpose(1, 2))
        if keep:
            plain = norm_rotate(qkv[:, :, heads : 2 * heads], block.qk_norm[heads:], None, NORM_EPS)
            made.append((plain.transpose(1, 2), qkv[:, :, 2 * heads :]))
        attended = attend(q.transpose(1, 2), None, None, seen_keys[index], seen_values[index], NORM_EPS)
        x, normed = _after_attention(block, x, attended, own, shift, scale, keys[index], values[index], rotary)
    kept = tuple(torch.stack(parts) for parts in zip(*made, strict=True))
    return F.linear(normed, weights.final, weights.final_bias), kept


def rotated(heads: Float[Tensor, "b n heads d"], rotary: RotaryTable | None) -> Float[Tensor, "b heads n d"]:
    """Rotate normed heads by their positions. None: change only the order of dimensions."""
    return norm_rotate(heads, None, rotary, NORM_EPS)


def _heads(weights: BlockWeights, normed: Tensor, d: int) -> Float[Tensor, "b n 3*heads d"]:
    """Queries, keys and values of the self-attention, before norms and rotation."""
    return rearrange(F.linear(normed, weights.qkv, weights.qkv_bias), "c b n (h3 d) -> (c b) n h3 d", d=d)


def _after_attention(
    weights: BlockWeights,
    x: Tensor,
    attended: Tensor,
    modulation: Tensor,
    next_shift: Tensor,
    next_scale: Tensor,
    keys: Tensor,
    values: Tensor,
    rotary: RotaryTable | None,
) -> tuple[Tensor, Tensor]:
    """Run the rest of a block after its self-attention; arguments and result as in `block_forward`."""
    _, _, gate1, shift2, scale2, gate2 = modulation.chunk(CHUNKS, dim=-1)
    d = keys.shape[-1]
    x = linear_gated(attended.reshape(x.shape), weights.proj, weights.proj_bias, x, gate1)
    q = rearrange(F.linear(x, weights.cross_q, weights.cross_q_bias), "c b n (h d) -> (c b) n h d", d=d)
    attended = attend(q, weights.cross_q_norm, rotary, keys, values, NORM_EPS)
    inner = F.linear(attended.reshape(x.shape), weights.cross_proj, weights.cross_proj_bias)
    x, normed = residual_norm(x, inner, None, scale2, shift2, NORM_EPS)
    inner = silu_product(F.linear(normed, weights.w12, weights.w12_bias))
    inner = F.linear(inner, weights.w3, weights.w3_bias)
    return residual_norm(x, inner, gate2, next_scale, next_shift, NORM_EPS)


def _norm(x: Tensor, weight: Tensor) -> Tensor:
    return (F.rms_norm(x.float(), x.shape[-1:], eps=NORM_EPS) * weight.float()).to(x.dtype)


def folded_modulation(layer: nn.Module, norms: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return weight and bias of an adaLN layer with each norm's weight w folded in: w (1 + scale).

    The layer's output holds a shift and a scale for each norm, and a gate if there are three chunks to a norm.
    """
    linear = cast(nn.Linear, cast(nn.Sequential, layer)[1])
    weight, bias = linear.weight.detach().float().clone(), linear.bias.detach().float().clone()
    hidden = weight.shape[1]
    per_norm = len(weight) // (hidden * len(norms))
    for index, norm in enumerate(norms):
        rows = slice((index * per_norm + 1) * hidden, (index * per_norm + 2) * hidden)
        factor = norm.detach().float()
        weight[rows] *= factor[:, None]
        bias[rows] = (bias[rows] + 1) * factor
    return weight, bias


def _block_tensors(block: Block) -> tuple[Tensor, ...]:
    own, cross = cast(Any, block.attn), cast(Any, block.attn2)
    return (
        own.qkv.weight,
        own.qkv.bias,
        torch.cat([norm.expand(own.num_heads, -1) for norm in (own.q_norm.weight, own.k_norm.weight)]),
        own.proj.weight,
        own.proj.bias,
        cross.to_q.weight,
        cross.to_q.bias,
        cross.q_norm.weight.expand(cross.num_heads, -1).contiguous(),
        cross.proj.weight,
        cross.proj.bias,
        *feed_forward(block.mlp),
    )


def feed_forward(layer: SwiGLU) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return w12 and its bias, w3 and its bias, padded for fast kernels."""
    padded = padded_feed_forward(layer.w12.weight, layer.w12.bias, layer.w3.weight, FEED_FORWARD_MULTIPLE)
    return *padded, layer.w3.bias
