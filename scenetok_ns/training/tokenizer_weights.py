"""The frozen tokenizer that a scene generator is trained on: from a run, a released checkpoint or the package."""

from __future__ import annotations

from pathlib import Path

from scenetok_ns.models.presets import Preset
from scenetok_ns.models.released_checkpoints import TOKENIZER_PREFIXES, used_tensors
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.models.weight_files import CheckpointError, check_finite, embedded_weights
from scenetok_ns.models.weight_sources import read_networks, weights_file_of


def load_tokenizer(model: SceneTok, source: Path | None) -> Path:
    """Load compressor and denoiser of `model`, strictly.

    Args:
        model: Model that gets the weights.
        source: Run folder (its latest checkpoint), checkpoint of a run, released checkpoint, or safetensors file of
            embedded weights; None: the embedded weights of the preset's tokenizer.

    Returns:
        The file that the weights are from.

    Raises:
        CheckpointError: There is no such file, or it does not fit the preset.
    """
    preset = model.preset
    file = _file_of(source, preset)
    expected = {key: value for key, value in model.state_dict().items() if key.startswith(TOKENIZER_PREFIXES)}
    read = {key: value for key, value in read_networks(file).items() if key.startswith(TOKENIZER_PREFIXES)}
    found, _ = used_tensors(expected, read, preset, f"{file} does not fit the tokenizer of preset {preset.name}")
    check_finite(found, f"{file} is damaged")
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
    return weights_file_of(source)
