from __future__ import annotations

import pytest
import torch
from torch import nn

from scenetok_ns.models.networks.layers import (
    CrossAttention,
    PatchEmbed,
    RMSNorm,
    SelfAttention,
    SwiGLU,
    check_shape,
    padded_feed_forward,
)
from scenetok_ns.models.ops.rope import axis_angles, rotary_table


def test_norm_divides_by_the_root_mean_square() -> None:
    norm = RMSNorm(8, eps=1e-2)
    nn.init.normal_(norm.weight)
    x = torch.randn(2, 3, 8)
    torch.testing.assert_close(norm(x), x / (x.square().mean(-1, keepdim=True) + 1e-2).sqrt() * norm.weight)


def test_norm_computes_in_float32_and_casts_last() -> None:
    norm = RMSNorm(512, eps=1e-6)
    nn.init.normal_(norm.weight)
    x = (torch.randn(4, 512) * 300).bfloat16()
    exact = norm(x.float())
    assert torch.equal(norm(x), exact.bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(norm(x.float()), exact)


@pytest.mark.parametrize(("dim", "hidden"), [(1024, 2730), (768, 2048), (1536, 4096), (64, 170), (48, 128)])
def test_feed_forward_has_the_width_of_the_released_models(dim: int, hidden: int) -> None:
    with torch.device("meta"):
        layer = SwiGLU(dim, 4.0)
    assert layer.w12.weight.shape == (2 * hidden, dim) and layer.w3.weight.shape == (dim, hidden)


@pytest.mark.parametrize(("multiple", "padded"), [(1, 42), (7, 42), (8, 48), (64, 64)])
def test_wider_feed_forward_is_the_same_function(multiple: int, padded: int) -> None:
    layer = SwiGLU(16, 4.0).double()
    wider = SwiGLU(16, 4.0)
    x = torch.randn(2, 3, 16, dtype=torch.float64)
    weights = padded_feed_forward(layer.w12.weight, layer.w12.bias, layer.w3.weight, multiple)
    assert [tuple(w.shape) for w in weights] == [(2 * padded, 16), (2 * padded,), (16, padded)]
    with torch.no_grad():  # as if they were the weights of a wider layer
        for parameter, weight in zip((wider.w12.weight, wider.w12.bias, wider.w3.weight), weights, strict=True):
            parameter.data = weight.detach()
        wider.w3.bias.data = layer.w3.bias.detach()
    torch.testing.assert_close(wider(x), layer(x), rtol=1e-12, atol=1e-12)


def test_patches_are_a_strided_convolution_in_row_order() -> None:
    embed = PatchEmbed(3, 8, 2)
    x = torch.randn(2, 5, 3, 6, 4)
    convolved = embed.proj(x.flatten(0, 1)).unflatten(0, (2, 5)).flatten(-2).transpose(-1, -2)
    torch.testing.assert_close(embed(x), convolved)


def test_cross_attention_over_itself_is_self_attention() -> None:
    own, cross = SelfAttention(24, 3, 1e-6), CrossAttention(24, 3, 1e-6)
    weights, biases = own.qkv.weight.chunk(3), own.qkv.bias.chunk(3)
    state = {f"to_{n}.weight": w for n, w in zip("qkv", weights, strict=True)}
    state |= {f"to_{n}.bias": b for n, b in zip("qkv", biases, strict=True)}
    state |= {key: value for key, value in own.state_dict().items() if not key.startswith("qkv")}
    cross.load_state_dict(state)
    x, table = torch.randn(2, 5, 24), rotary_table(axis_angles(5, 8))
    torch.testing.assert_close(cross(x, cross.keys_values(x)), own(x))
    torch.testing.assert_close(cross(x, cross.keys_values(x, table), table), own(x, table))
    assert not torch.allclose(own(x), own(x, table))


def test_wrong_shapes_are_named() -> None:
    check_shape("tokens", torch.zeros(2, 3, 4), (None, 3, 4))
    with pytest.raises(ValueError, match=r"tokens: expected shape \[any, 3, 5\], got \[2, 3, 4\]"):
        check_shape("tokens", torch.zeros(2, 3, 4), (None, 3, 5))
    with pytest.raises(ValueError, match=r"expected shape \[2\], got \[2, 1\]"):
        check_shape("tokens", torch.zeros(2, 1), (2,))
