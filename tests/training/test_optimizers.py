"""AdamW with global clip and skipped steps, and the learning-rate schedule."""

from __future__ import annotations

import io

import pytest
import torch
from nerfstudio.engine.optimizers import Optimizers
from torch import nn

from scenetok_ns.models.presets import load_preset
from scenetok_ns.training.optimizers import (
    AdamWConfig,
    ClippedAdamW,
    WarmupMilestonesConfig,
    learning_rate,
    schedule_factor,
)

RECIPE = load_preset("re10k").training


def pair() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    first = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4))
    second = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4))
    second.load_state_dict(first.state_dict())
    return first, second


def set_gradients(module: nn.Module, seed: int, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        p.grad = scale * torch.randn(p.shape, generator=generator)


def assert_equal(first: nn.Module, second: nn.Module) -> None:
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("accumulation", [1, 4])
def test_equals_plain_adamw_with_clipped_mean_gradient(accumulation: int) -> None:
    ours, plain = pair()
    optimizer = ClippedAdamW(ours.parameters(), lr=1e-2, weight_decay=0.1, clip_norm=0.5)
    optimizer.accumulation_steps = accumulation
    reference = torch.optim.AdamW(plain.parameters(), lr=1e-2, weight_decay=0.1)
    for step in range(5):
        scale = 10.0 if step % 2 else 1e-2  # clipped, and not
        set_gradients(ours, step, scale)
        set_gradients(plain, step, scale / accumulation)
        optimizer.step()
        norm = torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        reference.step()
        torch.testing.assert_close(optimizer.last_norm, norm)
        assert_equal(ours, plain)
    assert optimizer.skipped_steps == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e4])
def test_bad_steps_change_nothing_and_are_counted(bad: float) -> None:
    ours, plain = pair()
    optimizer = ClippedAdamW(ours.parameters(), lr=1e-2, weight_decay=0.1, clip_norm=0.5, skip_mean_norm=100.0)
    reference = torch.optim.AdamW(plain.parameters(), lr=1e-2, weight_decay=0.1)
    for step in range(4):
        set_gradients(ours, step)
        if step == 2:
            next(ours.parameters()).grad[0, 0] = bad
        optimizer.step()
        if step != 2:
            set_gradients(plain, step)
            torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
            reference.step()
        assert_equal(ours, plain)
    assert optimizer.skipped_steps == 1


def test_frozen_parameters_are_left_alone() -> None:
    ours, _ = pair()
    optimizer = ClippedAdamW(ours.parameters(), lr=1e-2)
    before = [p.clone() for p in ours[0].parameters()]
    set_gradients(ours[1], 0)
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, ours[0].parameters(), strict=True))
    optimizer.zero_grad()
    optimizer.step()  # nothing has a gradient


def test_schedule() -> None:
    numbers = {"warmup_steps": 10, "warmup_start": 0.1, "milestones": (5, 20), "gamma": 0.5}
    factors = [schedule_factor(step, **numbers) for step in (0, 5, 10, 14, 15, 29, 30, 1000)]
    assert factors == pytest.approx([0.1, 0.55, 1.0, 1.0, 0.5, 0.5, 0.25, 0.25])


def test_schedule_equals_the_published_construction() -> None:
    weight = nn.Parameter(torch.zeros(1))
    reference = torch.optim.SGD([weight], lr=1.0)
    parts = [
        torch.optim.lr_scheduler.LinearLR(reference, start_factor=0.05, end_factor=1.0, total_iters=7),
        torch.optim.lr_scheduler.MultiStepLR(reference, milestones=[4, 9], gamma=0.5),
    ]
    sequence = torch.optim.lr_scheduler.SequentialLR(reference, parts, milestones=[7])
    for step in range(25):
        expected = reference.param_groups[0]["lr"]
        got = schedule_factor(step, warmup_steps=7, warmup_start=0.05, milestones=(4, 9), gamma=0.5)
        assert got == pytest.approx(expected), step
        reference.step()
        sequence.step()


def test_preset_fills_what_is_left_out() -> None:
    resolved = AdamWConfig(betas=(0.5, 0.6)).resolved(RECIPE, samples_per_step=RECIPE.batch_size)
    assert resolved.betas == (0.5, 0.6)
    assert resolved.clip_norm == RECIPE.gradient_clip
    assert resolved.lr == learning_rate(RECIPE, RECIPE.batch_size)


def test_state_loads_with_weights_only() -> None:
    """Stock schedules put numpy scalars into checkpoints; ours must not, after warm-up and milestones too."""
    module, _ = pair()
    configs = {
        "optimizer": AdamWConfig().resolved(RECIPE, 8),
        "scheduler": WarmupMilestonesConfig(warmup_steps=2, milestones=(1,)).resolved(RECIPE, 8),
    }
    optimizers = Optimizers({"networks": configs}, {"networks": list(module.parameters())})
    optimizer, scheduler = optimizers.optimizers["networks"], optimizers.schedulers["networks"]
    for step in range(5):
        set_gradients(module, step)
        optimizer.step()
        scheduler.step()
    file = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    assert optimizer.param_groups[0]["lr"] == pytest.approx(learning_rate(RECIPE, 8) * RECIPE.gamma)
