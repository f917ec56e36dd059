"""Embedded weights: several modules in one safetensors file, in half precision or with matrices in eight bits."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from scenetok_ns.models.errors import CheckpointError
from scenetok_ns.models.ops.finite import is_finite
from scenetok_ns.tools.atomic_files import write_atomically

EIGHT_BIT_SCALE = ".eight_bit_scale"
"""Suffix of the name of a matrix's scales, one for each of its rows (output channels)."""
SMALLEST_EIGHT_BIT = 1 << 14
"""Minimum number of elements of a tensor that is stored in eight bits. Smaller tensors stay in half precision."""


def save_weights(
    modules: Mapping[str, nn.Module],
    path: Path,
    metadata: dict[str, str] | None = None,
    eight_bits: Collection[str] = (),
) -> None:
    """Save modules to a safetensors file in float16, atomically.

    Args:
        modules: Name -> module. The tensors are named `name.key`.
        path: File to write.
        metadata: Strings for the header.
        eight_bits: Names of modules whose large matrices are stored as int8, with a scale for each row.
    """
    state: dict[str, Tensor] = {}
    for name, module in modules.items():
        for key, value in module.state_dict().items():
            value = value.detach().cpu()
            large = value.is_floating_point() and value.ndim > 1 and value.numel() >= SMALLEST_EIGHT_BIT
            if name in eight_bits and large:
                state[f"{name}.{key}"], state[f"{name}.{key}{EIGHT_BIT_SCALE}"] = to_eight_bits(value)
            else:
                state[f"{name}.{key}"] = (value.half() if value.is_floating_point() else value).contiguous().clone()
    write_atomically(path, save(state, metadata))


def to_eight_bits(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise a matrix to int8 numbers from -127 to 127 and a float32 scale per row: row = numbers * scale."""
    rows = matrix.float().flatten(1)
    scale = rows.abs().amax(dim=1).clamp(min=1e-12) / 127
    return (rows / scale[:, None]).round().to(torch.int8).view(matrix.shape).contiguous(), scale


def from_eight_bits(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo `to_eight_bits`: replace each quantised matrix of a state, and its scales, by the float32 matrix."""
    whole = {key: value for key, value in state.items() if not key.endswith(EIGHT_BIT_SCALE)}
    for key, scale in state.items():
        if key.endswith(EIGHT_BIT_SCALE):
            name = key.removesuffix(EIGHT_BIT_SCALE)
            numbers = whole[name].float()
            whole[name] = numbers * scale.view(-1, *[1] * (numbers.ndim - 1))
    return whole


def header_of(path: Path) -> dict[str, str]:
    """Return the header strings of a readable file (`metadata` of `save_weights`)."""
    with safe_open(path, framework="pt", device="cpu") as file:
        return file.metadata() or {}


def load_weights(modules: Mapping[str, nn.Module], path: Path) -> None:
    """Load each module strictly from its part of a file of `save_weights`. Other parts of the file are ignored.

    Raises ValueError, which names the file and the tensors that are missing or surplus.
    """
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: not a readable weights file ({error})") from error
    for name, module in modules.items():
        prefix = name + "."
        part = from_eight_bits({key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)})
        part = {key: value.float() if value.is_floating_point() else value for key, value in part.items()}
        check_tensors(module.state_dict(), part, f"{path}: the weights do not fit {name}")
        check_finite(part, f"{path}: damaged weights")
        module.load_state_dict(part)


def embedded_weights(name: str) -> Path:
    """Path of weights that come with the package."""
    return Path(__file__).resolve().parents[1] / "weights" / f"{name}.safetensors"


def check_tensors(expected: Mapping[str, Any], found: Mapping[str, Any], context: str) -> None:
    """Raise CheckpointError unless two states have the same keys, and tensors of the same shape, layout and kind.

    Args:
        expected: State dict of the module that loads the other state. Values that are not tensors are compared by key.
        found: The state to load.
        context: Text with which the message begins. It lists all missing, surplus and misshapen tensors in one line.
    """
    problems = []
    if missing := [key for key in expected if key not in found]:
        problems.append(f"{len(missing)} missing: {listed(missing)}")
    if surplus := [key for key in found if key not in expected]:
        problems.append(f"{len(surplus)} surplus: {listed(surplus)}")
    both = [key for key, value in expected.items() if isinstance(value, Tensor) and key in found]
    if others := [key for key in both if not isinstance(found[key], Tensor)]:
        problems.append(f"{len(others)} not tensors: {listed(others)}")
        both = [key for key in both if key not in others]
    if shapes := [
        f"{key} {list(found[key].shape)} instead of {list(expected[key].shape)}"
        for key in both
        if found[key].shape != expected[key].shape
    ]:
        problems.append(f"{len(shapes)} of another shape: {listed(shapes)}")
    # A square matrix that was transposed keeps its shape; torch.save keeps its strides.
    if strides := [key for key in both if expected[key].is_contiguous() and not found[key].is_contiguous()]:
        problems.append(f"{len(strides)} not stored row by row (transposed?): {listed(strides)}")
    if kinds := [key for key in both if found[key].is_floating_point() != expected[key].is_floating_point()]:
        problems.append(f"{len(kinds)} of another kind of number: {listed(kinds)}")
    if problems:
        raise CheckpointError(f"{context}: " + "; ".join(problems))


def check_finite(state: Mapping[str, Any], context: str) -> None:
    """Raise CheckpointError if a tensor of a state holds NaN or infinite numbers, which would make pictures black.

    Reads every number once, tensor after tensor. The message begins with `context` and names the tensors.
    """
    wrong = [key for key, value in state.items() if isinstance(value, Tensor) and not is_finite(value)]
    if wrong:
        raise CheckpointError(f"{context}: {len(wrong)} tensors hold numbers that are not finite: {listed(wrong)}")


def listed(names: Iterable[str], limit: int = 5) -> str:
    """Text with the first `limit` names and the number of further ones."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
