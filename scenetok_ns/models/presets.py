"""Architectures and recipes as data: one self-contained YAML file in configs/ for each released or embedded model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from scenetok_ns.models.recipes import TINIEST, DataConfig, TrainingConfig
from scenetok_ns.tools.dataclass_files import LARGEST, build, check_divides, check_range, read_yaml
from scenetok_ns.tools.suggestions import did_you_mean

BLOCKS = {"depth": (1, 1000), "patch_size": (1, LARGEST), "mlp_ratio": (0.01, 100)}
"""Bounds of the fields that all transformers have."""
Solver = Literal["euler", "multistep"]
"""euler: as published. multistep: second order at the same cost, for fewer steps (`flow.multistep_velocity`)."""
Encoding = Literal["mean", "latents", "published"]
"""How photographs become tokens. mean: nothing is sampled, so every call gives the same tokens. latents: the
autoencoder's latents are sampled. published: scene tokens are sampled, too, as in the published evaluation."""


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

    def __post_init__(self) -> None:
        check_divides("camera", "input_size", self.input_size, "patch_size", self.patch_size)
        check_range("camera", self, dropout=(0, 1))
        if self.dropout and self.embedding != "patch_embed":
            raise ValueError(f"camera: dropout {self.dropout} needs embedding patch_embed, got {self.embedding}")


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

    def __post_init__(self) -> None:
        check_divides("compressor", "hidden_size", self.hidden_size, "num_heads", self.num_heads)
        check_range(
            "compressor",
            self,
            **BLOCKS,
            num_tokens=(1, LARGEST),
            token_dim=(1, LARGEST),
        )


@dataclass(frozen=True)
class DenoiserConfig:
    """Rectified-flow transformer over target latents (parity c03, c04)."""

    hidden_size: int
    depth: int
    num_heads: int
    patch_size: int
    num_latents: int
    """Number of latents of one window: the length of the rotary table times `target_splits`."""
    camera: CameraConfig
    mlp_ratio: float = 4.0
    target_splits: int = 1
    """Equal consecutive parts of a window, each with rotary positions from 0 (Wan: 2)."""
    null_token: bool = False
    """A learned token that stands for the scene in the unconditional branch. No released checkpoint has one."""
    camera_channels_last: bool = False
    """Quirk of the released Wan weights: the ray map's patch features are ordered (row, col, frame, channel)
    instead of (frame, row, col, channel). docs/quirks.md says when it is needed."""

    def __post_init__(self) -> None:
        check_divides("denoiser", "hidden_size", self.hidden_size, "num_heads", self.num_heads)
        check_range(
            "denoiser",
            self,
            **BLOCKS,
            num_latents=(1, LARGEST),
            target_splits=(1, LARGEST),
        )
        check_divides("denoiser", "num_latents", self.num_latents, "target_splits", self.target_splits)


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
    """Factor by which tokens are multiplied before the generator sees them."""

    def __post_init__(self) -> None:
        check_divides("scene_generator", "hidden_size", self.hidden_size, "num_heads", self.num_heads)
        check_range(
            "scene_generator",
            self,
            **BLOCKS,
            scale=(TINIEST, LARGEST),
        )


@dataclass(frozen=True)
class AutoencoderConfig:
    """An autoencoder, and the scale by which its latents are multiplied."""

    name: Literal["pixel", "conv", "vavae", "video_dcae", "wan"]
    scale: float = 1.0
    spatial_factor: int = 8
    """pixel only (the others have their own): side of the patch that becomes one latent position."""
    frames_per_chunk: int = 1
    """pixel and conv only: number of frames in a chunk, e.g. 1, 4 or 17."""
    latents_per_chunk: int = 1
    """pixel and conv only: number of latents in a chunk, e.g. 1, 1 or 5."""
    frames_per_latent: int | None = None
    """pixel and conv only: number of frames that share a latent, e.g. 1, 4 or 4. None: a single latent of a chunk holds
    all its frames; of several latents, the first holds one frame and the others equal shares of the rest
    (`TemporalLayout`)."""

    def __post_init__(self) -> None:
        counts = ("spatial_factor", "frames_per_chunk", "latents_per_chunk", "frames_per_latent")
        check_range("autoencoder", self, scale=(TINIEST, LARGEST), **dict.fromkeys(counts, (1, 10_000)))


