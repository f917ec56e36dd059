"""Start training from all weights of another model that fit, as the published recipes do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.models.weight_files import CheckpointError, listed
from scenetok_ns.models.weight_sources import read_networks, weights_file_of

SCENE_TOKENS = "compressor.scene_tokens"
"""The learned start of the scene tokens, [1, tokens, width]: a model with more tokens takes those of one with fewer."""


@dataclass
class InitialWeights:
    """Which weights of a model come from a file."""

    file: Path
    taken: list[str] = field(default_factory=list)
    sliced: dict[str, str] = field(default_factory=dict)
    """Key -> the part of the tensor that is used."""
    left: dict[str, str] = field(default_factory=dict)
    """Key of the model that stays as it was -> why."""
    unused: list[str] = field(default_factory=list)
    """Keys of the file that the model does not have."""

    def lines(self) -> list[str]:
        """Describe what was loaded, for the terminal."""
        found = [f"Initial weights: {len(self.taken)} tensors of {self.file}"]
        found += [f"  {key}: {part}" for key, part in self.sliced.items()]
        for why in dict.fromkeys(self.left.values()):
            found.append(f"  not from the file, {why}: {listed(k for k, w in self.left.items() if w == why)}")
        if self.unused:
            found.append(f"  unused: {listed(self.unused)}")
        return found


@torch.no_grad()
def load_initial_weights(model: SceneTok, source: Path) -> InitialWeights:
    """Load all tensors that fit into the networks of `model`, and report which were loaded, sliced and left.

    Tensors are matched by key and shape. Scene tokens of a model with fewer of them go to the first ones. Everything
    else keeps the values that it has.

    Args:
        model: Its networks are changed in place.
        source: Run folder, checkpoint of a run, released checkpoint, or safetensors file.

    Raises:
        CheckpointError: The file cannot be read, or nothing in it fits.
    """
    file = weights_file_of(source)
    found, own = read_networks(file), model.state_dict()
    report = InitialWeights(file, unused=[key for key in found if key not in own])
    for key, value in own.items():
        if key not in found:
            report.left[key] = "where it has none"
        elif found[key].shape == value.shape:
            value.copy_(found[key])
            report.taken.append(key)
        elif key == SCENE_TOKENS and _is_part(found[key], value):
            count = found[key].shape[1]
            value[:, :count].copy_(found[key])
            report.sliced[key] = f"the first {count} of {value.shape[1]} scene tokens"
        else:
            report.left[key] = "where its shape is another"
    if not report.taken:
        raise CheckpointError(
            f"{file} has nothing that fits preset {model.preset.name}: it holds {len(found)} tensors of networks"
        )
    return report


def _is_part(smaller: Tensor, larger: Tensor) -> bool:
    """Whether a model's scene tokens are like another's, but fewer."""
    return (
        smaller.ndim == larger.ndim == 3
        and smaller.shape[0] == larger.shape[0]
        and smaller.shape[1] < larger.shape[1]
        and smaller.shape[2] == larger.shape[2]
    )
