"""Weights of a depth head: a file of its own that names the denoiser it was trained on."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError, safe_open

from scenetok_ns.models.autoencoders.registry import latent_space
from scenetok_ns.models.engine.copies import Fingerprint, fingerprint
from scenetok_ns.models.networks.denoiser import Denoiser
from scenetok_ns.models.networks.depth_head import DepthHead, DepthHeadConfig
from scenetok_ns.models.presets import Preset
from scenetok_ns.models.released_checkpoints import module_sha256
from scenetok_ns.models.weight_files import CheckpointError, embedded_weights, load_weights, save_weights

logger = logging.getLogger(__name__)

FORMAT = "scenetok-depth-1"
PART = "depth_head"
"""Prefix of the tensors' names."""
DEPTH_SUFFIX = "-depth"
"""Suffix that an embedded depth head's name adds to the name of its networks' weights."""


def new_depth_head(preset: Preset, denoiser: Denoiser) -> DepthHead:
    """Build an untrained head for a preset's denoiser."""
    config = DepthHeadConfig.for_preset(preset, denoiser.grid)
    return DepthHead(config, latent_space(preset.target_autoencoder).layout)


def save_depth_head(head: DepthHead, path: Path, preset: Preset, denoiser: Denoiser) -> None:
    """Save a head that belongs to the current weights of `denoiser`. Writes atomically, in half precision."""
    header = {"preset": preset.name, "networks": module_sha256(denoiser), "sizes": asdict(head.config)}
    save_weights({PART: head}, path, {"format": FORMAT, PART: json.dumps(header)})


def load_depth_head(path: Path, preset: Preset, denoiser: Denoiser) -> DepthHead:
    """Read a head that was trained on exactly these weights of `denoiser`.

    Raises:
        CheckpointError: The file is missing, damaged, not a depth head, or was trained on another denoiser.
    """
    header = _header(path)
    if header["networks"] != module_sha256(denoiser):
        raise CheckpointError(
            f"{path}: this depth head was trained on other weights of preset {header['preset']}; train one for these "
            "with `ns-train scenetok-depth --pipeline.model.tokenizer RUN`, or leave it out: depth then comes from a "
            "plane sweep"
        )
    sizes = header["sizes"] | {"grid": tuple(header["sizes"]["grid"])}
    head = DepthHead(DepthHeadConfig(**sizes), latent_space(preset.target_autoencoder).layout)
    load_weights({PART: head}, path)
    return head.requires_grad_(False).eval()


def _header(path: Path) -> dict:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
        header = json.loads(metadata.get(PART, "null"))
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path}: not a readable depth head ({error})") from error
    if (
        metadata.get("format") != FORMAT
        or not isinstance(header, dict)
        or {"preset", "networks", "sizes"} - set(header)
    ):
        raise CheckpointError(f"{path}: expected the weights of a depth head ({FORMAT}), as scenetok-depth writes them")
    return header


def embedded_depth_head(preset: Preset) -> Path | None:
    """Path of the depth head that comes with a preset's embedded weights, or None."""
    if preset.embedded_weights is None:
        return None
    file = embedded_weights(preset.embedded_weights + DEPTH_SUFFIX)
    return file if file.is_file() else None


class DepthSource:
    """Source of a model's depth head: none, a head, or a file that is read when depth is first needed."""

    def __init__(self, given: DepthHead | Path | None = None, *, required: bool = True) -> None:
        """Remember where the head comes from.

        Args:
            given: The head, or its file. None: there is no head.
            required: Raise an error if the file belongs to other weights. False: the model then has no head.
        """
        self.given, self.required = given, required
        self._read: tuple[Fingerprint, DepthHead | None] | None = None

    def head(self, preset: Preset, denoiser: Denoiser) -> DepthHead | None:
        """Return the head for the current weights of the denoiser, or None. A head from a file is on the CPU.

        Raises CheckpointError for a required file that does not fit.
        """
        if self.given is None or isinstance(self.given, DepthHead):
            return self.given
        now = fingerprint(denoiser)
        if self._read is None or self._read[0] != now:
            try:
                head = load_depth_head(self.given, preset, denoiser)
            except CheckpointError as error:
                if self.required:
                    raise
                logger.info("no depth head: %s", error)
                head = None
            self._read = now, head
        return self._read[1]