@dataclass(frozen=True)
class SamplerConfig:
    """How latents are denoised (parity c06 to c09)."""

    steps: int
    timestep_shift: float | None
    """Shift of the noise levels towards noise; None: uniform levels."""
    window: int
    """Number of latents that are denoised together (concurrency)."""
    clean_targets: int
    """Number of finished latents at the beginning of each further window."""
    schedule: Literal["full_sequence", "autoregressive", "pyramid"] = "full_sequence"
    guidance: float = 1.0
    """Classifier-free guidance scale; 1 is off."""
    pyramid_uncertainty: int = 1
    solver: Solver = "euler"
    """Solver: euler, as released, or multistep, which needs fewer steps for the same error."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"sampler: steps must be at least 1, got {self.steps}")
        check_range("sampler", self, timestep_shift=(TINIEST, LARGEST), guidance=(1, LARGEST), steps=(1, 100_000))
        check_range("sampler", self, pyramid_uncertainty=(1, LARGEST))
        if not 0 <= self.clean_targets < self.window:
            raise ValueError(f"sampler: clean_targets {self.clean_targets} must be below window {self.window}")


@dataclass(frozen=True)
class SceneSamplerConfig:
    """How scene tokens are generated (parity c09)."""

    steps: int
    timestep_shift: float
    guidance: float = 1.0
    """Classifier-free guidance scale; off (1) in released models. The published code has 3.0 behind a switch that is
    false by default."""
    solver: Solver = "euler"
    """Solver: euler, as released, or multistep, which needs fewer steps for the same error."""
    fit_steps: int = 0
    """Steps in which the finished tokens are fitted to the photographs (`token_fitting.fit_tokens`); as released: 0."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"scene_sampler: steps must be at least 1, got {self.steps}")
        check_range("scene_sampler", self, timestep_shift=(TINIEST, LARGEST), guidance=(1, LARGEST), steps=(1, 100_000))
        check_range("scene_sampler", self, fit_steps=(0, 100_000))


Sampler = TypeVar("Sampler", SamplerConfig, SceneSamplerConfig)


def changed(sampler: Sampler, **values: Any) -> Sampler:
    """Return a copy of the sampler with the given values. A value of None changes nothing."""
    return dataclasses.replace(sampler, **{name: value for name, value in values.items() if value is not None})


@dataclass(frozen=True)
class Preset:
    """Architecture, autoencoders, sampler and recipe of one model."""

    name: str
    description: str
    method: str
    """Name of the Nerfstudio method that trains it and that its imported runs belong to."""
    checkpoint: str | None
    """File name of the released checkpoint; None: there is none."""
    data: DataConfig
    context_autoencoder: AutoencoderConfig
    target_autoencoder: AutoencoderConfig
    compressor: CompressorConfig
    denoiser: DenoiserConfig
    sampler: SamplerConfig
    training: TrainingConfig
    embedded_weights: str | None = None
    """Name of the trained weights that come with the package (models/weight_files.py); None: there are none."""
    embedded_generator: str | None = None
    """Name of the scene generator's weights that come with the package, in a separate file; None: there are none."""
    scene_generator: SceneGeneratorConfig | None = None
    scene_sampler: SceneSamplerConfig | None = None
    tokenizer_checkpoint: str | None = None
    """File name of the released checkpoint that holds compressor and denoiser, if `checkpoint` does not."""
    tokenizer_preset: str | None = None
    """Preset of the model whose frozen compressor and denoiser a scene generator is trained on; its architecture is
    repeated in this one."""
    experiment: str | None = None
    """Name of the published experiment that this preset reproduces."""
    initial_checkpoint: str | None = None
    """File name of the released checkpoint that the published training starts from; None: random weights."""

    def __post_init__(self) -> None:
        if (self.scene_generator is None) != (self.scene_sampler is None):
            raise ValueError(f"{self.name}: scene_generator and scene_sampler must be given together")
        if self.scene_generator is not None and not self.data.views.max_condition_views:
            raise ValueError(f"{self.name}: a scene generator needs data.views.max_condition_views of at least 1")
        if self.sampler.window > self.denoiser.num_latents:
            raise ValueError(
                f"{self.name}: sampler.window {self.sampler.window} exceeds denoiser.num_latents "
                f"{self.denoiser.num_latents}"
            )

    @property
    def tokenizer(self) -> str:
        """Preset of the compressor and denoiser; presets with the same one render each other's tokens."""
        return self.tokenizer_preset or self.name

    @property
    def is_embedded(self) -> bool:
        """Whether trained weights of all its networks come with the package."""
        generator = self.scene_generator is None or self.embedded_generator is not None
        return self.embedded_weights is not None and generator

    def check_embedded(self) -> None:
        """Raise ValueError unless trained weights of all its networks come with the package."""
        if not self.is_embedded:
            making = f"scenetok download {self.name} --data DATA --output runs/{self.name}"
            advice = "" if self.checkpoint is None else f"; `{making}` makes one from the released weights"
            raise ValueError(
                f"no trained weights of preset {self.name} come with this package; give a run folder{advice}"
            )

    def check_guidance(self, guidance: float | None) -> None:
        """Raise ValueError for a guidance scale of renders that the denoiser was not trained for."""
        if guidance is not None and guidance > 1 and not self.denoiser.null_token:
            raise ValueError(f"--guidance {guidance}: preset {self.name} has no null token, so it only takes 1 (off)")

    @property
    def quirks(self) -> tuple[str, ...]:
        """Quirks of released weights that are on, as "field: value". Training from scratch should have none."""
        focal = self.data.scale_focal_by_256
        return (
            *([f"data.scale_focal_by_256: {focal}"] if focal != "none" else []),
            *(["denoiser.camera_channels_last: true"] if self.denoiser.camera_channels_last else []),
        )


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
    """List the names of all presets of the package."""
    return sorted(path.stem for path in config_folder().glob("*.yaml"))


