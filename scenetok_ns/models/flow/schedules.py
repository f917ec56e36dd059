"""Noise level of each latent at each step: the three published samplers as pure functions (parity c06).

All levels are whole numbers that fall from `steps` (pure noise) to 0 (clean). A sweep lowers some of the latents
before the end of the window; when enough of the window is clean, the window moves on. A schedule is the list of all
levels and windows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from scenetok_ns.models.flow.rectified_flow import shift_time

ScheduleName = Literal["full_sequence", "autoregressive", "pyramid"]
Levels = tuple[int, ...]


@dataclass(frozen=True)
class Schedule:
    """Row m -> m + 1 is one step of the network on the window of row m.

    `times` lives on the CPU; `window_starts` are plain numbers, so that a loop needs no device synchronisation.
    """

    times: Float[Tensor, "rows latents"]
    window_starts: tuple[int, ...]
    window: int

    @property
    def steps(self) -> int:
        return len(self.window_starts) - 1

    @property
    def mask(self) -> Bool[Tensor, "rows latents"]:
        """True for the latents in the window."""
        index = torch.arange(self.times.shape[1])
        start = torch.tensor(self.window_starts)[:, None]
        return (index >= start) & (index < start + self.window)

    def finished(self, row: int) -> int:
        """Number of leading latents that are clean, and therefore final, in a row."""
        noisy = (self.times[row] > 0).nonzero()
        return int(noisy[0]) if len(noisy) else self.times.shape[1]


def schedule_matrix(
    name: ScheduleName,
    *,
    horizon: int,
    steps: int,
    window: int,
    clean_targets: int,
    uncertainty: int = 1,
    shift: float | None = None,
    clean: int = 0,
) -> Schedule:
    """Compute the levels of `horizon` latents from noise to clean.

    Args:
        name: full_sequence: all latents of the window fall together. autoregressive: one latent after the other.
            pyramid: each latent follows its left neighbour at a distance of `uncertainty` levels.
        horizon: number of latents.
        steps: levels of one latent, that is, Euler steps from noise to clean.
        window: latents that the network sees together.
        clean_targets: clean latents at the head of each next window.
        uncertainty: pyramid only, 0 to `steps`.
        shift: moves all times towards noise, see `flow.shift_time`.
        clean: leading latents that are clean from the start, at most `clean_targets`, if a path continues from them.

    Raises:
        ValueError: a number is out of range, or the pyramid would never end: the window moves on when exactly
            clean_targets + 1 of its latents are clean, which latents that fall together (uncertainty 1) jump over. The
            published code loops for ever there.
    """
    _check(name, horizon=horizon, steps=steps, window=window, clean_targets=clean_targets, uncertainty=uncertainty)
    if not 0 <= clean <= min(clean_targets, horizon - 1):
        raise ValueError(
            f"schedule_matrix: a path of {horizon} latents can begin with 0 to {min(clean_targets, horizon - 1)} clean "
            f"ones, got {clean}"
        )
    one_by_one = name == "pyramid" and uncertainty > 0
    as_a_whole = name != "pyramid" or uncertainty in (0, steps)

    def next_position(levels: Levels, position: int) -> int:
        inside = levels[position : position + window]
        if one_by_one and inside.count(0) == clean_targets + 1:
            return position + 1
        if as_a_whole and not any(inside):
            return position + window - clean_targets
        return position

    levels: Levels = (0,) * clean + (steps,) * (horizon - clean)
    position = 0
    rows, positions = [levels], [position]
    while any(levels):
        before = (levels, position)
        levels = _sweep(name, levels, position + window, ceiling=steps - uncertainty)
        position = next_position(levels, position)
        if (levels, position) == before:
            raise ValueError(
                f"schedule_matrix: a pyramid with uncertainty {uncertainty} never ends for {horizon} latents in "
                f"windows of {window}, because its latents fall together; use an uncertainty of 0 or at least 2"
            )
        rows.append(levels)
        positions.append(position)
    times = torch.tensor(rows, dtype=torch.float32) / steps
    # Near the end the window stays the last `window` latents, while the position still counts on.
    starts = tuple(min(position, max(horizon - window, 0)) for position in positions)
    return Schedule(times if shift is None else shift_time(times, shift), starts, window)


def _sweep(name: ScheduleName, levels: Levels, end: int, ceiling: int) -> Levels:
    """Lower some latents before `end` by one level."""
    if name == "full_sequence":
        return tuple(max(level - 1, 0) if i < end else level for i, level in enumerate(levels))
    new = list(levels)
    for i in range(min(end, len(new))):
        if name == "autoregressive":
            if new[i] > 0:  # the leftmost latent that is not clean; the others wait for it
                new[i] -= 1
                break
        elif i == 0 or new[i - 1] <= ceiling:
            new[i] = max(new[i] - 1, 0)
    return tuple(new)


def _check(name: str, *, horizon: int, steps: int, window: int, clean_targets: int, uncertainty: int) -> None:
    if name not in get_args(ScheduleName):
        raise ValueError(f"schedule_matrix: expected one of {', '.join(get_args(ScheduleName))}, got {name!r}")
    for what, value in (("horizon", horizon), ("steps", steps), ("window", window)):
        if value < 1:
            raise ValueError(f"schedule_matrix: expected {what} of at least 1, got {value}")
    if not 0 <= clean_targets < window:
        raise ValueError(
            f"schedule_matrix: expected clean_targets from 0 to window - 1 = {window - 1}, got {clean_targets}; "
            "the window would never move on"
        )
    if name == "pyramid" and not 0 <= uncertainty <= steps:
        raise ValueError(f"schedule_matrix: expected an uncertainty from 0 to steps = {steps}, got {uncertainty}")
