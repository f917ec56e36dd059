"""The parts of a preset about data and training: how views are sampled, and how networks are trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from scenetok_ns.tools.dataclass_files import LARGEST, check_range

TINIEST = 1e-6
"""Smallest value of numbers in a preset that must be above 0."""


@dataclass(frozen=True)
class ViewSamplingConfig:
    """How context and target views are sampled (published view_sampler)."""

    mode: Literal["bounded", "unbounded"]
    num_context: int
    num_target_latents: int
    context: Literal["farthest_point", "uniform"] = "farthest_point"
    target_splits: int = 2
    """Number of separate clips into which the target latents may be split."""
    target_split_prob: float = 0.7
    """Probability of the split; otherwise the target latents are one contiguous clip."""
    min_gap: int = 0
    """bounded: minimum number of frames between the first and the last context view."""
    max_gap: int = 0
    """bounded: maximum number of frames between the first and the last context view; 0: the length of the scene."""
    initial_min_gap: int = 0
    """Minimum gap at step 0, which changes linearly to `min_gap` over the warm-up."""
    initial_max_gap: int = 0
    """Maximum gap at step 0, which changes linearly to `max_gap` over the warm-up; 0: the length of the scene."""
    gap_warmup_steps: int = 0
    """Number of steps of the warm-up; 0: there is none."""
    max_distance_to_context: int = 0
    """bounded: maximum number of frames that targets may lie outside the context interval."""
    target_alignment: int = 1
    """Number of which the first latent of a target clip is a multiple (published: 4 for Video DC-AE, 5 for Wan)."""
    max_condition_views: int = 0
    """SceneGen: maximum number of condition views; 0: none are sampled."""

    def __post_init__(self) -> None:
        counts = ("num_context", "num_target_latents", "target_splits", "target_alignment")
        check_range("views", self, target_split_prob=(0, 1), **dict.fromkeys(counts, (1, 100_000)))
        gaps = ("min_gap", "max_gap", "initial_min_gap", "initial_max_gap", "gap_warmup_steps")
        others = ("max_distance_to_context", "max_condition_views")
        check_range("views", self, **dict.fromkeys((*gaps, *others), (0, LARGEST)))


@dataclass(frozen=True)
class DataConfig:
    image_size: int
    """Side of the square crop in pixels."""
    views: ViewSamplingConfig
    camera_spread: float | None = None
    """Root mean square distance of a training scene's cameras from their mean position, in units of the training data.
    Captures in other units are scaled to it. None: not known; captures keep their scale."""
    random_flip: bool = False
    """Mirror training scenes and their cameras left to right with probability one half."""
    scale_focal_by_256: Literal["none", "context", "all"] = "none"
    """Quirk of released DL3DV weights: focal lengths of these views were multiplied by a wrong factor.
    docs/quirks.md says when it is needed."""

    def __post_init__(self) -> None:
        check_range("data", self, image_size=(1, 16_384), camera_spread=(TINIEST, LARGEST))


@dataclass(frozen=True)
class TrainingConfig:
    batch_size: int
    """Number of samples per process and step."""
    learning_rate: float
    warmup_steps: int
    warmup_start: float
    """Learning rate factor at step 0; grows linearly to 1."""
    milestones: tuple[int, ...]
    """Steps, counted from the end of the warm-up, at which the learning rate is multiplied by `gamma`."""
    gamma: float
    weighting: Literal["logit_normal", "shifted", "uniform"]
    """Distribution of the noise levels."""
    timestep_shift: float | None
    kl_weights: tuple[float, float]
    """First and last weight of the KL term of the tokens' Gaussians."""
    kl_schedule: tuple[int, int] = (100_000, 300_000)
    """Steps between which the KL weight changes linearly from the first to the last."""
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    gradient_clip: float = 0.1
    """Maximum global gradient norm; larger gradients are scaled down to it."""
    max_mean_gradient_norm: float | None = None
    """Steps whose gradient norms, averaged over the parameter tensors, exceed this are skipped and counted, as are
    steps with a gradient that is not finite."""
    reference_batch_size: int | None = None
    """Number of samples per step that `learning_rate` is for; it is scaled linearly to the effective batch (batch size
    x processes x accumulation). None: it is not scaled."""
    uniform_noise_prob: float = 0.2
    """Probability of one noise level for all latents of an element; otherwise each target split has its own."""
    pure_noise_prob: float = 0.0
    """Probability of pure noise (t = 1) at all latents of an element. The denoiser then sees only the tokens, which
    keeps them informative even if pixels are redundant. No published recipe has it; the embedded one does."""
    unconditional_prob: float = 0.0
    """Probability of dropping the scene tokens, for classifier-free guidance."""
    freeze_compressor: bool = False
    freeze_compressor_after: int | None = None
    freeze_denoiser: bool = False
    max_steps: int = 1_000_000

    def __post_init__(self) -> None:
        probabilities = ("uniform_noise_prob", "pure_noise_prob", "unconditional_prob", "gamma", "warmup_start")
        check_range("training", self, **dict.fromkeys(probabilities, (0, 1)))
        above = ("gradient_clip", "max_mean_gradient_norm", "timestep_shift")
        check_range("training", self, learning_rate=(0, LARGEST))
        check_range("training", self, **dict.fromkeys(above, (1e-12, LARGEST)))
        counts = ("batch_size", "reference_batch_size", "max_steps")
        check_range("training", self, **dict.fromkeys(counts, (1, LARGEST)))
        check_range("training", self, weight_decay=(0, LARGEST), warmup_steps=(0, LARGEST))
        if any(not 0 <= beta < 1 for beta in self.betas) or any(weight < 0 for weight in self.kl_weights):
            raise ValueError(
                f"training: betas must be from 0 to below 1 and kl_weights at least 0, got {self.betas} and "
                f"{self.kl_weights}"
            )
        if any(step < 0 for step in (*self.milestones, *self.kl_schedule)):
            raise ValueError(
                f"training: steps must be at least 0, got milestones {self.milestones} and kl_schedule "
                f"{self.kl_schedule}"
            )
