"""Show a slow picture while it is denoised: a few estimates of it, for a small share of its time."""

from __future__ import annotations

import time
from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

MOST = 4
"""Maximum number of estimates of a picture."""
PAUSE = 0.4
"""Minimum seconds before the first estimate and between estimates."""
SHARE = 0.03
"""Maximum time of all estimates, relative to the time that the picture has taken so far."""
FIRST_COST = 0.015
"""Assumed seconds per estimate until the first one has been measured."""


class EstimateCost:
    """Seconds that the last estimate took."""

    def __init__(self) -> None:
        self.seconds = FIRST_COST


class Estimates:
    """Decides which estimates of one picture are decoded and shown. Estimates are not cached."""

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
        """Show an estimate if it is time for one; `frame` decodes it (see `flow.windows.OnFrame`)."""
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