REFUSED = {
    "scenetok_wan-wan_shift4_dl3dv_scratch": (
        "it cannot encode photographs: its context latents are single-frame Wan latents (48 channels) that exist only "
        "precomputed, its configuration names VA-VAE (32 channels) as context autoencoder, and the published "
        "single-frame Wan encoder returns the images instead of latents"
    )
}
"""Published experiments without a preset -> reason."""


@cache
def load_preset(name: str) -> Preset:
    """Read a preset: the architecture and the recipe of a model.

    Args:
        name: Name of a preset (`preset_names()`), or the path of a preset file of your own (.yaml).

    Returns:
        The preset; frozen. Vary parts with `dataclasses.replace`.

    Raises:
        ValueError: The preset is unknown (the message lists those that are known), or its file is wrong; one line.

    >>> load_preset("scenetok-tiny").data.image_size
    128
    """
    if name.endswith(".yaml"):
        return _read(Path(name))
    for experiment, reason in REFUSED.items():
        if name == experiment or "wan-wan" in name:
            raise ValueError(f"the published experiment {experiment} has no preset: {reason}")
    path = config_folder() / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(preset_names())
        same = next((other for other in preset_names() if load_preset(other).experiment == name), None)
        hint = f"; that experiment is the preset {same!r}" if same else _meant(name)
        raise ValueError(f"unknown preset {name!r}{hint}; known presets: {known}")
    return _read(path)


def _meant(name: str) -> str:
    """Suggest the most similar preset, or up to three whose names contain the name."""
    holding = [other for other in preset_names() if name.lower() in other]
    several = f" (did you mean {' or '.join(holding)}?)" if 0 < len(holding) <= 3 else ""
    return did_you_mean(name, preset_names()) or several


class HasPreset(Protocol):
    """A model, such as a SceneTok."""

    @property
    def preset(self) -> Preset: ...


def as_preset(preset: Preset | str | HasPreset) -> Preset:
    """Return a preset that is given as itself, by its name, by the path of its file (`load_preset`), or by a model.

    Raises ValueError if it is given in another form.
    """
    if isinstance(preset, (str, Path)):
        return load_preset(str(preset))
    found = preset if isinstance(preset, Preset) else getattr(preset, "preset", None)
    if not isinstance(found, Preset):
        raise ValueError(f"expected a preset (model.preset) or its name, got {type(preset).__name__}")
    return found


def _read(path: Path) -> Preset:
    if not path.is_file():
        raise ValueError(f"preset file {path} does not exist")
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise ValueError(f"preset file {path} does not hold the fields of a preset; see docs/presets.md")
    # A constructor's error names only its own part of the preset: add the file's name.
    try:
        return build(Preset, {"name": path.stem, **values}, where="preset")
    except ValueError as error:
        raise ValueError(f"preset file {path}: {error}") from error


def shares_tokens(preset: Preset, maker: str) -> bool:
    """Whether `preset` renders the tokens that preset `maker` made: both have the same tokenizer."""
    if maker == preset.name:
        return True
    # A preset file of a user's may not be available here; it counts as its own tokenizer.
    tokenizer = load_preset(maker).tokenizer if maker in preset_names() else maker
    return tokenizer == preset.tokenizer
