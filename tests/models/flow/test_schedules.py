"""Schedules of any size end, skip no noise level and reach every latent. c06 compares recorded ones (parity tests)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scenetok_ns.models.flow.schedules import schedule_matrix


@st.composite
def arguments(draw: st.DrawFn) -> dict:
    window = draw(st.integers(1, 9))
    steps = draw(st.integers(1, 6))
    name = draw(st.sampled_from(["full_sequence", "autoregressive", "pyramid"]))
    return {
        "name": name,
        "horizon": draw(st.integers(1, 24)),
        "steps": steps,
        "window": window,
        "clean_targets": draw(st.integers(0, window - 1)),
        "uncertainty": draw(st.integers(0, steps)),
    }


@settings(max_examples=300, deadline=None)
@given(arguments())
def test_every_schedule_ends_clean_or_is_refused(given: dict) -> None:
    try:
        schedule = schedule_matrix(**given)
    except ValueError as error:
        assert given["name"] == "pyramid" and given["uncertainty"] == 1 and "never ends" in str(error)
        return
    levels = schedule.times * given["steps"]
    assert (levels[0] == given["steps"]).all() and (levels[-1] == 0).all()
    assert schedule.steps <= given["steps"] * given["horizon"] * 2
    falls = (levels[:-1] - levels[1:]).round()
    assert ((falls == 0) | (falls == 1)).all()
    # Nothing moves outside of the window of its row, and windows have one length.
    inside = schedule.mask[:-1]
    assert (falls[~inside] == 0).all()
    assert (inside.sum(1) == min(given["window"], given["horizon"])).all()
    finished = [schedule.finished(row) for row in range(schedule.steps + 1)]
    assert finished == sorted(finished) and finished[0] == 0 and finished[-1] == given["horizon"]


def test_two_windows_share_the_clean_latents() -> None:
    schedule = schedule_matrix("full_sequence", horizon=12, steps=25, window=8, clean_targets=4)
    assert schedule.steps == 50
    assert schedule.window_starts == (0,) * 25 + (4,) * 26
    assert schedule.finished(24) == 0 and schedule.finished(25) == 8 and schedule.finished(50) == 12
    assert schedule.mask[30].nonzero().flatten().tolist() == list(range(4, 12))


def test_a_short_path_has_one_window_of_all_latents() -> None:
    schedule = schedule_matrix("full_sequence", horizon=3, steps=2, window=8, clean_targets=4)
    assert schedule.steps == 2 and schedule.mask.all()


def test_shift_moves_times_towards_noise() -> None:
    plain, shifted = (
        schedule_matrix("full_sequence", horizon=1, steps=4, window=1, clean_targets=0, shift=s) for s in (None, 4.0)
    )
    torch.testing.assert_close(shifted.times, 4 * plain.times / (1 + 3 * plain.times))


@pytest.mark.parametrize("name", ["full_sequence", "autoregressive", "pyramid"])
@pytest.mark.parametrize("clean", [0, 1, 4])
def test_a_path_may_begin_with_clean_latents(name: str, clean: int) -> None:
    """They never move, and the rest falls as a later window of a longer path does."""
    given = {"steps": 4, "window": 8, "clean_targets": 4, "uncertainty": 2}
    schedule = schedule_matrix(name, horizon=20, clean=clean, **given)
    assert (schedule.times[:, :clean] == 0).all() and (schedule.times[0, clean:] == 1).all()
    assert schedule.finished(0) == clean and schedule.finished(schedule.steps) == 20
    if name == "full_sequence" and clean == 4:
        later = schedule_matrix(name, horizon=20, **given)
        assert torch.equal(schedule.times[:4, :8], later.times[4:8, 4:12])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clean": 5}, "a path of 12 latents can begin with 0 to 4 clean ones, got 5"),
        ({"clean": 3, "horizon": 3}, "a path of 3 latents can begin with 0 to 2 clean ones, got 3"),
        ({"name": "cosine"}, "expected one of full_sequence, autoregressive, pyramid, got 'cosine'"),
        ({"horizon": 0}, "expected horizon of at least 1, got 0"),
        ({"steps": 0}, "expected steps of at least 1, got 0"),
        ({"window": 0, "clean_targets": 0}, "expected window of at least 1, got 0"),
        ({"clean_targets": 8}, "from 0 to window - 1 = 7, got 8"),
        ({"clean_targets": -1}, "from 0 to window - 1 = 7, got -1"),
        ({"name": "pyramid", "uncertainty": 5}, "from 0 to steps = 4, got 5"),
        ({"name": "pyramid", "uncertainty": 1}, "never ends for 12 latents in windows of 8"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(change: dict, message: str) -> None:
    valid = {"name": "full_sequence", "horizon": 12, "steps": 4, "window": 8, "clean_targets": 4, "uncertainty": 2}
    schedule_matrix(**valid)
    with pytest.raises(ValueError, match=message) as error:
        schedule_matrix(**{**valid, **change})
    assert "\n" not in str(error.value)
