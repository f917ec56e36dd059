"""Frechet and kernel distances are equal to those of torch-fidelity and torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torchmetrics.image.fid import _compute_fid

from scenetok_ns.evaluation import distributions
from scenetok_ns.evaluation.distributions import (
    FeatureSample,
    Moments,
    frechet_distance,
    frechet_of_moments,
    kernel_distance,
)


def features(count: int, dim: int = 24, shift: float = 0.0, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(count, dim, generator=generator) @ torch.randn(dim, dim, generator=generator) / dim**0.5
    return mixed.relu() + shift


def statistics(values: torch.Tensor) -> dict[str, np.ndarray]:
    array = values.double().numpy()
    return {"mu": array.mean(axis=0), "sigma": np.cov(array, rowvar=False)}


@pytest.mark.parametrize("count", [200, 20])  # more and fewer than dimensions
def test_frechet_distance_is_the_libraries(count: int) -> None:
    first, second = features(count), features(count + 7, shift=0.2, seed=1)
    expected = fid_statistics_to_metric(statistics(first), statistics(second), verbose=False)
    found = frechet_distance(first, second)
    assert found == pytest.approx(next(iter(expected.values())), rel=1e-6, abs=1e-6)
    parts = [torch.from_numpy(s[name]) for s in (statistics(first), statistics(second)) for name in ("mu", "sigma")]
    assert found == pytest.approx(float(_compute_fid(*parts)), rel=1e-6, abs=1e-6)


def test_moments_do_not_depend_on_the_batches() -> None:
    values = features(101) + 1000  # a large mean, where sums of squares would lose digits
    whole, pieces = Moments(), Moments()
    whole.add(values)
    for part in values.split([1, 40, 0, 59, 1]):
        pieces.add(part)
    torch.testing.assert_close(pieces.covariance, torch.cov(values.double().T), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(pieces.mean, whole.mean)
    assert frechet_of_moments(whole, pieces) == pytest.approx(0, abs=1e-6)
    lone = Moments()
    lone.add(values[:1])
    with pytest.raises(ValueError, match="at least 2 features, got 1"):
        frechet_of_moments(whole, lone)


@pytest.mark.parametrize("counts", [(60, 75), (30, 30)])
def test_kernel_distance_is_the_librarys(counts: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributions, "KERNEL_SUBSET_SIZE", 50)
    first, second = features(counts[0]), features(counts[1], shift=0.1, seed=1)
    settings = {"kid_subsets": 100, "kid_subset_size": min(50, *counts), "rng_seed": 2020, "verbose": False}
    expected = kid_features_to_metric(first.double(), second.double(), **settings)
    mean, deviation = kernel_distance(first, second)
    assert mean == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-5)
    assert deviation == pytest.approx(expected["kernel_inception_distance_std"], rel=1e-4, abs=1e-6)


def test_kernel_distance_is_not_a_frechet_distance_in_disguise() -> None:
    first = features(50)
    assert abs(kernel_distance(first, first.clone())[0]) < kernel_distance(first, first + 1)[0]
    with pytest.raises(ValueError, match="at least 2 features"):
        kernel_distance(first[:1], first)


def test_kept_features_follow_from_names_alone() -> None:
    values, names = features(40), [f"scene/{i}" for i in range(40)]
    forward, backward = FeatureSample(limit=10), FeatureSample(limit=10)
    for places in (range(25), range(25, 40)):
        forward.add(values[list(places)], [names[i] for i in places])
    for place in reversed(range(40)):
        backward.add(values[place : place + 1], names[place : place + 1])
    assert forward.names == backward.names and len(forward.names) == 10
    torch.testing.assert_close(forward.features, backward.features)
    for name, row in zip(forward.names, forward.features, strict=True):
        assert torch.equal(row, values[names.index(name)])
