from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scenetok_ns.models.ops.rope import (
    GridRotary,
    angles_2d,
    angles_3d,
    apply_rotary,
    axis_angles,
    rotary_table,
    split_head_dim,
)


@pytest.mark.parametrize(("dim", "split"), [(64, (20, 22, 22)), (48, (16, 16, 16)), (32, (12, 10, 10))])
def test_head_dimensions_are_divided_as_in_the_released_models(dim: int, split: tuple[int, int, int]) -> None:
    assert split_head_dim(dim) == split


@given(st.integers(3, 200).map(lambda pairs: 2 * pairs))
def test_any_even_head_dimension_is_used_up(dim: int) -> None:
    split = split_head_dim(dim)
    assert sum(split) == dim and split[1] == split[2] and all(d % 2 == 0 for d in split)


def test_impossible_head_dimensions_are_named() -> None:
    with pytest.raises(ValueError, match="head dimension 7 is not a multiple of 2"):
        split_head_dim(7)
    with pytest.raises(ValueError, match="head dimension 18 is not a multiple of 4"):
        angles_2d(18, (2, 2))


def test_frequencies_fall_from_1_to_almost_1_in_10000() -> None:
    angles = axis_angles(3, 8)
    torch.testing.assert_close(angles[0], torch.zeros(8))
    torch.testing.assert_close(angles[2, ::2], 2 * torch.tensor([1.0, 0.1, 0.01, 0.001]))
    assert torch.equal(angles[:, ::2], angles[:, 1::2])


def test_axes_of_the_grid() -> None:
    angles = angles_3d(16, 2, (3, 4)).view(2, 3, 4, 16)
    latent, row, column = angles.split(split_head_dim(16), dim=-1)
    assert torch.equal(latent, latent[:, :1, :1].expand_as(latent)) and latent[0].eq(0).all() and latent[1].ne(0).all()
    assert torch.equal(row, row[:1, :, :1].expand_as(row)) and row[:, 0].eq(0).all() and row[:, 1].ne(0).all()
    assert torch.equal(column, column[:1, :1].expand_as(column)) and column[:, :, 0].eq(0).all()
    flat = angles_2d(16, (3, 4)).view(3, 4, 16)
    assert flat[0, :, :8].eq(0).all() and flat[:, 0, 8:].eq(0).all() and flat[1, 1].ne(0).all()


POSITIONS = st.tuples(*[st.integers(0, 2)] * 3)


@settings(max_examples=20, deadline=None)
@given(POSITIONS, POSITIONS, st.tuples(*[st.integers(0, 1)] * 3), st.integers(0, 10_000))
def test_products_depend_on_the_offset_alone(here: tuple, there: tuple, shift: tuple, seed: int) -> None:
    q, k = torch.randn(2, 16, generator=torch.Generator().manual_seed(seed))
    table = rotary_table(angles_3d(16, 4, (4, 4)))

    def turned(x: Tensor, position: tuple, shift: tuple = (0, 0, 0)) -> Tensor:
        latent, row, column = (p + s for p, s in zip(position, shift, strict=True))
        return apply_rotary(x.expand(1, 1, 64, 16), table)[0, 0, (latent * 4 + row) * 4 + column]

    product = turned(q, here) @ turned(k, there)
    torch.testing.assert_close(turned(q, here, shift) @ turned(k, there, shift), product, rtol=1e-4, atol=1e-4)


def test_rotation_is_of_neighbours_and_keeps_lengths() -> None:
    x = torch.randn(1, 1, 5, 8)
    turned = apply_rotary(x, rotary_table(axis_angles(5, 8)))
    pairs, turned_pairs = x.unflatten(-1, (-1, 2)), turned.unflatten(-1, (-1, 2))
    torch.testing.assert_close(pairs.norm(dim=-1), turned_pairs.norm(dim=-1))
    quarter = apply_rotary(torch.tensor([[[[1.0, 0.0]]]]), (torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 1.0]])))
    assert quarter.flatten().tolist() == [0.0, 1.0]


def test_half_precision_is_rotated_in_float32() -> None:
    x = torch.randn(1, 1, 400, 8).bfloat16()
    table = rotary_table(axis_angles(400, 8))
    turned = apply_rotary(x, table)
    assert turned.dtype == torch.bfloat16
    assert torch.equal(turned, apply_rotary(x.float(), table).bfloat16())


def test_repeats_start_again_at_zero() -> None:
    cos, sin = rotary_table(axis_angles(3, 4), repeats=2)
    assert torch.equal(cos[:3], cos[3:]) and torch.equal(sin[:3], sin[3:]) and cos.shape == (6, 4)


def test_the_stored_table_stays_float32_and_can_be_computed_anew() -> None:
    rotary = GridRotary(16, (3, 4))
    cos, sin = rotary(2)
    assert torch.equal(cos, rotary_table(angles_2d(16, (3, 4)), repeats=2)[0])
    assert set(rotary.state_dict()) == {"freqs_cos", "freqs_sin"}
    for cast in (rotary.to(torch.bfloat16), rotary.half(), rotary.to("cpu", torch.float16)):
        assert cast.freqs_cos.dtype == torch.float32
        assert torch.equal(cast.freqs_sin.repeat(2, 1), sin)
    with torch.device("meta"):
        empty = GridRotary(16, (3, 4))
    empty = empty.to_empty(device="cpu")
    empty.fill_tables()
    assert torch.equal(empty(2)[0], cos) and torch.equal(empty(2)[1], sin)
