"""Read what the networks of a run need: preset, checkpoint and autoencoder files. Works without Nerfstudio.

`bridge/run_configs.py` reads the whole configuration into Nerfstudio's classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scenetok_ns.models.presets import load_preset, preset_names
from scenetok_ns.models.run_checkpoints import checkpoint_path
from scenetok_ns.tools.plain_config import read_values
from scenetok_ns.tools.run_files import CHECKPOINTS, CONFIG, checkpoint_folder
from scenetok_ns.tools.suggestions import did_you_mean_path


@dataclass(frozen=True)
class AutoencoderWeights:
    """Weight file of an autoencoder."""

    path: Path | None = None
    """None: the autoencoder has no file of its own."""
    sha256: str | None = None
    """SHA-256 that the file must have; None: not checked."""


@dataclass(frozen=True)
class RunFolder:
    """Facts about the model of a run."""

    preset: str
    """Name of the preset, or the path of a preset file."""
    context: AutoencoderWeights
    target: AutoencoderWeights
    checkpoint: Path
    """The latest checkpoint."""
    depth_weights: Path | None = None
    """Weight file of a depth head."""
    student_weights: Path | None = None
    """Weight file of a few-step student."""
    has_adapters: bool = False
    """Whether the run has adapters beside the networks, as those of scenetok-refine may have."""

    @staticmethod
    def read(run: Path) -> RunFolder:
        """Read a run folder, or the run of a config.yml.

        Raises:
            FileNotFoundError: There is no config.yml, or no checkpoint.
            ValueError: The file is damaged, or not the configuration of a scenetok run. The message is one line.
        """
        config = config_file(run)
        values = read_values(config)
        pipeline = values.get("pipeline")
        model = pipeline.get("model") if isinstance(pipeline, dict) else None
        if not isinstance(model, dict) or not isinstance(model.get("preset"), str):
            method = values.get("method_name")
            raise ValueError(f"{config} does not hold the configuration of a scenetok run (its method is {method})")
        relative = values.get("relative_model_dir")
        relative = relative if isinstance(relative, Path) else Path(CHECKPOINTS)
        folder = checkpoint_folder(config, relative, _named_folder(values, config) / relative)
        return RunFolder(
            preset=model["preset"],
            context=_weights(model, "context"),
            target=_weights(model, "target"),
            checkpoint=checkpoint_path(folder),
            depth_weights=depth if isinstance(depth := model.get("depth_weights"), Path) else None,
            student_weights=student if isinstance(student := model.get("student_weights"), Path) else None,
            has_adapters=bool(model.get("adapter_rank")),
        )


def config_file(run: Path) -> Path:
    """Find the config.yml of a run.

    Args:
        run: The run folder, or the config.yml in it.

    Raises:
        FileNotFoundError: There is no such folder or file, or the folder has no config.yml. The message names similar
            folders and presets.
    """
    if run.is_dir():
        if (run / CONFIG).is_file():
            return run / CONFIG
        inside = next(iter(sorted(run.glob(f"*/{CONFIG}"))), None)
        meant = "" if inside is None else f"; a run inside it is {inside.parent}"
        raise FileNotFoundError(f"{run} is not a run folder: it has no {CONFIG}{meant}")
    if not run.is_file():
        bundled = [name for name in preset_names() if load_preset(name).is_embedded]
        raise FileNotFoundError(
            f"there is no run {run}{did_you_mean_path(run, preset_names())}: expected a run folder, its {CONFIG}, or a "
            f"preset with bundled weights ({', '.join(bundled)})"
        )
    return run


def _named_folder(values: dict[str, Any], config: Path) -> Path:
    """The run folder that a configuration names."""
    if isinstance(folder := values.get("run_folder"), Path):
        return folder
    output, names = values.get("output_dir"), ("experiment_name", "method_name", "timestamp")
    if not isinstance(output, Path):
        return config.parent
    return output.joinpath(*(str(values.get(name)) for name in names))


def _weights(model: dict[str, Any], role: str) -> AutoencoderWeights:
    path, sha256 = model.get(f"{role}_weights"), model.get(f"{role}_weights_sha256")
    return AutoencoderWeights(
        path if isinstance(path, Path) else None, sha256 if isinstance(sha256, str) and path is not None else None
    )
