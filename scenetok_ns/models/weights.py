"""Embedded weights: several modules in one safetensors file, in half precision."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from scenetok_ns.atomic_files import write_atomically
from scenetok_ns.models.state_check import check_tensors


def save_weights(modules: Mapping[str, nn.Module], path: Path) -> None:
    """Write the state of `modules` as float16 under `name.key`; atomic."""
    state = {
        f"{name}.{key}": (value.half() if value.is_floating_point() else value).cpu().contiguous().clone()
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }
    write_atomically(path, save(state))


def load_weights(modules: Mapping[str, nn.Module], path: Path) -> None:
    """Load each of `modules` strictly from its part of the file; parts that nobody asks for are left alone.

    Raises ValueError naming the file and what is missing or left over.
    """
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: not a readable weights file ({error})") from error
    for name, module in modules.items():
        prefix = name + "."
        part = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
        part = {key: value.float() if value.is_floating_point() else value for key, value in part.items()}
        check_tensors(module.state_dict(), part, f"{path}: the weights do not fit {name}")
        module.load_state_dict(part)


def embedded_weights(name: str) -> Path:
    """Path of weights that come with the package."""
    return Path(__file__).resolve().parents[1] / "weights" / f"{name}.safetensors"
