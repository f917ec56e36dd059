"""Scene tokens and their file: one safetensors file that holds a scene and everything needed to render it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from scenetok_ns.models.cameras import are_rigid
from scenetok_ns.models.flow.noise import token_noise
from scenetok_ns.models.inputs import check_kind
from scenetok_ns.models.presets import Preset, shares_tokens
from scenetok_ns.tools.atomic_files import write_atomically

FORMAT = "scenetok-tokens-1"
"""File format. Poses are camera-to-world with OpenCV axes; intrinsics are divided by image width and height."""

_DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
MOST_TOKENS = 1_000_000
"""Maximum number of tokens of the whole scene that a file with a subset may name."""
OPTIONAL = ("logvar", "cameras_c2w", "cameras_intrinsics", "latents")
"""Optional tensors of a file."""


@dataclass(frozen=True, repr=False)
class SceneTokens:
    """The tokens of one scene, from the compressor or the scene generator. They do not depend on the target cameras.

    >>> tokens.save("room.safetensors")
    >>> tokens = SceneTokens.load("room.safetensors").to("cuda")
    """

    mean: Float[Tensor, "n dim"]
    reference_c2w: Float[Tensor, "4 4"]
    """The camera that all poses are taken relative to before the networks see them; camera-to-world, OpenCV axes."""
    preset: str
    """Name of the preset whose networks created the tokens. Only presets with the same tokenizer can render them."""
    logvar: Float[Tensor, "n dim"] | None = None
    """Log-variance of the tokens' Gaussian; None: the tokens are a sample, or generated."""
    scene: str = ""
    pose_scale: float = 1.0
    """Factor from capture units to training units. `SceneTok.render` applies it to the cameras that it gets."""
    sources: tuple[str, ...] = ()
    """SHA-256 of the photographs, in order; empty: not known."""
    cameras_c2w: Float[Tensor, "v 4 4"] | None = None
    """Cameras that the scene is seen from: those of the photographs, or a generated scene's anchors.
    Camera-to-world, OpenCV axes, units of the capture. Camera paths are computed from them. None: not known."""
    cameras_intrinsics: Float[Tensor, "v 3 3"] | None = None
    """Intrinsics of these cameras, for the square pictures."""
    latents: Float[Tensor, "v c h w"] | None = None
    """Latents of the photographs, in the order of the cameras, for `SceneTok.add_views`. None: not stored."""
    subset_of: int | None = None
    """Number of all tokens of the scene, if these are only the first; None: these are all."""

    def __post_init__(self) -> None:
        for name in ("mean", "reference_c2w", *OPTIONAL):
            if name not in OPTIONAL or getattr(self, name) is not None:
                advice = f"convert an array with torch.from_numpy({name}).float()"
                check_kind(getattr(self, name), Tensor, "SceneTokens", name, advice)
        if self.mean.ndim != 2 or (self.logvar is not None and self.logvar.shape != self.mean.shape):
            shape = None if self.logvar is None else list(self.logvar.shape)
            raise ValueError(
                f"SceneTokens: expected mean [n, dim] and logvar of that shape or None, "
                f"got {list(self.mean.shape)} and {shape}; take the first tokens with subset(n)"
            )
        if not 0 < self.pose_scale < math.inf:
            raise ValueError(f"SceneTokens: expected a pose_scale above 0, got {self.pose_scale}")
        if self.reference_c2w.shape != (4, 4):
            raise ValueError(f"SceneTokens: expected reference_c2w [4, 4], got {list(self.reference_c2w.shape)}")
        known = [None if cameras is None else list(cameras.shape) for cameras in self._cameras]
        views = known[0][0] if known[0] else 0
        if known not in ([None, None], [[views, 4, 4], [views, 3, 3]]):
            raise ValueError(f"SceneTokens: expected cameras [v, 4, 4] and [v, 3, 3] or none, got {known}")
        if self.latents is not None and (self.latents.ndim != 4 or len(self.latents) != views):
            raise ValueError(
                f"SceneTokens: expected latents [v, c, h, w] of {views} cameras or None, got {list(self.latents.shape)}"
            )

    def __repr__(self) -> str:
        count, dim = self.mean.shape
        return (
            f"SceneTokens(scene={self.scene!r}, {count} tokens of {dim} numbers, preset={self.preset!r}, "
            f"device='{self.mean.device}')"
        )

    @property
    def _cameras(self) -> tuple[Tensor | None, Tensor | None]:
        return self.cameras_c2w, self.cameras_intrinsics

    def sample(self, seed: int) -> SceneTokens:
        """Sample the tokens' Gaussians, as the published evaluation does before it renders.

        Args:
            seed: Random seed; the sample is the same on every device.

        Raises:
            ValueError: The tokens have no log-variance: they are generated, or a sample already.
        """
        if self.logvar is None:
            raise ValueError("SceneTokens.sample: these tokens have no log-variance; render them as they are")
        noise = token_noise(seed, *self.mean.shape)[0].to(self.mean)
        return replace(self, mean=self.mean + (0.5 * self.logvar).exp() * noise, logvar=None)

    def subset(self, count: int) -> SceneTokens:
        """Take the first tokens, which are a coarser scene if the model was trained with nested tokens (scenetok-tiny).

        Args:
            count: Number of tokens, from 1 to all.

        Raises:
            ValueError: `count` is below 1, or there are fewer tokens.
        """
        there = len(self.mean)
        if not isinstance(count, Integral):
            raise ValueError(
                f"SceneTokens.subset: expected the number of first tokens to take, got {type(count).__name__}; other "
                "tokens do not render without the first"
            )
        if not 1 <= count <= there:
            raise ValueError(f"SceneTokens.subset: expected 1 to {there} tokens, got {count}")
        logvar = None if self.logvar is None else self.logvar[:count]
        whole = self.subset_of or there
        return replace(self, mean=self.mean[:count], logvar=logvar, subset_of=None if count == whole else whole)

    def to(self, device: torch.device | str) -> SceneTokens:
        """Return the same tokens on another device."""
        tensors = {name: getattr(self, name) for name in ("mean", "reference_c2w", *OPTIONAL)}
        return replace(self, **{name: tensor.to(device) for name, tensor in tensors.items() if tensor is not None})

    def save(self, path: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write a token file, whole or not at all.

        Args:
            path: File to write (.safetensors).
            dtype: Precision of the numbers: float32, bfloat16 or float16. In bfloat16, 512 x 64 tokens without
                log-variance take 64 KiB.

        Raises:
            ValueError: The dtype is none of these.
            OSError: The file cannot be written.
        """
        if dtype not in _DTYPES:
            raise ValueError(f"SceneTokens.save: expected one of {', '.join(_DTYPES.values())}, got {dtype}")
        tensors = {"mean": self.mean.to(dtype), "reference_c2w": self.reference_c2w.float()}
        if self.logvar is not None:
            tensors["logvar"] = self.logvar.to(dtype)
        if self.cameras_c2w is not None and self.cameras_intrinsics is not None:
            tensors |= {"cameras_c2w": self.cameras_c2w.float(), "cameras_intrinsics": self.cameras_intrinsics.float()}
        if self.latents is not None:
            tensors["latents"] = self.latents.to(dtype)
        values = {
            "preset": self.preset,
            "scene": self.scene,
            "pose_scale": float(self.pose_scale),
            "sources": list(self.sources),
        }
        if self.subset_of is not None:
            values["subset_of"] = self.subset_of
        packed = save(
            # Copies: the reference is one of the cameras, and the format refuses tensors that share memory.
            {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()},
            metadata={"format": FORMAT, "scene_tokens": json.dumps(values)},
        )
        write_atomically(Path(path), packed)

    @staticmethod
    def load(path: str | Path) -> SceneTokens:
        """Read a token file.

        Args:
            path: File that `save`, `scenetok encode` or `scenetok generate` wrote.

        Returns:
            Tokens, float32, on the CPU.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is damaged, not a token file, or of another format. The message names the file and the
                reason.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"tokens: {path} does not exist; `scenetok encode` makes token files")
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"tokens: {path} cannot be read ({error}); it is damaged or not a safetensors file"
            ) from None
        return _checked(path, metadata, tensors)


