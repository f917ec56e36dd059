"""Architectures and recipes as data: one flat YAML file in configs/ for each released or embedded model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_type_hints

import yaml


@dataclass(frozen=True)
class CameraConfig:
    """Ray map of `input_size` pixels and its embedding (paper: camera conditioning; parity c01)."""

    rays: Literal["ray", "plucker"]
    normalize: bool
    embedding: Literal["lvsm", "patch_embed"]
    patch_size: int
    input_size: int
    """Side of the square ray map in pixels; input_size / patch_size is the token grid."""
    dropout: float = 0.0
    """Probability of zeroing the whole embedding of a batch element in training (patch_embed only)."""


@dataclass(frozen=True)
class CompressorConfig:
    """Perceiver from context latents and cameras to scene tokens (parity c02)."""

    hidden_size: int
    depth: int
    num_heads: int
    patch_size: int
    num_tokens: int
    token_dim: int
    camera: CameraConfig
    mlp_ratio: float = 4.0


@dataclass(frozen=True)
class DenoiserConfig:
    """Rectified-flow transformer over target latents (parity c03, c04)."""

    hidden_size: int
    depth: int
    num_heads: int
    patch_size: int
    num_latents: int
    """Latents of one window: the length of the rotary table times `target_splits`."""
    camera: CameraConfig
    mlp_ratio: float = 4.0
    target_splits: int = 1
    """Equal consecutive parts of a window, each with rotary positions from 0 (Wan: 2)."""
    null_token: bool = False
    """A learned token that stands for the scene in the unconditional branch. No released checkpoint has one."""
    camera_channels_last: bool = False
    """Quirk of the released Wan weights: the ray map's patch features are ordered (row, col, frame, channel)
    instead of (frame, row, col, channel). docs/quirks.md says when it is needed."""


@dataclass(frozen=True)
class SceneGeneratorConfig:
    """Rectified-flow transformer over scene tokens (parity c05)."""

    hidden_size: int
    depth: int
    num_heads: int
    patch_size: int
    camera: CameraConfig
    mlp_ratio: float = 4.0
    scale: float = 0.1
    """Tokens are multiplied by this before the generator sees them."""


@dataclass(frozen=True)
class AutoencoderConfig:
    """Which autoencoder, and the scale its latents are multiplied by."""

    name: Literal["pixel", "conv", "vavae", "video_dcae", "wan"]
    scale: float = 1.0
    spatial_factor: int = 8
    """pixel and conv only: side of the patch that becomes one latent position."""
    frames_per_chunk: int = 1
    """pixel and conv only: 1, 4 or 17 frames ..."""
    latents_per_chunk: int = 1
    """pixel and conv only: ... that become 1, 1 or 5 latents."""


@dataclass(frozen=True)
class SamplerConfig:
    """How latents are denoised (parity c06 to c09)."""

    steps: int
    timestep_shift: float | None
    """Shift of the noise levels towards noise; None: uniform levels."""
    window: int
    """Latents denoised together (concurrency)."""
    clean_targets: int
    """Finished latents at the head of each next window."""
    schedule: Literal["full_sequence", "autoregressive", "pyramid"] = "full_sequence"
    guidance: float = 1.0
    """Classifier-free guidance scale; 1 is off."""
    pyramid_uncertainty: int = 1


@dataclass(frozen=True)
class SceneSamplerConfig:
    """How scene tokens are generated (parity c09)."""

    steps: int
    timestep_shift: float
    guidance: float = 1.0
    """As released: off. The published code has 3.0 behind a switch that is false by default."""


@dataclass(frozen=True)
class ViewSamplingConfig:
    """How context and target views are drawn (published view_sampler)."""

    mode: Literal["bounded", "unbounded"]
    num_context: int
    num_target_latents: int
    context: Literal["farthest_point", "uniform"] = "farthest_point"
    target_splits: int = 2
    """Number of separate clips that the target latents are drawn as ..."""
    target_split_prob: float = 0.7
    """... with this probability; else one contiguous clip."""
    min_gap: int = 0
    """bounded: smallest and largest number of frames between first and last context view, ..."""
    max_gap: int = 0
    initial_min_gap: int = 0
    """... growing linearly from these over the warm-up."""
    initial_max_gap: int = 0
    gap_warmup_steps: int = 0
    max_distance_to_context: int = 0
    """bounded: frames that targets may lie outside the context interval."""
    max_condition_views: int = 0
    """SceneGen: largest number of condition views; 0: none are drawn."""


@dataclass(frozen=True)
class DataConfig:
    image_size: int
    """Side of the square crop in pixels."""
    views: ViewSamplingConfig
    scale_focal_by_256: Literal["none", "context", "all"] = "none"
    """Quirk of released DL3DV weights: focal lengths of these views were multiplied by a wrong factor.
    docs/quirks.md says when it is needed."""


@dataclass(frozen=True)
class TrainingConfig:
    batch_size: int
    learning_rate: float
    warmup_steps: int
    warmup_start: float
    """Learning rate factor at step 0."""
    milestones: tuple[int, ...]
    gamma: float
    weighting: Literal["logit_normal", "shifted", "uniform"]
    """How noise levels are drawn."""
    timestep_shift: float | None
    kl_weights: tuple[float, float]
    kl_schedule: tuple[int, int] = (100_000, 300_000)
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    gradient_clip: float = 0.1
    max_gradient_norm: float | None = None
    """Steps whose gradient norm is larger, or not finite, are skipped and counted."""
    uniform_noise_prob: float = 0.2
    """Probability of one noise level for the whole element; else one for each target split."""
    unconditional_prob: float = 0.0
    """Classifier-free drop of the scene tokens."""
    freeze_compressor: bool = False
    freeze_compressor_after: int | None = None
    freeze_denoiser: bool = False
    max_steps: int = 1_000_000


@dataclass(frozen=True)
class Preset:
    """Everything that distinguishes one model from another."""

    name: str
    description: str
    checkpoint: str | None
    """File name of the released checkpoint; None: there is none."""
    data: DataConfig
    context_autoencoder: AutoencoderConfig
    target_autoencoder: AutoencoderConfig
    compressor: CompressorConfig
    denoiser: DenoiserConfig
    sampler: SamplerConfig
    training: TrainingConfig
    scene_generator: SceneGeneratorConfig | None = None
    scene_sampler: SceneSamplerConfig | None = None
    notes: tuple[str, ...] = field(default=())


def config_folder() -> Path:
    """Folder of the preset files: package data in an installed wheel, else the checkout's configs/."""
    packaged = Path(__file__).resolve().parents[1] / "configs"
    checkout = Path(__file__).resolve().parents[2] / "configs"
    for folder in (packaged, checkout):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        f"preset files are missing: neither {packaged} nor {checkout} exists; reinstall scenetok-ns"
    )


