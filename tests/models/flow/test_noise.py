"""Starting noise depends on seed and index alone."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from scenetok_ns.models.flow.noise import latent_noise, token_noise
from scenetok_ns.tools.seeds import indexed_seed

SHAPE = (2, 3, 3)


def test_a_latent_has_its_noise_wherever_the_path_ends() -> None:
    long = latent_noise(7, 9, SHAPE)
    assert long.shape == (1, 9, *SHAPE)
    assert torch.equal(latent_noise(7, 4, SHAPE), long[:, :4])
    assert torch.equal(latent_noise(7, 4, SHAPE, first=5), long[:, 5:])


def test_each_scene_has_the_noise_of_its_seed() -> None:
    both = latent_noise([3, 4], 2, SHAPE)
    assert torch.equal(both[1:], latent_noise(4, 2, SHAPE)) and not torch.equal(both[0], both[1])


def test_the_same_numbers_as_ever() -> None:
    """Seeds are printed in papers and kept in files: a change of the stream must be noticed."""
    expected = [-0.8329501748, -1.3459423780, -1.6013677120]
    assert torch.allclose(latent_noise(42, 1, (3,))[0, 0], torch.tensor(expected))


def test_noise_is_standard_normal_and_uncorrelated() -> None:
    noise = latent_noise(0, 64, (512,))[0]
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02
    correlation = torch.corrcoef(torch.cat([noise, latent_noise(1, 64, (512,))[0], token_noise(0, 1, 512)[0]]))
    assert (correlation - torch.eye(129)).abs().max() < 0.25


@given(st.integers(-(2**63), 2**64), st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1))
def test_indices_of_a_seed_never_collide(seed: int, i: int, j: int) -> None:
    assert (indexed_seed(seed, i) == indexed_seed(seed, j)) == (i == j)
    assert indexed_seed(seed, i) != indexed_seed(seed, 1 << 31)


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    latent_noise(5, 2, SHAPE)
    assert torch.equal(torch.rand(1), expected)
