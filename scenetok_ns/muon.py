"""Muon: momentum whose matrix is orthogonalised, for the matrices inside transformer blocks.

Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024); the scale that makes its
learning rate read like AdamW's is that of Liu et al., "Muon is scalable for LLM training" (2025). torch.optim.Muon
reads its learning rate on the host and works matrix by matrix; this one does all matrices of a shape as one batch and
never waits for the device, so that a training step can be recorded as a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

ITERATION = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)
"""Odd polynomials a x + b x^3 + c x^5, one an iteration, that take singular values of (0, 1] to about 1."""


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay, for parameters of two dimensions.

    An update has the root mean square 0.2 lr whatever the shape, about that of AdamW.

    Raises ValueError for parameters that are not matrices.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: Tensor | float, momentum: float = 0.95, weight_decay: float = 0.02
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        for group in self.param_groups:
            shapes = {tuple(p.shape) for p in group["params"]}
            if any(len(shape) != 2 for shape in shapes):
                raise ValueError(f"Muon: expected matrices only, got parameters of the shapes {sorted(shapes)}")
            group["same_shape"] = [[p for p in group["params"] if tuple(p.shape) == s] for s in sorted(shapes)]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        if closure is not None:
            raise ValueError("Muon: closures are not supported")
        for group in self.param_groups:
            lr, decay = group["lr"], group["weight_decay"]
            for same in group["same_shape"]:
                matrices = [p for p in same if p.grad is not None]
                if not matrices:
                    continue
                gradients = [p.grad for p in matrices]
                moments = [self._moment(p) for p in matrices]
                torch._foreach_lerp_(moments, gradients, 1 - group["momentum"])
                updates = torch.stack(torch._foreach_lerp(gradients, moments, group["momentum"]))
                rows, columns = updates.shape[1:]
                scaled = orthogonalized(updates).to(updates.dtype) * (-0.2 * max(rows, columns) ** 0.5 * lr)
                torch._foreach_mul_(matrices, 1 - lr * decay)
                torch._foreach_add_(matrices, list(scaled.unbind()))

    def _moment(self, parameter: nn.Parameter) -> Tensor:
        state = self.state[parameter]
        if "moment" not in state:
            state["moment"] = torch.zeros_like(parameter)
        return state["moment"]


class Together:
    """Several optimizers of one model, each with a peak learning rate that a common factor scales."""

    def __init__(self, *optimizers: torch.optim.Optimizer) -> None:
        self.optimizers = optimizers
        self.peaks = [[group["lr"].clone() for group in optimizer.param_groups] for optimizer in optimizers]

    def set_learning_rate(self, factor: float) -> None:
        """Learning rates = peaks x factor; in place, for recorded steps see the tensors."""
        for optimizer, peaks in zip(self.optimizers, self.peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"].copy_(peak * factor)

    def zero_grad(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def step(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()


def orthogonalized(matrices: Float[Tensor, "k r c"]) -> Float[Tensor, "k r c"]:
    """Each matrix U S V^T as about U V^T (singular values between 0.7 and 1.3), in bfloat16."""
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonalized(matrices.mT).mT
    x = matrices.bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for a, b, c in ITERATION:
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x


def matrices_inside(blocks: Sequence[nn.Module]) -> list[nn.Parameter]:
    """The parameters of two dimensions of some modules: what Muon is for."""
    return [p for block in blocks for p in block.parameters() if p.ndim == 2]
