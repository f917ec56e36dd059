"""Read the published weight files of autoencoders safely, and load them strictly. Errors name the file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from scenetok_ns.tools.json_files import JsonError, read_json

Network = TypeVar("Network", bound=nn.Module)

TELLTALE_KEYS: dict[str, str] = {
    "encoder.down.0.block.0.conv1.weight": "VA-VAE (vavae-imagenet256-f16d32-dinov2.pt)",
    "encoder.stages.0.op_list.0.main.conv1.conv.weight": "Video DC-AE (F32T4C128_AE.safetensors)",
    "encoder.downsamples.0.downsamples.0.residual.2.weight": "Wan 2.2 VAE (Wan2.2_VAE.pth)",
    "encoder.downsamples.0.residual.2.weight": "Wan 2.1 VAE",
    "encoder.down_blocks.0.resnets.0.norm1.weight": "an AutoencoderKL in diffusers' format",
    "encoder.down_blocks.0.resnets.0.norm1.gamma": "an AutoencoderKLWan in diffusers' format",
    "compressor.scene_tokens": "a SceneTok checkpoint",
    "denoiser.x_embedder.proj.weight": "a SceneTok checkpoint",
}
"""Keys that only one kind of file has -> the kind of file."""

DIFFUSERS_WEIGHTS = "diffusion_pytorch_model.safetensors"


def instantiate_on_meta(make: Callable[[], Network]) -> Network:
    """Build a network without memory for its weights. `load_strict` then sets its tensors to those of the file."""
    with torch.device("meta"):
        return make()


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a .safetensors file or a torch file (also nested under `state_dict`), memory-mapped.

    Raises ValueError, which names the path, for a file that is missing, truncated or of another kind. Never runs code
    from the file.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"autoencoder weights {path} do not exist")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # damaged bytes can raise anything
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"autoencoder weights {path} cannot be read ({reason}); the file is damaged, truncated or of another "
            "kind: download it again and compare its size"
        ) from error
    state = state.get("state_dict", state) if isinstance(state, Mapping) else state
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"autoencoder weights {path}: expected a mapping from names to tensors")
    return dict(state)


def diffusers_file(folder: Path) -> Path:
    """Path of the weight file of a model saved by diffusers, or of the `vae` part of a saved pipeline."""
    return (folder / "vae" if (folder / "vae").is_dir() else folder) / DIFFUSERS_WEIGHTS


def read_diffusers_folder(folder: Path, class_name: str) -> tuple[dict[str, Tensor], Path]:
    """Read the state of a model saved by diffusers. Also returns its weight file.

    Raises ValueError if the model is of another class.
    """
    file = diffusers_file(folder)
    config = file.with_name("config.json")
    if not config.is_file():
        raise ValueError(f"{file.parent} is not a model folder in diffusers' format: it has no config.json")
    found = _read_json(config).get("_class_name")
    if found != class_name:
        raise ValueError(f"{file.parent} holds {found}, expected {class_name}")
    return read_state(file), file


def load_strict(
    network: nn.Module,
    state: Mapping[str, Tensor],
    *,
    what: str,
    path: Path | str,
    file_key: Callable[[str], str] = lambda key: key,
    dropped: Mapping[str, str] | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> None:
    """Replace the network's tensors by those of `state`.

    Tensors with trailing axes of length 1 that the network's tensors lack are squeezed (1x1 convolutions that the
    network holds as linear layers).

    Args:
        network: The network.
        state: Tensors of the file.
        what: Name of the expected weights, for messages.
        path: Path of the file, for messages.
        file_key: Function from a key of the network to its name in the file.
        dropped: Prefix of names that are left out on purpose -> reason.
        device: Device of the network's new tensors.
        dtype: Dtype of the network's new tensors.

    Raises:
        ValueError: A tensor is missing, left over or has another shape.
    """
    own = network.state_dict()
    wanted = {file_key(key): key for key in own}
    missing = sorted(set(wanted) - set(state))
    left_over = sorted(k for k in set(state) - set(wanted) if not any(k.startswith(prefix) for prefix in dropped or ()))
    if missing or left_over:
        raise ValueError(f"{path} is not {what}: {_difference(missing, left_over)}{_guess(state)}")
    tensors = {}
    for name, key in wanted.items():
        tensor, shape = state[name], own[key].shape
        while tensor.ndim > len(shape) and tensor.shape[-1] == 1:
            tensor = tensor.squeeze(-1)
        if tensor.shape != shape:
            raise ValueError(
                f"{path} is not {what}: {name} has shape {list(state[name].shape)}, expected {list(shape)}"
            )
        tensors[key] = tensor.to(device, dtype, copy=True)
    network.load_state_dict(tensors, strict=True, assign=True)


def _difference(missing: list[str], left_over: list[str]) -> str:
    parts = [
        f"{len(keys)} tensors {verb} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for keys, verb in ((missing, "are missing"), (left_over, "are not known"))
        if keys
    ]
    return " and ".join(parts)


def _guess(state: Iterable[str]) -> str:
    kinds = sorted({kind for key, kind in TELLTALE_KEYS.items() if key in state})
    return f"; it looks like {' or '.join(kinds)}" if kinds else ""


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except JsonError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
