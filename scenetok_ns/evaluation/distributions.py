"""Distances between two sets of features, accumulated in one pass in bounded memory.

The order of the scenes and the number of processes that computed the features only affect rounding: sums are merged,
and a kernel distance chooses the features to keep by their names alone.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

KERNEL_SUBSETS, KERNEL_SUBSET_SIZE, KERNEL_SEED = 100, 1000, 2020
"""Settings of KID: the defaults of torch-fidelity."""
KEPT_FEATURES = 20_000
"""Number of features of each set that a kernel distance keeps: 160 MB for Inception."""


@dataclass
class Moments:
    """Mean and covariance of features that arrive in batches, in float64 (Chan et al. 1979)."""

    count: int = 0
    mean: Float[Tensor, " d"] | None = None
    scatter: Float[Tensor, "d d"] | None = None
    """Sum of the outer products of the deviations from the mean."""

    def add(self, features: Float[Tensor, "n d"]) -> None:
        if not len(features):
            return
        values = features.double()
        mean = values.mean(dim=0)
        centred = values - mean
        self._merge(len(values), mean, centred.T @ centred)

    def _merge(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        if self.mean is None or self.scatter is None:
            self.count, self.mean, self.scatter = count, mean, scatter
            return
        total, apart = self.count + count, mean - self.mean
        self.scatter = self.scatter + scatter + torch.outer(apart, apart) * (self.count * count / total)
        self.mean = self.mean + apart * (count / total)
        self.count = total

    @property
    def covariance(self) -> Float[Tensor, "d d"]:
        if self.scatter is None or self.count < 2:
            raise ValueError(f"a covariance needs at least 2 features, got {self.count}")
        return self.scatter / (self.count - 1)


def frechet_of_moments(first: Moments, second: Moments) -> float:
    """Squared Frechet (2-Wasserstein) distance between the Gaussians of two sets, as in FID and FVD.

    Raises ValueError if a set has fewer than two features.
    """
    (root_a, trace_a), (root_b, trace_b) = _root(first.covariance), _root(second.covariance)
    # The trace of the square root of A B is the sum of the singular values of sqrt(A) sqrt(B).
    shared = torch.linalg.svdvals(root_a @ root_b).sum()
    assert first.mean is not None and second.mean is not None
    return float((first.mean - second.mean).square().sum() + trace_a + trace_b - 2 * shared)


def frechet_distance(first: Float[Tensor, "k d"], second: Float[Tensor, "m d"]) -> float:
    """Compute `frechet_of_moments` for two sets that fit into memory."""
    moments = Moments(), Moments()
    for part, features in zip(moments, (first, second), strict=True):
        part.add(features)
    return frechet_of_moments(*moments)


def _root(covariance: Float[Tensor, "d d"]) -> tuple[Tensor, Tensor]:
    """Symmetric square root of a covariance, and the trace of the covariance."""
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    return vectors * eigenvalues.clamp(min=0).sqrt() @ vectors.T, covariance.trace()


@dataclass
class FeatureSample:
    """The at most `limit` features whose names have the smallest hashes, whatever the order in which they arrive."""

    limit: int = KEPT_FEATURES
    features: Float[Tensor, "n d"] | None = None
    names: list[str] = field(default_factory=list)

    def add(self, features: Float[Tensor, "n d"], names: list[str]) -> None:
        """Add features, one for each name, and drop those beyond `limit`."""
        together = features if self.features is None else torch.cat([self.features, features])
        offered = self.names + names
        order = sorted(range(len(offered)), key=lambda place: hashlib.sha256(offered[place].encode()).digest())
        self.names = [offered[place] for place in order[: self.limit]]
        self.features = together[order[: self.limit]]


def kernel_distance(first: Float[Tensor, "n d"], second: Float[Tensor, "m d"]) -> tuple[float, float]:
    """Squared maximum mean discrepancy with the kernel (x.y / d + 1)^3, which is KID for Inception features.

    Returns mean and standard deviation over subsets of 1000 features (or all, if there are fewer), drawn as
    torch-fidelity draws them. Each estimate is unbiased, so it may be slightly negative. Raises ValueError for fewer
    than two features.
    """
    size = min(KERNEL_SUBSET_SIZE, len(first), len(second))
    if size < 2:
        raise ValueError(f"a kernel distance needs at least 2 features of each set, got {len(first)} and {len(second)}")
    draws = np.random.RandomState(KERNEL_SEED)
    estimates = []
    for _ in range(KERNEL_SUBSETS):
        subsets = [
            values[torch.from_numpy(draws.choice(len(values), size, replace=False))].double()
            for values in (first, second)
        ]
        estimates.append(_squared_discrepancy(*subsets))
        if size == len(first) == len(second):
            break  # all subsets are the same
    values = torch.stack(estimates)
    return float(values.mean()), float(values.std(correction=0))


def _squared_discrepancy(x: Float[Tensor, "n d"], y: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    n, d = x.shape
    within = [(((s @ s.T) / d + 1) ** 3) for s in (x, y)]
    across = ((x @ y.T) / d + 1) ** 3
    inner = sum(kernel.sum() - kernel.trace() for kernel in within) / (n * (n - 1))
    return inner - 2 * across.mean()
