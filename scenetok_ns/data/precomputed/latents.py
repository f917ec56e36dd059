"""Precomputed latents as training data: find the scenes that have them, and read some views of a scene."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from scenetok_ns.data.precomputed.latent_files import FLIPPED, LatentSettings, MappedLatents, latent_path
from scenetok_ns.data.scenes import BadScene, DataError, SkippedScenes
from scenetok_ns.models.autoencoders.base import LatentSpace

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class LatentViews:
    """Some latents of a scene, and the cameras of all their frames."""

    latents: Float[Tensor, "l c h w"]
    """Raw latents in the precision of the file; `LatentSpace.normalize` prepares them for the networks."""
    c2w: Float[Tensor, "f 4 4"]
    intrinsics: Float[Tensor, "f 3 3"]
    """Intrinsics of the crops that the latents were made from."""


@dataclass(frozen=True)
class Coverage:
    """The wanted scenes with and without latents."""

    present: tuple[str, ...]
    missing: tuple[str, ...]
    where: str

    def summary(self, limit: int = 5) -> str:
        """One line for the log."""
        total = len(self.present) + len(self.missing)
        if not self.missing:
            return f"all {total} scenes have latents in {self.where}"
        named = ", ".join(islice(self.missing, limit)) + (", ..." if len(self.missing) > limit else "")
        return (
            f"{len(self.missing)} of {total} scenes have no latents in {self.where} and are left out ({named}); "
            "`scenetok latents` makes them"
        )


class LatentStore:
    """One split and factor of a set of latents, made by this package or by the published scripts (see `latent_files`).

    `space` is the latent space of the expected autoencoder; scenes whose latents have other shapes raise BadScene when
    they are read. At first, only file names are read. Raises DataError if there are no latents at all, or the set names
    another autoencoder.
    """

    def __init__(
        self, root: Path, space: LatentSpace, split: str = "train", factor: int = 1, autoencoder: str | None = None
    ) -> None:
        self.root, self.space, self.split, self.factor = Path(root), space, split, factor
        self.folder = latent_path(self.root, split, factor, "x", flipped=False).parent
        names = {path.stem for path in self.folder.glob("*.npz") if not path.name.startswith(".")}
        self._plain = frozenset(name for name in names if not name.endswith(FLIPPED))
        self._flipped = frozenset(name.removesuffix(FLIPPED) for name in names - self._plain)
        if not self._plain:
            raise DataError(f"no latents in {self.folder}; make them with `scenetok latents`")
        settings = LatentSettings.read(self.root)
        if settings is not None and autoencoder is not None and settings.autoencoder != autoencoder:
            raise DataError(f"{self.root} holds latents of {settings.autoencoder}, expected {autoencoder}")

    @property
    def keys(self) -> Sequence[str]:
        """Scenes that have latents, sorted."""
        return sorted(self._plain)

    def has(self, key: str, *, flipped: bool = False) -> bool:
        return key in (self._flipped if flipped else self._plain)

    def coverage(self, keys: Iterable[str]) -> Coverage:
        """Sort the scenes of a data set into those with latents and those without, in their order."""
        wanted = list(keys)
        present = tuple(key for key in wanted if key in self._plain)
        return Coverage(present, tuple(key for key in wanted if key not in self._plain), str(self.folder))

    def cameras(self, key: str, *, flipped: bool = False) -> tuple[Float[Tensor, "v 4 4"], Float[Tensor, "v 3 3"]]:
        """Camera-to-world (OpenCV) and crop intrinsics of all frames that have latents. Raises BadScene."""
        return self._open(key, flipped).cameras()

    def views(self, key: str, frames: Tensor, *, flipped: bool = False) -> LatentViews:
        """Read the latents of `frames`: all frames of one or more latents, in order.

        Raises:
            BadScene: The file is damaged, or does not have these frames.
            ValueError: `frames` contains only some frames of a latent, or another order.
        """
        file = self._open(key, flipped)
        if len(frames) and not 0 <= int(frames.min()) <= int(frames.max()) < file.num_frames:
            raise BadScene(f"frame {int(frames.max())} was asked for, but latents are of {file.num_frames} frames", key)
        c2w, intrinsics = file.cameras()
        return LatentViews(file.pick(self._latents_of(frames)), c2w[frames], intrinsics[frames])

    def _latents_of(self, frames: Tensor) -> Tensor:
        layout = self.space.layout
        latents: list[int] = []
        expected: list[int] = []
        for frame in frames.tolist():
            latent = layout.latent_of(frame)
            if frame == layout.first_frame(latent):
                latents.append(latent)
                expected.extend(range(frame, layout.first_frame(latent + 1)))
        if frames.tolist() != expected:
            raise ValueError(f"LatentStore: frames {frames.tolist()} are not all frames of some latents of {layout}")
        return torch.tensor(latents, dtype=torch.int64)

    def _open(self, key: str, flipped: bool) -> MappedLatents:
        file = MappedLatents(latent_path(self.root, self.split, self.factor, key, flipped), key)
        layout = self.space.layout
        if file.latents.shape[1] != self.space.channels:
            raise BadScene(
                f"latents have {file.latents.shape[1]} channels, those of its autoencoder {self.space.channels}", key
            )
        whole = file.num_latents % layout.latents_per_chunk == 0
        if not whole or layout.num_frames(file.num_latents) != file.num_frames:
            raise BadScene(f"{file.num_latents} latents do not fit {file.num_frames} cameras", key)
        return file


class LatentScenes:
    """Scenes with latents of both autoencoders, which training uses instead of photographs."""

    def __init__(self, context: LatentStore, target: LatentStore, keys: Iterable[str]) -> None:
        """`keys`: the scenes of the data set, which may lack latents. Raises DataError if none has both."""
        self.context, self.target = context, target
        self.skipped = SkippedScenes()
        wanted = list(keys)
        self.coverages = (context.coverage(wanted), target.coverage(wanted))
        both = set(self.coverages[1].present)
        self.keys: Sequence[str] = [key for key in self.coverages[0].present if key in both]
        if not self.keys:
            raise DataError("; ".join(coverage.summary() for coverage in self.coverages))

    def has_flipped(self, key: str) -> bool:
        return self.context.has(key, flipped=True) and self.target.has(key, flipped=True)

    def summary(self, random_flip: bool) -> list[str]:
        """Lines for the log: scenes without latents, and, with `random_flip`, the number without mirrored latents."""
        lines = [coverage.summary() for coverage in self.coverages if coverage.missing]
        plain = sum(not self.has_flipped(key) for key in self.keys) if random_flip else 0
        if plain:
            lines.append(
                f"{plain} of {len(self.keys)} scenes have no mirrored latents; `scenetok latents --flip` makes them"
            )
        return lines
