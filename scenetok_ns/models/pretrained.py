"""Load trained models from any source: a preset of the package, a run folder, a released checkpoint, a weights file."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from scenetok_ns.models.presets import Preset, load_preset, preset_names
from scenetok_ns.models.released_checkpoints import (
    check_weights,
    expected_tensors,
    guess_preset,
    released_state,
    used_tensors,
)
from scenetok_ns.models.released_files import Role, files_of, find_released
from scenetok_ns.models.run_checkpoints import model_state, read_checkpoint
from scenetok_ns.models.run_folders import AutoencoderWeights, RunFolder
from scenetok_ns.models.weight_files import CheckpointError, check_finite, embedded_weights
from scenetok_ns.models.weight_sources import check_no_tokens, read_networks
from scenetok_ns.tools.run_files import CONFIG
from scenetok_ns.tools.suggestions import did_you_mean_path

logger = logging.getLogger(__name__)

STEP = re.compile(r"step-\d+\.ckpt")
"""Name of a checkpoint of a training run."""


@dataclass(frozen=True)
class GivenFiles:
    """Files that the user gives. A file that is None is searched for."""

    context_weights: Path | None = None
    target_weights: Path | None = None
    tokenizer: Path | None = None


@dataclass(frozen=True)
class Pretrained:
    """A trained model, read but not built."""

    preset: Preset
    tensors: Mapping[str, Tensor]
    """State of the networks, under the keys of the released checkpoints."""
    context_weights: Path | None
    target_weights: Path | None
    depth_weights: Path | None = None
    """Depth head that a run names."""
    student_weights: Path | None = None
    """Few-step student that a run names."""


def read_pretrained(source: str | Path, preset: str | None, given: GivenFiles) -> Pretrained:
    """Read a trained model; see `SceneTok.from_pretrained` for arguments and errors."""
    path = Path(source)
    if path.suffix == ".yaml" or (not path.exists() and str(source) in preset_names()):
        return _of_preset(str(source), preset, given)
    if path.is_dir() or (path.suffix == ".yml" and path.is_file()):
        return _of_run(path, preset, given)
    if not path.is_file():
        if path.suffix in (".ckpt", ".pt", ".pth", ".safetensors", ".yml"):
            raise FileNotFoundError(f"from_pretrained: there is no file {source}{did_you_mean_path(path)}")
        raise FileNotFoundError(
            f"no trained model {source}{did_you_mean_path(path, preset_names())}: expected a run folder, a checkpoint, "
            f"or a preset ({', '.join(preset_names())})"
        )
    if STEP.fullmatch(path.name):
        return _of_run_checkpoint(path, preset, given)
    if path.suffix == ".safetensors":
        check_no_tokens(path)
        if preset is None:
            raise ValueError(f"{path} does not name its preset: give preset=, such as preset='scenetok-tiny'")
        return _of_networks(load_preset(preset), [path], given)
    return _of_released(path, preset, given)


def _of_preset(name: str, preset: str | None, given: GivenFiles) -> Pretrained:
    if preset not in (None, name):
        raise ValueError(f"from_pretrained: {name} is a preset, but preset={preset!r} names another one")
    found = load_preset(name)
    if found.is_embedded:
        names = (found.embedded_weights, found.embedded_generator)
        return _of_networks(found, [embedded_weights(name) for name in names if name is not None], given)
    if found.checkpoint is None:
        found.check_embedded()
    assert found.checkpoint is not None
    file = find_released(found.checkpoint, [])
    if file is None:
        raise CheckpointError(
            f"the weights of preset {name} were not found: run `scenetok download {name}`, or give the path of "
            f"{found.checkpoint}"
        )
    return _of_released(file, name, given)


def _of_run(run: Path, preset: str | None, given: GivenFiles) -> Pretrained:
    folder = RunFolder.read(run)
    if folder.has_adapters:
        logger.warning(
            "%s refined one scene with adapters of the denoiser, which are left out here: render that scene with "
            "`scenetok render --run %s`",
            run,
            run,
        )
    for role, recorded, own in (
        ("context", folder.context, given.context_weights),
        ("target", folder.target, given.target_weights),
    ):
        if own is None:
            check_weights(recorded.path, recorded.sha256, role)
    files = GivenFiles(
        given.context_weights or folder.context.path, given.target_weights or folder.target.path, given.tokenizer
    )
    found = _of_networks(load_preset(preset or folder.preset), [folder.checkpoint], files)
    return replace(found, depth_weights=folder.depth_weights, student_weights=folder.student_weights)


def _of_run_checkpoint(file: Path, preset: str | None, given: GivenFiles) -> Pretrained:
    """Read a checkpoint of a run by its path. The run's config.yml, if there is one, names the autoencoders' files."""
    config = file.absolute().parent.parent / CONFIG
    recorded = preset
    context = target = AutoencoderWeights()
    if config.is_file():
        folder = RunFolder.read(config)
        recorded, context, target = preset or folder.preset, folder.context, folder.target
    if recorded is None:
        recorded = _preset_in(file)
    files = GivenFiles(given.context_weights or context.path, given.target_weights or target.path, given.tokenizer)
    return _of_networks(load_preset(recorded), [file], files)


def _preset_in(file: Path) -> str:
    """Name of the preset that a checkpoint records. Raises ValueError if it records none that is in this package."""
    extra = model_state(read_checkpoint(file)["pipeline"]).get("_extra_state")
    name = extra.get("preset") if isinstance(extra, dict) else None
    if name not in preset_names():
        problem = f"is of preset {name}, which is not in this package" if name else "does not name its preset"
        raise ValueError(f"{file} {problem}: give preset=")
    return str(name)


def _of_released(file: Path, preset: str | None, given: GivenFiles) -> Pretrained:
    if preset is None:
        published = {load_preset(name).checkpoint: name for name in preset_names()}
        preset = published.get(file.name) or guess_preset(file)[0]
    found = load_preset(preset)
    tokenizer = given.tokenizer
    if tokenizer is None and found.tokenizer_checkpoint is not None:
        tokenizer = find_released(found.tokenizer_checkpoint, [file.absolute().parent])
    return _complete(found, released_state(found, file, tokenizer).tensors, given, [file.absolute().parent], str(file))


def _of_networks(preset: Preset, files: list[Path], given: GivenFiles) -> Pretrained:
    """Read files in our own format: checkpoints of runs, or weights in the package."""
    where = " and ".join(map(str, files))
    if given.tokenizer is not None:
        raise ValueError(f"{where} holds the whole model: leave out the tokenizer {given.tokenizer}")
    found = {key: value for file in files for key, value in read_networks(file).items()}
    taken, _ = used_tensors(expected_tensors(preset), found, preset, f"{where} does not fit preset {preset.name}")
    return _complete(preset, taken, given, [], where)


def _complete(
    preset: Preset, tensors: Mapping[str, Tensor], given: GivenFiles, folders: list[Path], where: str
) -> Pretrained:
    """Add the autoencoders' files: the given ones, else those with the published names in `folders` or the cache."""
    check_finite(tensors, f"{where} is damaged")
    released = files_of(preset)

    def weights(role: Role, own: Path | None) -> Path | None:
        if own is not None or role not in released:
            return own
        if (file := find_released(released[role].name, folders)) is None:
            raise CheckpointError(
                f"preset {preset.name} needs {released[role].name}: give {role}_weights=, or use `scenetok download "
                f"{preset.name}`"
            )
        return file

    return Pretrained(
        preset, tensors, weights("context", given.context_weights), weights("target", given.target_weights)
    )
