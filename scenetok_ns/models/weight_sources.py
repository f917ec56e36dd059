"""Load networks from any source: a run folder, a checkpoint of a run, a released file, a safetensors file."""

from __future__ import annotations

import re
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from scenetok_ns.models.lightning_files import read_lightning
from scenetok_ns.models.run_checkpoints import averaged_weights, model_state, read_checkpoint
from scenetok_ns.models.run_folders import RunFolder
from scenetok_ns.models.tokens import is_token_file
from scenetok_ns.models.weight_files import CheckpointError, from_eight_bits

NETWORKS = ("compressor.", "denoiser.", "scene_generator.")
"""Prefixes of the networks' keys."""


def weights_file_of(source: Path) -> Path:
    """Path of the file that holds the weights; for a run folder (or its config.yml), the latest checkpoint."""
    if source.is_dir() or source.suffix == ".yml":
        return RunFolder.read(source).checkpoint
    return source


def check_no_tokens(file: Path) -> None:
    """Raise CheckpointError for a token file, which holds a scene and no networks."""
    if is_token_file(file):
        raise CheckpointError(
            f"expected weights of networks, got the token file {file}: read it with SceneTokens.load, and give a "
            "preset, run folder or checkpoint for the model"
        )


def read_networks(file: Path) -> dict[str, Tensor]:
    """Read all tensors of the networks from a file, by the keys of the released checkpoints.

    EMA weights replace the trained ones if the file has them. Raises CheckpointError or OSError, in one line, for a
    file that cannot be read.
    """
    if file.suffix == ".safetensors":
        check_no_tokens(file)
        try:
            state = from_eight_bits(load_file(file))
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{file}: not a readable weights file ({error})") from error
    elif re.fullmatch(r"step-\d+\.ckpt", file.name):
        saved = averaged_weights(model_state(read_checkpoint(file)["pipeline"]))
        state = {key.removeprefix("scenetok."): value for key, value in saved.items() if isinstance(value, Tensor)}
    else:
        state = read_lightning(file)
    return {key: value for key, value in state.items() if key.startswith(NETWORKS)}
