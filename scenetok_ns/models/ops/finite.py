"""Check that results are finite: NaN and infinite numbers would give black pictures."""

from __future__ import annotations

import torch
from torch import Tensor


class NotFiniteError(ValueError):
    """Raised if networks computed NaN or infinite numbers."""


def is_finite(value: Tensor) -> bool:
    """Whether a tensor holds no NaN and no infinite number. Allocates no second tensor of its size."""
    if not value.is_floating_point() or value.numel() == 0:
        return True
    smallest, largest = torch.aminmax(value.detach())  # both are NaN if any value is
    return bool(torch.isfinite(smallest) & torch.isfinite(largest))


def require_finite(value: Tensor, what: str) -> None:
    """Raise NotFiniteError, which begins with `what`, if a result of networks is not finite."""
    if not is_finite(value):
        raise NotFiniteError(
            f"{what} came out as numbers that are not finite: check the poses and their units, --guidance, and the "
            "weights of the run"
        )
