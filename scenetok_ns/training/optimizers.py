"""AdamW with one global gradient clip and skipped bad steps, and the warm-up and milestone schedule."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import tyro
from nerfstudio.engine.optimizers import OptimizerConfig
from nerfstudio.engine.schedulers import Scheduler, SchedulerConfig
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from scenetok_ns.models.recipes import TrainingConfig


class ClippedAdamW(torch.optim.AdamW):
    """Fused AdamW whose step clips the norm over all its parameters and skips the step on a bad gradient.

    A gradient is bad if it is not finite, or if the norms of its tensors exceed `skip_mean_norm` on average (the
    published rule). Decision, clip and count stay on the device: the fused kernel takes a gradient divisor and a skip
    flag as tensors (the contract that `torch.amp.GradScaler` uses), so no step waits for the host, and weights,
    moments and step counts of a skipped step are untouched.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        clip_norm: float | None = None,
        skip_mean_norm: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(params, fused=True, **options)
        self.clip_norm = clip_norm
        self.skip_mean_norm = skip_mean_norm
        self.accumulation_steps = 1
        """Backward passes that were summed into one gradient; the step uses their mean."""
        self.last_norm: Tensor | None = None
        """Norm of the last (mean) gradient, before the clip. A scalar on the device."""
        self.skipped_steps: Tensor | None = None
        """Number of skipped steps so far. A scalar on the device."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        if not gradients:
            return super().step(closure)
        norms = torch.stack(torch._foreach_norm(gradients)).float() / self.accumulation_steps
        divisor = torch.full_like(norms[0], self.accumulation_steps)  # a fill; a copy from the host would be waited for
        norm = torch.linalg.vector_norm(norms)
        bad = ~torch.isfinite(norm)
        if self.skip_mean_norm is not None:
            bad = bad | (norms.mean() > self.skip_mean_norm)
        if self.clip_norm is not None:
            divisor = divisor * (norm / self.clip_norm).clamp(min=1.0)
        self.last_norm = norm
        skipped = torch.zeros_like(norm) if self.skipped_steps is None else self.skipped_steps.to(norm.device)
        self.skipped_steps = skipped + bad
        self.grad_scale, self.found_inf = divisor, bad.float()
        try:
            return super().step(closure)
        finally:
            del self.grad_scale, self.found_inf


@dataclass
class AdamWConfig(OptimizerConfig):
    """AdamW. Values that are not set come from the preset's training recipe."""

    _target: type = ClippedAdamW
    lr: float | None = None  # type: ignore[assignment]
    """Learning rate after warm-up; None: the preset's."""
    betas: tuple[float, float] | None = None
    """Decay of the two moments; None: the preset's."""
    weight_decay: float | None = None
    """Decoupled weight decay; None: the preset's."""
    clip_norm: float | None = None
    """The norm of the whole gradient is clipped to this; None: the preset's."""
    skip_mean_norm: float | None = None
    """Steps whose gradient tensors have a larger norm on average are skipped and counted; None: the preset's."""
    max_norm: tyro.conf.Suppress[float | None] = None
    """Nerfstudio's own clip, which would run first and spread a NaN: always None."""

    def resolved(self, recipe: TrainingConfig, samples_per_step: int) -> AdamWConfig:
        """The same with every None taken from `recipe`, for an effective batch of `samples_per_step`."""
        given: dict[str, Any] = {
            "lr": learning_rate(recipe, samples_per_step),
            "betas": recipe.betas,
            "weight_decay": recipe.weight_decay,
            "clip_norm": recipe.gradient_clip,
            "skip_mean_norm": recipe.max_mean_gradient_norm,
        }
        return replace(self, **{name: value for name, value in given.items() if getattr(self, name) is None})


def learning_rate(recipe: TrainingConfig, samples_per_step: int) -> float:
    """The recipe's learning rate for an effective batch (batch size x processes x accumulation)."""
    reference = recipe.reference_batch_size
    return recipe.learning_rate * (1.0 if reference is None else samples_per_step / reference)


def schedule_factor(
    step: int, *, warmup_steps: int, warmup_start: float, milestones: tuple[int, ...], gamma: float
) -> float:
    """Learning rate at `step` over its full value: linear warm-up, then `gamma` for each milestone passed.

    Milestones count from the end of the warm-up, as in the published recipe (a SequentialLR of LinearLR and
    MultiStepLR). Plain Python numbers: stock schedulers put numpy's into checkpoints, which then don't load.
    """
    if step < warmup_steps:
        return warmup_start + (1.0 - warmup_start) * step / warmup_steps
    return gamma ** bisect_right(milestones, step - warmup_steps)


@dataclass
class WarmupMilestonesConfig(SchedulerConfig):
    """Linear warm-up, then steps down at milestones. Values that are not set come from the preset's training recipe."""

    _target: type = field(default_factory=lambda: WarmupMilestones)
    warmup_steps: int | None = None
    """Number of steps of linear warm-up; None: the preset's."""
    warmup_start: float | None = None
    """Learning rate at step 0 as a fraction of the full one; None: the preset's."""
    milestones: tuple[int, ...] | None = None
    """Steps after the warm-up at which the learning rate is multiplied by gamma; None: the preset's."""
    gamma: float | None = None
    """Factor at each milestone; None: the preset's."""

    def resolved(self, recipe: TrainingConfig, samples_per_step: int) -> WarmupMilestonesConfig:
        """The same with every None taken from `recipe`; the batch size plays no part."""
        names = ("warmup_steps", "warmup_start", "milestones", "gamma")
        return replace(self, **{name: getattr(recipe, name) for name in names if getattr(self, name) is None})


class WarmupMilestones(Scheduler):
    config: WarmupMilestonesConfig

    def get_scheduler(self, optimizer: torch.optim.Optimizer, lr_init: float) -> LambdaLR:
        config = self.config
        numbers = (config.warmup_steps, config.warmup_start, config.milestones, config.gamma)
        if any(number is None for number in numbers):
            raise ValueError(f"WarmupMilestones: resolve the configuration with a preset first, got {config}")

        def factor(step: int) -> float:
            return schedule_factor(
                step,
                warmup_steps=config.warmup_steps,  # type: ignore[arg-type]
                warmup_start=config.warmup_start,  # type: ignore[arg-type]
                milestones=config.milestones,  # type: ignore[arg-type]
                gamma=config.gamma,  # type: ignore[arg-type]
            )

        return LambdaLR(optimizer, factor)