def preset_names() -> list[str]:
    return sorted(path.stem for path in config_folder().glob("*.yaml"))


@cache
def load_preset(name: str) -> Preset:
    """Read the preset `name`; raises ValueError that lists the known names."""
    path = config_folder() / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"unknown preset {name!r}; known presets: {', '.join(preset_names())}")
    values = yaml.safe_load(path.read_text())
    return build(Preset, {"name": name, **values}, where=path.name)


def build(cls: type, values: dict[str, Any], where: str) -> Any:
    """Make a (nested) dataclass from plain YAML values; unknown and missing fields are named."""
    hints = get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(set(values) - set(fields))
    missing = sorted(
        name
        for name, f in fields.items()
        if name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    )
    if unknown or missing:
        raise ValueError(f"{where}: {cls.__name__} has unknown fields {unknown} and lacks {missing}")
    made = {name: _convert(hints[name], value, f"{where}: {name}") for name, value in values.items()}
    return cls(**made)


def _convert(hint: Any, value: Any, where: str) -> Any:
    options = [hint, *getattr(hint, "__args__", ())]
    nested = next((o for o in options if isinstance(o, type) and dataclasses.is_dataclass(o)), None)
    if nested is not None and isinstance(value, dict):
        return build(nested, value, where)
    if isinstance(value, list):
        return tuple(value)
    if getattr(hint, "__origin__", None) is Literal and value not in hint.__args__:
        raise ValueError(f"{where}: expected one of {list(hint.__args__)}, got {value!r}")
    if hint in (int, float) and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise ValueError(f"{where}: expected a number, got {value!r}")
    return float(value) if hint is float else value
