"""An exponential moving average of trained weights, to evaluate and render with (EMA)."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

WARM_UP = 10
"""The first averages are over few steps, so that they forget the weights that training began with."""


class WeightAverage(nn.Module):
    """Copies of networks whose weights follow theirs: average <- decay * average + (1 - decay) * weights.

    The decay grows to `decay` as (1 + n) / (10 + n) over the n updates so far. Part of the model's state dict, so that
    a resumed run goes on with it.
    """

    def __init__(self, networks: Mapping[str, nn.Module], decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"ema_decay: expected a number between 0 and 1, e.g. 0.9999, got {decay}")
        super().__init__()
        self.decay, self.shown = decay, False
        self._followed = dict(networks)  # in a dict, of which no module takes notice: its weights are saved elsewhere
        self.networks = nn.ModuleDict({name: copy.deepcopy(network) for name, network in networks.items()})
        self.requires_grad_(False)
        self.num_updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """After a step of the optimizer."""
        decay = min(self.decay, (1 + self.num_updates) / (WARM_UP + self.num_updates))
        own, current = zip(*self._pairs(), strict=True)
        torch._foreach_lerp_(list(own), list(current), 1 - decay)
        self.num_updates += 1

    def restart(self) -> None:
        """Begin anew from the networks' present trained weights."""
        with torch.no_grad(), self.hidden():
            for own, current in self._pairs():
                own.copy_(current)
        self.num_updates = 0

    def show(self, shown: bool) -> None:
        """Let the networks have the averaged weights, and this module theirs, or undo it. Nothing is copied."""
        if shown == self.shown:
            return
        for own, current in self._pairs():
            own.data, current.data = current.data, own.data
        self.shown = shown

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Meanwhile networks and average have their own weights each."""
        shown = self.shown
        self.show(False)
        try:
            yield
        finally:
            self.show(shown)

    def get_extra_state(self) -> dict[str, Any]:
        return {"num_updates": self.num_updates}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.num_updates = int(state["num_updates"])

    def _pairs(self) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
        for name, network in self.networks.items():
            yield from zip(network.parameters(), self._followed[name].parameters(), strict=True)
