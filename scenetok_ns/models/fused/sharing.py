"""Gradients of tensors that all fused blocks of a network read: the activated condition and the context."""

from __future__ import annotations

from torch import Tensor

_ATTRIBUTE = "_gradient_shared_by_blocks"


class SharedGradient:
    """Gradient of one tensor, to which each block adds its share inside a matrix product.

    This costs less than autograd, which writes each share and adds it in a separate pass.
    """

    def __init__(self, chain: object) -> None:
        self.chain = chain
        self.readers: set[int] = set()
        self.total: Tensor | None = None

    def add(self, gradient: Tensor, weight: Tensor) -> None:
        self.total = gradient @ weight if self.total is None else self.total.addmm_(gradient, weight)

    def release(self) -> Tensor | None:
        """Return the sum of all shares so far and forget it."""
        total, self.total = self.total, None
        return total


def shared_gradient(x: Tensor, chain: object | None, reader: int) -> tuple[SharedGradient, bool]:
    """Return the gradient of `x` that the blocks of a chain share in one pass, and whether this block comes first.

    The first block of a pass must release the gradient, because its backward pass comes last. A block that reads the
    same tensor once more begins another pass.

    Args:
        x: Tensor that several blocks read.
        chain: Identity of the blocks that follow one another in a network; None: the block stands alone.
        reader: Identity of the block.
    """
    found = getattr(x, _ATTRIBUTE, None)
    if chain is None or found is None or found.chain is not chain or reader in found.readers:
        found = SharedGradient(chain)
        setattr(x, _ATTRIBUTE, found)
    found.readers.add(reader)
    return found, len(found.readers) == 1
