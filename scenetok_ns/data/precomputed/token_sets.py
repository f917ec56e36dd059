"""Precomputed scene tokens of a whole split, for training scene generators.

    root/tokens.json                  settings of the set
    root/{train|test}/{scene}.safetensors

A file holds several encodings of its scene, so that training sees more than one choice of context views. Each encoding
has its own context views and reference, drawn as in training from photographs. If the preset mirrors scenes, every
other encoding is of the mirrored scene. Files appear only when they are complete.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int64
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from scenetok_ns.data.precomputed.set_settings import SetSettings
from scenetok_ns.data.scenes import BadScene, DataError
from scenetok_ns.tools.atomic_files import write_atomically

logger = logging.getLogger(__name__)

FORMAT = "scenetok-token-set-1"
AXES = {"mean": 3, "logvar": 3, "c2w": 4, "intrinsics": 4, "reference": 1, "flipped": 1, "num_frames": 1}


@dataclass(frozen=True)
class TokenSettings(SetSettings):
    """Settings of a set of tokens: everything that they depend on, apart from the photographs."""

    FILE, PATTERN, KIND = "tokens.json", "*/*.safetensors", "tokens"

    preset: str
    compressor_sha256: str
    """`checkpoint.module_sha256` of the compressor. Tokens of other weights have another meaning."""
    image_size: int
    views: dict
    """Fields of the `ViewSamplingConfig` with which the context views were drawn."""
    random_flip: bool
    encodings: int
    seed: int
    dtype: str


@dataclass(frozen=True, eq=False)
class SceneEncodings:
    """All encodings of one scene: the content of a file."""

    mean: Float[Tensor, "k n dim"]
    logvar: Float[Tensor, "k n dim"]
    c2w: Float[Tensor, "k context 4 4"]
    """Poses of the context views, camera-to-world, OpenCV axes; mirrored if the encoding is of the mirrored scene."""
    intrinsics: Float[Tensor, "k context 3 3"]
    """Intrinsics of the crops, divided by the image size."""
    reference: Int64[Tensor, " k"]
    """Frame number of the reference: the context view that poses were taken relative to."""
    flipped: Bool[Tensor, " k"]
    num_frames: Int64[Tensor, " 1"]
    """Number of frames of the encoded scene, which reveals another scene of the same name."""

    def save(self, path: Path, dtype: torch.dtype) -> None:
        tensors = {field.name: getattr(self, field.name).cpu().contiguous() for field in fields(self)}
        tensors |= {name: tensors[name].to(dtype) for name in ("mean", "logvar")}
        for name in ("mean", "logvar"):
            if not tensors[name].isfinite().all():
                raise BadScene(f"its tokens are not finite in {dtype}", path.stem)
        write_atomically(path, save(tensors, metadata={"format": FORMAT}))


@dataclass(frozen=True, eq=False)
class Encoding:
    """One encoding of a scene."""

    mean: Float[Tensor, "n dim"]
    logvar: Float[Tensor, "n dim"]
    c2w: Float[Tensor, "context 4 4"]
    intrinsics: Float[Tensor, "context 3 3"]
    reference: int
    flipped: bool
    num_frames: int


def token_path(root: Path, split: str, scene: str) -> Path:
    return root / split / f"{scene}.safetensors"


class TokenStore:
    """The tokens of one split. At first, only file names are read.

    Raises DataError if there are none, or if the compressor that made them does not have the digest
    `compressor_sha256`.
    """

    def __init__(self, root: Path, split: str, compressor_sha256: str) -> None:
        self.root, self.split = Path(root), split
        settings = TokenSettings.read(self.root)
        if settings is None:
            raise DataError(
                f"no tokens in {root} (it has no {TokenSettings.FILE}); `scenetok encode --split` makes them"
            )
        if settings.compressor_sha256 != compressor_sha256:
            raise DataError(
                f"the tokens in {root} were made by other weights (preset {settings.preset}, compressor "
                f"{settings.compressor_sha256[:12]}) than this model's tokenizer ({compressor_sha256[:12]}); encode "
                "the data again with this tokenizer"
            )
        self.encodings = settings.encodings
        self._names = {path.stem for path in (self.root / split).glob("*.safetensors") if path.name[0] != "."}
        if not self._names:
            raise DataError(f"no tokens in {self.root / split}; `scenetok encode --split {split}` makes them")

    def present(self, keys: Iterable[str]) -> Sequence[str]:
        """Return the scenes of a data set that have tokens, in their order. Raises DataError if there is none."""
        wanted = list(keys)
        present = [key for key in wanted if key in self._names]
        if not present:
            raise DataError(f"none of {len(wanted)} scenes has tokens in {self.root / self.split}")
        if len(present) < len(wanted):
            logger.warning(
                "%d of %d scenes have no tokens in %s and are left out; `scenetok encode --split` makes them",
                len(wanted) - len(present),
                len(wanted),
                self.root / self.split,
            )
        return present

    def encoding(self, scene: str, number: int) -> Encoding:
        """Read encoding `number` of a scene, with tokens in float32. Raises BadScene for a damaged file."""
        path = token_path(self.root, self.split, scene)
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                if (file.metadata() or {}).get("format") != FORMAT:
                    raise ValueError(f"its format is not {FORMAT}")
                slices = {name: file.get_slice(name) for name in AXES}
                for name, axes in AXES.items():
                    if len(slices[name].get_shape()) != axes:
                        raise ValueError(f"{name} has {len(slices[name].get_shape())} axes instead of {axes}")
                num_frames = int(slices.pop("num_frames")[0:1])
                values = {name: part[number : number + 1][0] for name, part in slices.items()}
        except (OSError, SafetensorError, ValueError, IndexError) as error:
            raise BadScene(
                f"tokens {path} cannot be read ({error}); delete the file and create it again", scene
            ) from error
        return Encoding(
            mean=values["mean"].float(),
            logvar=values["logvar"].float(),
            c2w=values["c2w"],
            intrinsics=values["intrinsics"],
            reference=int(values["reference"]),
            flipped=bool(values["flipped"]),
            num_frames=num_frames,
        )
