"""Read released checkpoints: select the tensors that are used, and compare their keys strictly.

A released file is a Lightning checkpoint: a dict with `state_dict` (keys `compressor.`, `denoiser.`,
`scene_generator.`; parity c12) beside the trainer's own records. The module names inside our networks are those of
the released keys, so there is nothing to rename. The file must have every key of the networks, with its shape. Other
keys are reported and left out, unless they show that the file belongs to a larger network.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from scenetok_ns.models.lightning_files import check_crc, read_lightning
from scenetok_ns.models.ops.finite import is_finite
from scenetok_ns.models.presets import Preset, load_preset, preset_names
from scenetok_ns.models.weight_files import CheckpointError, check_tensors, listed
from scenetok_ns.tools.digests import remembered_sha256

TOKENIZER_PREFIXES = ("compressor.", "denoiser.")
GENERATOR_PREFIX = "scene_generator."


@dataclass(frozen=True)
class DroppedKeys:
    """Keys of a released checkpoint that are known to be unused."""

    pattern: str
    """Regular expression for the whole key; {last} stands for the index of the compressor's last block."""
    reason: str


DROPPED_KEYS = (
    DroppedKeys(r"denoiser\.null_tokens", "null token of an unconditional branch that was never trained"),
    DroppedKeys(r"(\w+\.)+\w*rope\.(freqs|freqs_cos|freqs_sin)", "rotary table; computed from the preset"),
    DroppedKeys(r"(denoiser|scene_generator)\.model\.y_embedder\..*", "class embedding of LightningDiT, never used"),
    DroppedKeys(r"denoiser\.model\.pos_embed", "position table of LightningDiT, replaced by a rotary one"),
    DroppedKeys(r"compressor\.(norm|scene_norm)\..*", "norm of an earlier compressor, which the published code lacks"),
    DroppedKeys(r"compressor\.null_tokens", "null token of an earlier compressor, which the published code lacks"),
    DroppedKeys(r"ema\..*", "averaged weights of the trainer; the published code does not load them"),
    DroppedKeys(r"(scene_)?scheduler\..*", "constants of the noise schedule; computed from the preset"),
    DroppedKeys(r"compressor\.aggregate\.{last}\.(norm3|mlp1)\..*", "half of the last block, unused by its forward"),
    DroppedKeys(r"autoencoder\..*", "frozen autoencoder; read from its own published file"),
    DroppedKeys(r"metric\..*", "networks of the evaluation metrics"),
)
"""Rules for keys that the preset's networks do not have. Keys without a rule are left out, too, as `UNKNOWN`."""
UNKNOWN = "no part of the preset's networks"


def expected_tensors(preset: Preset) -> dict[str, Tensor]:
    """State dict of a preset's networks on the meta device, under the released keys."""
    from scenetok_ns.models.networks.compressor import Compressor
    from scenetok_ns.models.networks.denoiser import Denoiser
    from scenetok_ns.models.networks.scene_generator import SceneGenerator

    with torch.device("meta"):
        networks: dict[str, torch.nn.Module] = {
            "compressor": Compressor.from_preset(preset),
            "denoiser": Denoiser.from_preset(preset),
        }
        if preset.scene_generator is not None:
            networks["scene_generator"] = SceneGenerator.from_preset(preset)
    return {f"{name}.{key}": value for name, net in networks.items() for key, value in net.state_dict().items()}


@dataclass(frozen=True)
class ReleasedState:
    """Tensors taken from released files, in the order of the networks' own state dict, and what was dropped."""

    tensors: dict[str, Tensor]
    dropped: dict[str, str]
    """Key -> reason."""


def released_state(preset: Preset, checkpoint: Path, tokenizer: Path | None = None) -> ReleasedState:
    """Read the networks of `preset` from one released file, or generator and tokenizer from two.

    Raises CheckpointError unless every tensor that the preset's networks have is found once, with its shape.
    """
    if tokenizer is not None and preset.scene_generator is None:
        raise CheckpointError(f"preset {preset.name} has no scene generator: leave out the tokenizer file {tokenizer}")
    expected = expected_tensors(preset)
    found = read_lightning(checkpoint)
    dropped: dict[str, str] = {}
    if tokenizer is not None:
        duplicate = [key for key in found if key.startswith(TOKENIZER_PREFIXES)]
        dropped.update(dict.fromkeys(duplicate, f"taken from {tokenizer.name}"))
        found = {key: value for key, value in found.items() if key not in dropped}
        other = read_lightning(tokenizer)
        surplus = [key for key in other if key.startswith(GENERATOR_PREFIX)]
        if surplus:
            raise CheckpointError(f"{tokenizer}: a tokenizer file must not hold generator keys: {listed(surplus)}")
        found.update(other)
    elif preset.scene_generator is not None and not any(key.startswith(TOKENIZER_PREFIXES) for key in found):
        raise CheckpointError(
            f"{checkpoint} holds the scene generator alone: give the tokenizer's file too"
            + (f" ({preset.tokenizer_checkpoint})" if preset.tokenizer_checkpoint else "")
        )
    source = str(checkpoint) if tokenizer is None else f"{checkpoint} with {tokenizer}"
    taken, more = used_tensors(expected, found, preset, f"{source} does not fit preset {preset.name}")
    return ReleasedState(taken, dropped | more)


