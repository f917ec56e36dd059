"""Any integer is a valid seed, and different seeds give different numbers."""

from __future__ import annotations

from itertools import combinations

import torch
from hypothesis import example, given
from hypothesis import strategies as st

from scenetok_ns.models.flow.noise import latent_noise, token_noise
from scenetok_ns.tools.seeds import indexed_seed, mix, named_generator, named_seed, seeded_generator, word

ALIASES = (-(2**64), -(2**32), -2, -1, 0, 1, 2**32 - 1, 2**32, 2**32 + 1, 2**63, 2**64 - 1, 2**64, 2**64 + 1, 10**40)
"""Seeds of which torch's generators cannot tell several apart."""


def test_seeds_that_torch_takes_for_one_another_differ() -> None:
    for first, second in combinations(ALIASES, 2):
        assert word(first) != word(second) and word(first, 64) != word(second, 64)
        assert mix(first, 5) != mix(second, 5) and mix(5, first) != mix(5, second)
        assert indexed_seed(first, 0) != indexed_seed(second, 0)
    for draw in (
        lambda seed: latent_noise(seed, 1, (8,)),
        lambda seed: token_noise(seed, 1, 8),
        lambda seed: torch.randn(8, generator=seeded_generator(seed)),
    ):
        assert len({tuple(draw(seed).flatten().tolist()) for seed in ALIASES}) == len(ALIASES)


@given(st.integers(0, 2**32 - 1))
@example(0)
@example(2**32 - 1)
def test_small_seeds_are_what_torch_takes_them_for(seed: int) -> None:
    expected = torch.rand(3, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(torch.rand(3, generator=seeded_generator(seed)), expected)


def test_the_same_numbers_as_ever() -> None:
    """These numbers must never change: existing training samples, latents and evaluation indices depend on them."""
    assert [indexed_seed(0, 0), indexed_seed(42, 7), indexed_seed(2**32 - 1, 1 << 31)] == [0, 2200047594, 3073986297]
    mixed = [mix(0), mix(42, 0, 3), mix(1, 2, 1 << 20)]
    assert mixed == [
        6229623725594924965,
        7898107076690284285,
        4332980123219833638,
    ]
    assert named_seed(0, "scene", 3) == 4124422674746846968
    assert torch.rand(1, generator=named_generator(0, "scene", 3)).item() == 0.5667313933372498
