"""Rectified flow: identities that hold for any data (recorded values: test_parity_sampling.py)."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scenetok_ns.models.flow import rectified_flow as flow

times = st.floats(0.0, 1.0)
shifts = st.floats(0.25, 16.0)


@given(times, shifts)
def test_shift_keeps_the_ends_and_can_be_undone(t: float, shift: float) -> None:
    assert flow.shift_time(0.0, shift) == 0 and flow.shift_time(1.0, shift) == pytest.approx(1.0)
    moved = flow.shift_time(t, shift)
    assert flow.shift_time(moved, 1 / shift) == pytest.approx(t, abs=1e-9)
    assert (moved >= t - 1e-12) == (shift >= 1) or moved == pytest.approx(t)


@given(st.integers(1, 200), shifts)
def test_grid_falls_from_noise_to_data(steps: int, shift: float) -> None:
    for grid in (flow.time_grid(steps), flow.time_grid(steps, shift)):
        assert grid.shape == (steps + 1,) and grid[0].item() == pytest.approx(1) and grid[-1] == 0
        assert (grid.diff() < 0).all()


def test_network_time_is_999_for_noise_and_0_for_data() -> None:
    assert flow.network_time(torch.tensor([1.0, 0.5, 0.001, 0.0])).tolist() == pytest.approx([999.0, 499.0, 0.0, 0.0])


def test_steps_along_the_true_velocity_end_at_the_data() -> None:
    data, noise = torch.randn(2, 2, 3, 4, 5, 6)
    x = flow.interpolate(data, noise, torch.ones(2, 3))
    grid = flow.time_grid(7, shift=4.0)
    for t, t_next in pairwise(grid):
        torch.testing.assert_close(x, flow.interpolate(data, noise, t.expand(2, 3)))
        x = flow.euler_step(x, flow.velocity_target(data, noise), t.expand(2, 3), t_next.expand(2, 3))
    torch.testing.assert_close(x, data)


def test_each_latent_has_its_own_time() -> None:
    data, noise = torch.zeros(1, 2, 1, 1, 1), torch.ones(1, 2, 1, 1, 1)
    t = torch.tensor([[0.25, 0.75]])
    assert flow.interpolate(data, noise, t).flatten().tolist() == [0.25, 0.75]
    moved = flow.euler_step(data, noise, t, torch.tensor([[0.0, 0.75]]))
    assert moved.flatten().tolist() == [-0.25, 0.0]


def follow(solver: str, steps: int) -> float:
    """Error at t = 0 of dx/dt = -x * (1 + 3 t^2) from x(1) = 1, along a shifted grid."""
    times = flow.time_grid(steps, 3.0).double()
    x, previous = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    for step in range(steps):
        before, t, t_next = (times[i].reshape(1) for i in (max(step - 1, 0), step, step + 1))
        velocity = -x * (1 + 3 * t**2)
        used = velocity if solver == "euler" else flow.multistep_velocity(velocity, previous, before, t, t_next)
        x, previous = flow.euler_step(x, used, t, t_next), velocity
    return abs(float(x) - math.exp(2.0))


def test_multistep_is_of_second_order_and_euler_of_first() -> None:
    for solver, order in (("euler", 1), ("multistep", 2)):
        ratio = follow(solver, 100) / follow(solver, 200)
        assert 0.85 * 2**order < ratio < 1.15 * 2**order
    assert follow("multistep", 20) < follow("euler", 150)


def test_the_first_step_is_a_euler_step_and_each_position_has_its_own_times() -> None:
    velocity, previous = torch.tensor([[1.0], [1.0]]), torch.tensor([[torch.finfo(torch.float32).max], [3.0]])
    before, t, t_next = torch.tensor([0.5, 1.0]), torch.tensor([0.5, 0.8]), torch.tensor([0.4, 0.4])
    used = flow.multistep_velocity(velocity, previous, before, t, t_next)
    torch.testing.assert_close(used, torch.tensor([[1.0], [1.0 + (-0.4 / -0.2) / 2 * (1.0 - 3.0)]]))
