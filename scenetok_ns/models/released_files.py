"""Files that the authors of SceneTok and of the autoencoders publish, with their addresses and known facts.

Sizes, hashes and revisions are given if they are published. SceneTok's own checkpoints have none; the hash of the first
download is recorded on this machine and compared later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from scenetok_ns.models.presets import Preset, load_preset, preset_names
from scenetok_ns.tools.download_records import cache_folder
from scenetok_ns.tools.hub_downloads import hub_cached

Role = Literal["checkpoint", "tokenizer", "context", "target"]
GB, GiB = 10**9, 1 << 30


@dataclass(frozen=True)
class HubFile:
    """A file in a repository of the Hugging Face Hub."""

    repository: str
    revision: str | None = None
    """Commit; None: the newest one."""


@dataclass(frozen=True)
class Share:
    """A file shared with Nextcloud: the link opens a page, and the link with /download gives the file."""

    link: str

    @property
    def url(self) -> str:
        return self.link + "/download"


@dataclass(frozen=True)
class ReleasedFile:
    """A published file of weights."""

    name: str
    source: HubFile | Share
    licence: str
    size: int | None = None
    """Size in bytes."""
    about: int | None = None
    """Approximate size in bytes, if `size` is not published."""
    sha256: str | None = None

    @property
    def presets(self) -> list[str]:
        """Presets that need the file."""
        return [name for name in preset_names() if self in files_of(load_preset(name)).values()]


_AUTHORS = "https://nextcloud.mpi-klsb.mpg.de/index.php/s/"
_NO_LICENCE = "none published for the weights"

RELEASED_FILES: tuple[ReleasedFile, ...] = (
    ReleasedFile("va-videodc_re10k.ckpt", Share(_AUTHORS + "6Y7EsosfbnpcRxj"), _NO_LICENCE, about=3 * GiB),
    ReleasedFile("va-videodc_dl3dv.ckpt", Share(_AUTHORS + "aYBX7atFNKkmdSE"), _NO_LICENCE, about=3 * GiB),
    ReleasedFile("va-wan_dl3dv.ckpt", Share(_AUTHORS + "X7yzk7QANtwawPc"), _NO_LICENCE, about=3 * GiB),
    ReleasedFile("va-videodc_re10k_scene.ckpt", Share(_AUTHORS + "zEsw8ttT9E6Ge3C"), _NO_LICENCE, about=3 * GiB),
    ReleasedFile("scenegen_shift1_re10k.ckpt", Share(_AUTHORS + "3XrHrKQR8diodAa"), _NO_LICENCE, about=49 * GiB // 10),
    ReleasedFile("scenegen_shift4_re10k.ckpt", Share(_AUTHORS + "GNbPMdd6gWtM56k"), _NO_LICENCE, about=49 * GiB // 10),
    ReleasedFile("scenegen_shift12_re10k.ckpt", Share(_AUTHORS + "oDDgXYwDXijQo6a"), _NO_LICENCE, about=49 * GiB // 10),
    ReleasedFile(
        "vavae-imagenet256-f16d32-dinov2.pt",
        HubFile("hustvl/vavae-imagenet256-f16d32-dinov2"),
        "MIT",
        about=215 * GB // 100,
    ),
    ReleasedFile(
        "F32T4C128_AE.safetensors",
        HubFile("hpcai-tech/Open-Sora-v2-Video-DC-AE"),
        "none found for the file; Open-Sora is Apache-2.0",
    ),
    ReleasedFile(
        "Wan2.2_VAE.pth",
        HubFile("Wan-AI/Wan2.2-TI2V-5B", "921dbaf3f1674a56f47e83fb80a34bac8a8f203e"),
        "Apache-2.0",
        size=2_818_839_170,
        sha256="20eb789667fa5e60e7516bf509512f6cb61f01b0aa0695eadaea930c13892b36",
    ),
)


def weights_folder() -> Path:
    """Return the folder in the user's cache for files of `scenetok download` that are not in the Hub's own cache."""
    return cache_folder() / "weights"


def find_released(name: str, folders: Sequence[Path], *, cached: bool = True) -> Path | None:
    """Find a released file by its name, in one of the folders or, if `cached`, in the default folders of downloads."""
    for folder in [*folders, *([weights_folder()] if cached else [])]:
        if (folder / name).is_file():
            return folder / name
    source = next((file.source for file in RELEASED_FILES if file.name == name), None)
    if not cached or not isinstance(source, HubFile):
        return None
    return hub_cached(source.repository, name, source.revision, None)


def files_of(preset: Preset) -> dict[Role, ReleasedFile]:
    """Return the released files that a preset needs, by purpose.

    Presets whose training run was not released have no checkpoint here, and neither has a preset file of your own that
    names an unreleased one. Presets whose weights come with the package need no files at all.
    """
    from scenetok_ns.models.autoencoders.registry import weights_file  # imports torch

    names: dict[Role, str | None] = {
        "checkpoint": preset.checkpoint,
        "tokenizer": preset.tokenizer_checkpoint,
        "context": weights_file(preset.context_autoencoder),
        "target": weights_file(preset.target_autoencoder),
    }
    known = {file.name: file for file in RELEASED_FILES}
    return {role: known[name] for role, name in names.items() if name in known}
