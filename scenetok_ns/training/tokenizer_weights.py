"""The frozen tokenizer that a scene generator is trained on: from a run, a released checkpoint or the package."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from scenetok_ns.bridge.run_configs import read_run
from scenetok_ns.models.presets import Preset
from scenetok_ns.models.released_checkpoints import TOKENIZER_PREFIXES, drop_reason, read_lightning
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.models.weight_files import CheckpointError, check_tensors, embedded_weights, from_eight_bits
from scenetok_ns.training.checkpoints import averaged_weights, checkpoint_path, model_state, read_checkpoint


def load_tokenizer(model: SceneTok, source: Path | None) -> Path:
    """Load compressor and denoiser of `model`, strictly; returns the file they are from.

    Args:
        source: a run folder (its latest checkpoint), a checkpoint of a run, a released checkpoint, or a safetensors
            file of embedded weights; None: the embedded weights of the preset's tokenizer.

    Raises CheckpointError if there is none, or it does not fit.
    """
    preset = model.preset
    file = _file_of(source, preset)
    expected = {key: value for key, value in model.state_dict().items() if key.startswith(TOKENIZER_PREFIXES)}
    read = _read(file, preset, expected)
    found = {key: value for key, value in read.items() if key.startswith(TOKENIZER_PREFIXES)}
    check_tensors(expected, found, f"{file} does not fit the tokenizer of preset {preset.name}")
    for prefix in TOKENIZER_PREFIXES:
        part = {key.removeprefix(prefix): value for key, value in found.items() if key.startswith(prefix)}
        model.get_submodule(prefix.rstrip(".")).load_state_dict(part)
    return file


def _file_of(source: Path | None, preset: Preset) -> Path:
    if source is None:
        if preset.embedded_weights is None:
            raise CheckpointError(
                f"preset {preset.name} is trained on a frozen tokenizer (preset {preset.tokenizer_preset}) whose "
                "weights do not come with this package: give --pipeline.model.tokenizer, a run folder or a checkpoint"
                + (f" ({preset.tokenizer_checkpoint})" if preset.tokenizer_checkpoint else "")
            )
        return embedded_weights(preset.embedded_weights)
    if source.is_dir() or source.suffix == ".yml":
        return checkpoint_path(read_run(source).get_checkpoint_dir())
    return source


def _read(file: Path, preset: Preset, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        try:
            return from_eight_bits(load_file(file))
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{file}: not a readable weights file ({error})") from error
    if re.fullmatch(r"step-\d+\.ckpt", file.name):
        state = averaged_weights(model_state(read_checkpoint(file)["pipeline"]))
        return {key.removeprefix("scenetok."): value for key, value in state.items() if isinstance(value, Tensor)}
    state = read_lightning(file)
    return {key: value for key, value in state.items() if key in expected or drop_reason(key, preset) is None}