def is_token_file(path: Path) -> bool:
    """Whether a file says that it holds tokens, of any version."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return str((file.metadata() or {}).get("format")).startswith("scenetok-tokens-")
    except (SafetensorError, OSError):
        return False


def _checked(path: Path, metadata: dict[str, str], tensors: dict[str, Tensor]) -> SceneTokens:
    def wrong(what: str) -> ValueError:
        return ValueError(f"tokens: {path}: {what}; encode the scene again with this version")

    if metadata.get("format") != FORMAT:
        raise wrong(f"expected format {FORMAT!r}, got {metadata.get('format')!r}")
    if not {"mean", "reference_c2w"} <= set(tensors) <= {"mean", "reference_c2w", *OPTIONAL}:
        raise wrong(f"expected tensors mean, reference_c2w and perhaps {', '.join(OPTIONAL)}, got {sorted(tensors)}")
    try:
        values: dict[str, Any] = json.loads(metadata.get("scene_tokens", ""))
        found = {name: type(value) for name, value in values.items()}
    except (ValueError, AttributeError, RecursionError):
        raise wrong("the description in its header is not readable") from None
    expected = {"preset": str, "scene": str, "pose_scale": float, "sources": list}
    whole = values.get("subset_of") if isinstance(values, dict) else None
    if whole is not None:
        expected["subset_of"] = int
    if found != expected or not all(isinstance(source, str) for source in values["sources"]):
        raise wrong(f"expected a header with {', '.join(expected)}, got {', '.join(map(str, values))}")
    count = len(tensors["mean"]) if tensors["mean"].ndim else 0
    if whole is not None and not count < whole <= MOST_TOKENS:
        raise wrong(f"expected subset_of above its {count} tokens, got {whole}")
    if not 0 < values["pose_scale"] < math.inf:
        raise wrong(f"expected a pose_scale above 0, got {values['pose_scale']}")
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES or not torch.isfinite(tensor).all():
            raise wrong(f"{name} holds numbers that are not finite or not floating-point")
    reference = tensors["reference_c2w"].float()
    if reference.shape != (4, 4) or not are_rigid(reference):
        raise wrong("reference_c2w is not a camera pose (rotation and translation)")
    cameras = tensors.get("cameras_c2w", reference[None]).float()
    if cameras.shape[1:] != (4, 4) or not are_rigid(cameras).all():
        raise wrong("cameras_c2w are not camera poses")
    lenses = tensors.get("cameras_intrinsics")
    if lenses is not None and not (lenses.ndim == 3 and bool((lenses.diagonal(dim1=1, dim2=2)[:, :2] > 0).all())):
        raise wrong("cameras_intrinsics have focal lengths that are not above 0")
    if not tensors["mean"].numel():
        raise wrong("it holds no tokens")
    try:
        return SceneTokens(
            mean=tensors["mean"].float(),
            reference_c2w=reference,
            preset=values["preset"],
            **{name: tensors[name].float() for name in OPTIONAL if name in tensors},  # type: ignore[arg-type]
            scene=values["scene"],
            pose_scale=values["pose_scale"],
            sources=tuple(values["sources"]),
            subset_of=whole,
        )
    except ValueError as error:
        raise wrong(str(error)) from None


def check_tokens(tokens: SceneTokens, preset: Preset) -> None:
    """Raise ValueError unless a preset's networks can render the tokens, or some of a scene's tokens."""
    check_kind(tokens, SceneTokens, "render", "tokens", "wrap changed numbers with replace(tokens, mean=...)")
    config = preset.compressor
    count, dim = tokens.mean.shape
    # The first tokens of a scene are a scene, too, with less detail.
    if dim != config.token_dim or not 0 < count <= config.num_tokens:
        raise ValueError(
            f"render: preset {preset.name} has {config.num_tokens} tokens of {config.token_dim} numbers, got "
            f"{list(tokens.mean.shape)}, made by {tokens.preset}; encode the scene with this model"
        )
    if not shares_tokens(preset, tokens.preset):
        raise ValueError(
            f"render: the tokens were made by preset {tokens.preset}, and mean nothing to preset "
            f"{preset.name}; encode the scene with this model, or render with a run of {tokens.preset}"
        )
    if tokens.subset_of is None and count < config.num_tokens:
        raise ValueError(
            f"render: expected all {config.num_tokens} tokens of preset {preset.name}, or the first ones as "
            f"tokens.subset(n) takes them, got {count}; other parts of a scene cannot be rendered (if other weights "
            "made these tokens, encode the scene again)"
        )
    if (tokens.subset_of or count) != config.num_tokens:
        raise ValueError(
            f"render: expected {config.num_tokens} tokens, as preset {preset.name} makes them, or the first of these "
            f"(SceneTokens.subset), got {count} of {tokens.subset_of or count}; they are of other weights, perhaps "
            "of an earlier version: encode the scene again"
        )
    if not bool(tokens.mean.isfinite().all()):
        wrong = int((~tokens.mean.isfinite()).any(1).sum())
        raise ValueError(
            f"render: {wrong} of {count} tokens hold numbers that are not finite (NaN or infinite); check the loss or "
            "the step that changed them, or encode the scene again"
        )
