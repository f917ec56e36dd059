"""Exponential moving average (EMA) of trained weights, for evaluation and rendering."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

WARM_UP = 10
"""Constant of the decay's warm-up, (1 + n) / (WARM_UP + n), with which the average forgets the initial weights."""


class WeightAverage(nn.Module):
    """Keeps averaged copies of networks: average <- decay * average + (1 - decay) * weights.

    The decay grows to `decay` as (1 + n) / (10 + n) over the n updates so far. The average is part of the model's state
    dict, so that a resumed run continues it.

    Args:
        networks: The networks to follow, by name.
        decay: Final decay, between 0 and 1, e.g. 0.9999.

    Raises:
        ValueError: The decay is not between 0 and 1.
    """

    def __init__(self, networks: Mapping[str, nn.Module], decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"ema_decay: expected a number between 0 and 1, e.g. 0.9999, got {decay}")
        super().__init__()
        self.decay, self.swapped_in = decay, False
        self._followed = dict(networks)  # a plain dict does not register modules: their weights are saved elsewhere
        self.networks = nn.ModuleDict({name: copy.deepcopy(network) for name, network in networks.items()})
        self.requires_grad_(False)
        self.num_updates = 0

    def update(self) -> None:
        """Update the average. Call this after each step of the optimizer."""
        own, current = zip(*self._pairs(), strict=True)
        update_average(own, current, min(self.decay, (1 + self.num_updates) / (WARM_UP + self.num_updates)))
        self.num_updates += 1

    def restart(self) -> None:
        """Set the average to the networks' current trained weights."""
        with torch.no_grad(), self.swapped_out():
            for own, current in self._pairs():
                own.copy_(current)
        self.num_updates = 0

    def swap_in(self) -> None:
        """Give the networks the averaged weights. The weights are exchanged, not copied."""
        if not self.swapped_in:
            self._exchange()

    def swap_out(self) -> None:
        """Undo `swap_in`: the networks have their trained weights again."""
        if self.swapped_in:
            self._exchange()

    @contextmanager
    def swapped_out(self) -> Iterator[None]:
        """Give the networks their trained weights inside the block, whatever they have outside."""
        before = self.swapped_in
        self.swap_out()
        try:
            yield
        finally:
            if before:
                self.swap_in()

    def get_extra_state(self) -> dict[str, Any]:
        return {"num_updates": self.num_updates}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.num_updates = int(state["num_updates"])

    def _exchange(self) -> None:
        for own, current in self._pairs():
            own.data, current.data = current.data, own.data
        self.swapped_in = not self.swapped_in

    def _pairs(self) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
        for name, network in self.networks.items():
            yield from zip(network.parameters(), self._followed[name].parameters(), strict=True)


@torch.no_grad()
def update_average(average: Iterable[Tensor], current: Iterable[Tensor], decay: float) -> None:
    """Move averaged weights towards the current ones in place: average <- decay * average + (1 - decay) * current."""
    torch._foreach_lerp_(list(average), list(current), 1 - decay)
