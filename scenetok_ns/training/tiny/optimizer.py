"""AdamW, optionally with Muon for the matrices of the blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration that Muon's author published: singular values end between 0.7 and 1.2."""
ITERATIONS = 5


@dataclass(frozen=True)
class Group:
    """Parameters that are clipped together. `rate`: learning rate as a multiple of the run's."""

    parameters: list[nn.Parameter]
    rate: float = 1.0
    orthogonal: frozenset[int] = frozenset()
    """`id` of the parameters that Muon updates."""


class TinyOptimizer:
    """One flat gradient for all parameters, so that clipping is a product and data-parallel work one sum.

    The parameters' `grad` are views of it: backward passes add to them, `zero` clears them.
    """

    def __init__(self, groups: Sequence[Group], learning_rate: float, weight_decay: float = 0.02) -> None:
        self.groups = [group for group in groups if group.parameters]
        parameters = [p for group in self.groups for p in group.parameters]
        device = parameters[0].device
        self.gradient = torch.zeros(sum(p.numel() for p in parameters), device=device)
        self._parts: list[Tensor] = []
        start = 0
        for group in self.groups:
            first = start
            for parameter in group.parameters:
                # With the parameter's own strides (a codec in channels-last order): the optimizer insists on them.
                parameter.grad = self.gradient.as_strided(parameter.shape, parameter.stride(), start)
                start += parameter.numel()
            self._parts.append(self.gradient[first:start])
        rows = []
        for group in self.groups:
            adam = [p for p in group.parameters if id(p) not in group.orthogonal]
            for some, decay in (
                ([p for p in adam if p.ndim > 1], weight_decay),
                ([p for p in adam if p.ndim <= 1], 0.0),
            ):
                if some:
                    rows.append({"params": some, "weight_decay": decay, "lr": learning_rate, "rate": group.rate})
        self.adam = torch.optim.AdamW(rows, betas=(0.9, 0.99), fused=device.type == "cuda")
        orthogonal = [p for group in self.groups for p in group.parameters if id(p) in group.orthogonal]
        self.muon = Muon(orthogonal, weight_decay) if orthogonal else None
        self.learning_rate = learning_rate

    def zero(self) -> None:
        self.gradient.zero_()

    def step(self, factor: float, largest_norm: float = 1.0) -> None:
        """Clip each group's gradient to `largest_norm`, and take a step at `factor` times the learning rate.

        A gradient that is not finite counts as zero: one bad batch must not end a training run.
        """
        for part in self._parts:
            norm = torch.linalg.vector_norm(part)
            scale = torch.where(norm.isfinite(), (largest_norm / (norm + 1e-6)).clamp(max=1.0), 0.0)
            part.nan_to_num_(0.0, 0.0, 0.0).mul_(scale)
        for row in self.adam.param_groups:
            row["lr"] = self.learning_rate * factor * row["rate"]
        self.adam.step()
        if self.muon is not None:
            self.muon.step(self.learning_rate * factor)


class Muon:
    """Orthogonalised momentum (Jordan 2024), scaled so that an update is as large as AdamW's (Liu 2025).

    Matrices of one shape are worked on together.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], weight_decay: float, momentum: float = 0.95) -> None:
        self.weight_decay, self.momentum = weight_decay, momentum
        self._shapes: dict[torch.Size, list[nn.Parameter]] = {}
        for parameter in parameters:
            self._shapes.setdefault(parameter.shape, []).append(parameter)
        self._momenta = {shape: torch.zeros(len(ps), *shape, device=ps[0].device) for shape, ps in self._shapes.items()}

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        for shape, matrices in self._shapes.items():
            parameters: list[Tensor] = [*matrices]
            gradient = torch.stack([p.grad for p in parameters if p.grad is not None])
            momentum = self._momenta[shape]
            momentum.lerp_(gradient, 1 - self.momentum)
            update = orthogonalized(torch.lerp(gradient, momentum, self.momentum))
            scale = 0.2 * max(shape) ** 0.5
            torch._foreach_mul_(parameters, 1 - learning_rate * self.weight_decay)
            torch._foreach_add_(parameters, list((update * scale).unbind()), alpha=-learning_rate)


def orthogonalized(matrices: Float[Tensor, "k m n"]) -> Float[Tensor, "k m n"]:
    """The nearest matrices whose singular values are all about one."""
    a, b, c = NEWTON_SCHULZ
    wide = matrices.shape[1] <= matrices.shape[2]
    x = (matrices if wide else matrices.mT).to(torch.bfloat16 if matrices.is_cuda else torch.float32)
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return (x if wide else x.mT).to(matrices.dtype)


def block_matrices(blocks: Sequence[nn.Module], without: Sequence[str] = ()) -> frozenset[int]:
    """Matrices of `blocks` for Muon, except those whose name contains one of `without`."""
    return frozenset(
        id(parameter)
        for block in blocks
        for name, parameter in block.named_parameters()
        if parameter.ndim == 2 and not any(part in name for part in without)
    )
