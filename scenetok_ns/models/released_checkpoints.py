"""Released checkpoints: what they hold, which of it is taken, and a comparison of keys that nothing slips through.

A released file is a Lightning checkpoint: a dict with `state_dict` (keys `compressor.`, `denoiser.`,
`scene_generator.`; parity c12) beside the trainer's own records. The module names inside our networks are those of
the released keys, so there is nothing to rename: a key is taken, dropped on purpose, or refused.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scenetok_ns.models.presets import Preset
from scenetok_ns.models.weight_files import CheckpointError, check_tensors, listed
from scenetok_ns.tools.digests import remembered_sha256

TOKENIZER_PREFIXES = ("compressor.", "denoiser.")
GENERATOR_PREFIX = "scene_generator."


@dataclass(frozen=True)
class DroppedKeys:
    """Keys of a released checkpoint that are left out on purpose."""

    pattern: str
    """Regular expression for the whole key; {last} stands for the index of the compressor's last block."""
    reason: str


DROPPED_KEYS = (
    DroppedKeys(r"denoiser\.null_tokens", "null token of an unconditional branch that was never trained"),
    DroppedKeys(r"denoiser\.model\.feat_rope\.freqs", "rotary table; computed from the preset"),
    DroppedKeys(r"compressor\.aggregate\.{last}\.(norm3|mlp1)\..*", "half of the last block, unused by its forward"),
    DroppedKeys(r"autoencoder\..*", "frozen autoencoder; read from its own published file"),
    DroppedKeys(r"metric\..*", "networks of the evaluation metrics"),
)
"""Applied to keys that the preset's networks do not have."""


class _Inert:
    """Stands for an object of the trainer's records: takes any arguments and state, keeps nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __new__(cls, *args: Any, **kwargs: Any) -> _Inert:
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None: ...


def _empty_dict(*args: Any) -> dict:
    return {}


LIGHTNING_GLOBALS: dict[str, Callable] = {
    # Beside tensors, a Lightning checkpoint holds plain values in all its records (loops, callbacks, optimizer and
    # scheduler states). These names come with saved hyper-parameters, checkpoint paths and best scores.
    **dict.fromkeys(
        (
            "omegaconf.dictconfig.DictConfig",
            "omegaconf.listconfig.ListConfig",
            "omegaconf.base.ContainerMetadata",
            "omegaconf.base.Metadata",
            "omegaconf.nodes.AnyNode",
            "omegaconf.nodes.StringNode",
            "omegaconf.nodes.IntegerNode",
            "omegaconf.nodes.FloatNode",
            "omegaconf.nodes.BooleanNode",
            "typing.Any",
            "pathlib.PosixPath",
            "pathlib.WindowsPath",
            "pathlib._local.PosixPath",
            "pathlib._local.WindowsPath",
            "numpy.core.multiarray.scalar",
            "numpy._core.multiarray.scalar",
            "numpy.dtype",
            *(f"builtins.{name}" for name in ("dict", "list", "tuple", "str", "int", "float", "bool")),
        ),
        _Inert,
    ),
    # Subclasses of dict: torch fills only these two kinds.
    "lightning.fabric.utilities.data.AttributeDict": OrderedDict,
    "lightning_fabric.utilities.data.AttributeDict": OrderedDict,
    "pytorch_lightning.utilities.parsing.AttributeDict": OrderedDict,
    "collections.defaultdict": _empty_dict,
}
"""Names that a checkpoint may mention, and what stands for them. Nothing of the named packages is imported."""


def read_lightning(path: Path) -> dict[str, Tensor]:
    """The `state_dict` of a Lightning checkpoint, memory-mapped: nothing of it is read before it is used.

    Raises CheckpointError for a file that is truncated, no checkpoint, or mentions names that are not on the list.
    """
    _check_is_zip(path)
    # What the process allows already (numpy scalars, for Nerfstudio's sake) stays as it is: it works only together.
    known = {_full_name(entry) for entry in torch.serialization.get_safe_globals()}
    stand_ins: list[Any] = [(stand_in, name) for name, stand_in in LIGHTNING_GLOBALS.items() if name not in known]
    with torch.serialization.safe_globals(stand_ins):
        try:
            refused = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
            if refused:
                raise CheckpointError(
                    f"{path}: refused, its pickle names {', '.join(refused)}, which a Lightning checkpoint does not "
                    "hold; do not load this file with other tools unless you trust where it comes from"
                )
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except CheckpointError:
            raise
        except Exception as error:  # what a reader raises on damaged bytes differs with the damage
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise CheckpointError(f"{path}: not readable as a PyTorch checkpoint ({reason})") from error
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict):
        found = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(f"{path}: expected a Lightning checkpoint with the entry 'state_dict', found {found}")
    wrong = [str(key) for key, value in state.items() if not isinstance(key, str) or not isinstance(value, Tensor)]
    if wrong:
        raise CheckpointError(f"{path}: state_dict entries that are not tensors: {listed(wrong)}")
    return dict(state)


def _full_name(entry: Any) -> str:
    return entry[1] if isinstance(entry, tuple) else f"{entry.__module__}.{entry.__qualname__}"


def _check_is_zip(path: Path) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if zipfile.is_zipfile(path):
        return
    with path.open("rb") as file:
        begins_as_zip = file.read(4) == b"PK\x03\x04"
    size = path.stat().st_size
    if begins_as_zip:
        raise CheckpointError(f"{path}: truncated, it ends after {size} bytes without its directory; download it again")
    raise CheckpointError(f"{path}: not a PyTorch checkpoint (no zip file, {size} bytes)")


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

    Raises CheckpointError unless every tensor that the preset's networks have is found once, with its shape, and every
    key of the files is either taken or on the list of dropped keys.
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
    for key in list(found):
        reason = None if key in expected else drop_reason(key, preset)
        if reason is not None:
            dropped[key] = reason
            del found[key]
    source = str(checkpoint) if tokenizer is None else f"{checkpoint} with {tokenizer}"
    check_tensors(expected, found, f"{source} does not fit preset {preset.name}")
    return ReleasedState({key: found[key] for key in expected}, dropped)


def drop_reason(key: str, preset: Preset) -> str | None:
    """Why a released key is left out, or None if no rule names it."""
    for rule in DROPPED_KEYS:
        if re.fullmatch(rule.pattern.replace("{last}", str(preset.compressor.depth - 1)), key):
            return rule.reason
    return None


def check_weights(path: Path | None, sha256: str | None, role: str) -> None:
    """Raise CheckpointError if the file of an autoencoder's weights is gone, or not the one that a run was made with.

    Nothing is checked without a file (the autoencoder has none) or without a recorded digest.
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