def used_tensors(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], preset: Preset, context: str
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Select the tensors of a released file that a preset's networks use.

    Args:
        expected: State dict of the networks (`expected_tensors`).
        found: Tensors of the file.
        preset: The preset.
        context: Text with which error messages begin.

    Returns:
        The tensors in the networks' order, and key -> reason for those left out.

    Raises:
        CheckpointError: Tensors are missing or have another shape, or surplus ones have the keys of further layers,
            so the file belongs to a larger network. The message lists all differences.
    """
    numbered = {_without_numbers(key) for key in expected}
    dropped = {key: drop_reason(key, preset) or UNKNOWN for key in found if key not in expected}
    layers = [key for key, why in dropped.items() if why is UNKNOWN and _without_numbers(key) in numbered]
    used = {key: value for key, value in found.items() if key in expected or key in layers}
    try:
        check_tensors(expected, used, context)
    except CheckpointError as error:
        unknown = [key for key, why in dropped.items() if why is UNKNOWN and key not in layers]
        more = f"; {len(unknown)} unknown: {listed(unknown)}" if unknown else ""
        raise CheckpointError(f"{error}{more}") from None
    return {key: found[key] for key in expected}, dropped


def _without_numbers(key: str) -> str:
    return re.sub(r"\b\d+\b", "N", key)


def drop_reason(key: str, preset: Preset) -> str | None:
    """Why a released key is left out, or None if no rule names it."""
    for rule in DROPPED_KEYS:
        if re.fullmatch(rule.pattern.replace("{last}", str(preset.compressor.depth - 1)), key):
            return rule.reason
    return None


def check_content(files: Iterable[Path], tensors: Mapping[str, Tensor], progress: Callable[[int], None]) -> None:
    """Raise CheckpointError for files with a wrong checksum, or tensors with numbers that are not finite.

    Reads everything once more, and calls `progress` with the number of bytes of each piece.
    """
    for path in files:
        check_crc(path, progress)
    for key, tensor in tensors.items():
        if not is_finite(tensor):
            raise CheckpointError(
                f"{key} holds numbers that are not finite (NaN or infinite): the file is damaged, or comes from a "
                "failed training; download it again"
            )
        progress(tensor.numel() * tensor.element_size())


def guess_preset(checkpoint: Path) -> tuple[str, list[str]]:
    """Find the preset of a released file by the keys and shapes of its tensors.

    Several presets may fit that differ only in their training, and therefore give the same pictures. The first of them
    with a released checkpoint is chosen.

    Returns:
        Name of the chosen preset, and the names of all presets that fit.

    Raises:
        CheckpointError: No preset fits, or presets fit that give different pictures.
    """
    found = read_lightning(checkpoint)
    fitting: list[Preset] = []
    for name in preset_names():
        preset = load_preset(name)
        if preset.embedded_weights is None and _has_networks(preset, found):
            fitting.append(preset)
    names = [preset.name for preset in fitting]
    if not fitting:
        raise CheckpointError(
            f"{checkpoint} fits no preset: it holds {len(found)} tensors, {listed(found)}; name one (Python: preset=, "
            "commands: --preset) to see the differences"
        )
    if len({_shown_alike(preset) for preset in fitting}) > 1:
        raise CheckpointError(
            f"{checkpoint} fits several presets: choose one (Python: preset=, commands: --preset): {', '.join(names)}"
        )
    return sorted(fitting, key=lambda preset: preset.checkpoint is None)[0].name, names


def _has_networks(preset: Preset, found: Mapping[str, Tensor]) -> bool:
    """Whether a file holds the networks of a preset's checkpoint: only the generator if the tokenizer has its own."""
    expected = expected_tensors(preset)
    if preset.tokenizer_checkpoint is not None:
        expected = {key: value for key, value in expected.items() if key.startswith(GENERATOR_PREFIX)}
    elif any(key.startswith(GENERATOR_PREFIX) for key in found):
        return False
    try:
        used_tensors(expected, found, preset, "")
    except CheckpointError:
        return False
    return True


def _shown_alike(preset: Preset) -> tuple[object, ...]:
    """All parts of a preset on which pictures and figures depend."""
    data, views = preset.data, preset.data.views
    return (
        data.image_size,
        data.camera_spread,
        data.scale_focal_by_256,
        views.num_context,
        views.max_condition_views,
        preset.context_autoencoder,
        preset.target_autoencoder,
        preset.compressor,
        preset.denoiser,
        preset.sampler,
        preset.scene_generator,
        preset.scene_sampler,
    )


def check_weights(path: Path | None, sha256: str | None, role: str) -> None:
    """Raise CheckpointError if an autoencoder's weight file is missing, or is not the one that a run was made with.

    Checks nothing if `path` is None (the autoencoder has no file). Without a recorded digest, it only checks that the
    file exists.
    """
    if path is None:
        return
    if not path.exists():
        raise CheckpointError(
            f"weights of the {role} autoencoder are not at {path}: put the file back, or import again with its new path"
        )
    if sha256 is not None and (found := remembered_sha256(path)) != sha256:
        raise CheckpointError(
            f"weights of the {role} autoencoder, {path}, have changed: SHA-256 {found}, but the run was made with "
            f"{sha256}; put the file back, or import again"
        )


def module_sha256(module: nn.Module) -> str:
    """SHA-256 of all tensors of a module, with their names and types; the same on every device."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
