"""Rectified flow: times, interpolation, velocity and the steps along it (parity c07).

Time t is in [0, 1], 1 = noise, 0 = data. x_t = (1 - t) x_0 + t noise, and its velocity dx_t/dt = noise - x_0.
Times have the leading dimensions of what they belong to (`[b, latent]` for `[b, latent, c, h, w]`) and are spread to
the right.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

TRAINING_TIMES = 1000
"""Factor from t to the time scale on which the networks were trained."""

Time = TypeVar("Time", float, Tensor)


def shift_time(t: Time, shift: float) -> Time:
    """Move times towards noise, keeping 0 and 1: k t / (1 + (k - 1) t). A shift of 1 changes nothing."""
    return shift * t / (1 + (shift - 1) * t)


def time_grid(steps: int, shift: float | None = None) -> Float[Tensor, " steps+1"]:
    """Times of `steps` equal Euler steps, falling from 1 to 0, and shifted if `shift` is given."""
    grid = torch.linspace(0.0, 1.0, steps + 1).flip(0)
    return grid if shift is None else shift_time(grid, shift)


def network_time(t: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Return the input of the networks' time embeddings, max(1000 t - 1, 0)."""
    return (t * TRAINING_TIMES - 1).clamp(min=0)


def interpolate(
    data: Float[Tensor, "*shape"], noise: Float[Tensor, "*shape"], t: Float[Tensor, "*lead"]
) -> Float[Tensor, "*shape"]:
    """Return x_t on the straight line from data (t = 0) to noise (t = 1)."""
    t = _spread(t, data)
    return (1 - t) * data + t * noise


def velocity_target(data: Float[Tensor, "*shape"], noise: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the velocity that the networks are trained to predict; it is the same at all times."""
    return noise - data


def euler_step(
    x: Float[Tensor, "*shape"],
    velocity: Float[Tensor, "*shape"],
    t: Float[Tensor, "*lead"],
    t_next: Float[Tensor, "*lead"],
) -> Float[Tensor, "*shape"]:
    """Take an Euler step from time t to t_next. t_next = 0 gives the clean estimate; t_next = t changes nothing."""
    return x + _spread(t_next - t, x) * velocity


def multistep_velocity(
    velocity: Float[Tensor, "*shape"],
    previous: Float[Tensor, "*shape"],
    t_previous: Float[Tensor, "*lead"],
    t: Float[Tensor, "*lead"],
    t_next: Float[Tensor, "*lead"],
) -> Float[Tensor, "*shape"]:
    """Return the velocity that makes an Euler step from t to t_next second-order (Adams-Bashforth, unequal steps).

    `previous` is the velocity that was found at t_previous, before the step to t. If that step had no length, as before
    the first one, the result is `velocity` itself, whatever (finite) `previous` is. Each position has its own times, so
    this also works for the windows of a path. Nothing here waits for the device.
    """
    return velocity + _spread(multistep_ratio(t_previous, t, t_next), velocity) * (velocity - previous)


def multistep_ratio(
    t_previous: Float[Tensor, "*lead"], t: Float[Tensor, "*lead"], t_next: Float[Tensor, "*lead"]
) -> Float[Tensor, "*lead"]:
    """Weight of the last change of velocity in `multistep_velocity`: this step's length over twice the last step's."""
    before = t - t_previous
    known = before != 0
    return torch.where(known, (t_next - t) / torch.where(known, before, 1.0), 0.0) / 2


def _spread(t: Tensor, like: Tensor) -> Tensor:
    """Add trailing dimensions of size 1, so that `t` broadcasts against `like`."""
    return t.reshape(t.shape + (1,) * (like.ndim - t.ndim))
