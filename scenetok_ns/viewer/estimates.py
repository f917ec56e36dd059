"""The picture while it is denoised: a few estimates of one that takes long, for a small share of its time."""

from __future__ import annotations

import time
from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

MOST = 4
"""Number of estimates of a picture that are shown at most."""
PAUSE = 0.4
"""Seconds before the first estimate and between two."""
SHARE = 0.03
"""Time that estimates may take, over the time that the picture has taken so far."""
FIRST_COST = 0.015
"""Seconds that an estimate is taken to cost before one was made."""


class EstimateCost:
    """Seconds that an estimate costs, as measured last."""

    def __init__(self) -> None:
        self.seconds = FIRST_COST


class Estimates:
    """Decides for one picture which of its estimates are decoded and shown. They enter no cache."""

    def __init__(self, cost: EstimateCost, show: Callable[[Float[Tensor, "3 side side"]], None]) -> None:
        """
        Args:
            cost: Shared by all pictures of a renderer.
            show: Sends an estimate to the page.
        """
        self._cost, self._show = cost, show
        self._started = self._last = time.monotonic()
        self._spent, self.shown = 0.0, 0

    def on_frame(self, frame: Callable[[], Float[Tensor, "1 3 side side"]]) -> None:
        """Take an estimate, which `frame` decodes (see `flow.windows.OnFrame`)."""
        now = time.monotonic()
        if self.shown >= MOST or now < self._last + PAUSE:
            return
        if self._spent + self._cost.seconds > SHARE * (now - self._started):
            return
        self._show(frame()[0].clamp(0, 1))
        self._last = time.monotonic()
        self._cost.seconds = self._last - now
        self._spent += self._cost.seconds
        self.shown += 1
