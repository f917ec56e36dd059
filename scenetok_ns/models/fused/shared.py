"""Gradients of what all blocks of a network read."""

from __future__ import annotations

import torch
from torch import Tensor

_ATTRIBUTE = "_gradient_shared_by_blocks"


class SharedGradient:
    """Each block adds to it inside of a product. That costs less than what autograd does: to write each share, and to
    add it in a pass of its own."""

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.taken = False
        """Whether a block is there that gives it out: the first, whose backward pass is the last."""

    def add(self, gradient: Tensor, weight: Tensor) -> None:
        self.total = gradient @ weight if self.total is None else self.total.addmm_(gradient, weight)

    def give_out(self) -> Tensor | None:
        total, self.total = self.total, None
        return total


def read_by_blocks(x: Tensor) -> Tensor:
    """The same, for one pass through blocks that follow one another: fused ones will add up its gradient together."""
    x = x.view_as(x)
    if torch.is_grad_enabled():
        setattr(x, _ATTRIBUTE, SharedGradient())
    return x


def shared_gradient(x: Tensor) -> SharedGradient:
    """That of `read_by_blocks`, or one of this block alone."""
    return getattr(x, _ATTRIBUTE, None) or SharedGradient()
