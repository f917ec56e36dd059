"""Run folders that our commands write, and that Nerfstudio's tools open like those of ns-train."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, fields
from pathlib import Path

from nerfstudio.engine.trainer import TrainerConfig

from scenetok_ns.bridge.run_configs import OwnCheckpoints, read_run, run_checkpoints
from scenetok_ns.models.presets import Preset, load_preset, preset_names
from scenetok_ns.models.run_checkpoints import check_checkpoint, checkpoint_path, read_checkpoint
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.plugin.methods import method_config
from scenetok_ns.plugin.pipeline import SceneTokPipeline, SceneTokPipelineConfig
from scenetok_ns.tools.devices import chosen_device
from scenetok_ns.tools.run_files import (
    CHECKPOINTS,
    FIRST_CHECKPOINT,
    link_checkpoints,
    run_state,
    save_tensors,
    write_run_folder,
)


@dataclass
class RunFolderConfig(OwnCheckpoints, TrainerConfig):
    """Configuration of a run in a folder of any name; runs of ns-train are in output_dir/experiment/method/timestamp.

    Nerfstudio's tools look for checkpoints where the configuration says: `run_folder`, or beside config.yml where the
    folder was copied or moved.
    """

    pipeline: SceneTokPipelineConfig = field(default_factory=SceneTokPipelineConfig)
    run_folder: Path | None = None

    def get_base_dir(self) -> Path:
        return super().get_base_dir() if self.run_folder is None else self.run_folder


def run_config(method: TrainerConfig, folder: Path) -> RunFolderConfig:
    """Copy the configuration of a method, or of another run, for a run in `folder`."""
    values = {entry.name: deepcopy(getattr(method, entry.name)) for entry in fields(TrainerConfig)}
    folder = folder.absolute()
    values.update(output_dir=folder.parent, experiment_name=folder.name, timestamp="imported")
    values.update(relative_model_dir=Path(CHECKPOINTS), load_dir=None, load_checkpoint=None, load_config=None)
    return RunFolderConfig(**values, run_folder=folder)


@dataclass(frozen=True)
class DerivedRun:
    """A variant of a run in a folder of its own, not written yet. Commands change `config`, then load or write it."""

    config: RunFolderConfig
    checkpoints: Path | None
    """Folder of the original run's checkpoints; None: the weights that come with the package."""

    def load(self, device: str | None = None) -> SceneTokPipeline:
        """Load the run with its latest checkpoint, for inference.

        Args:
            device: Name of the device. None: the GPU, or the CPU without one.

        Raises:
            UsageError: This machine does not have the device.
        """
        chosen = chosen_device(device)
        pipeline = self.config.pipeline.setup(device=chosen, test_mode="inference").eval()
        if self.checkpoints is not None:
            state = read_checkpoint(checkpoint_path(self.checkpoints))
            pipeline.load_pipeline(state["pipeline"], state["step"])
        return pipeline

    def write(self, fill: Callable[[Path], None] = lambda folder: None) -> None:
        """Write the run folder, whole or not at all. `fill` puts more files into the unfinished folder.

        Checkpoints are links to those of the original run, or the weights of the package.

        Raises:
            FileExistsError: The folder exists and is not empty.
            FileNotFoundError: The original run has no checkpoint.
        """

        def write_checkpoints(target: Path) -> None:
            if self.checkpoints is None:
                self._save_embedded(target)
            else:
                check_checkpoint(checkpoint_path(self.checkpoints))
                link_checkpoints(self.checkpoints, target)
            fill(target.parent)

        write_run_folder(self.config.get_base_dir(), write_checkpoints, lambda: self.config)

    def _save_embedded(self, target: Path) -> None:
        model = SceneTok(load_preset(self.config.pipeline.model.preset))
        model.load_embedded()
        save_tensors(target / FIRST_CHECKPOINT, run_state(model.state_dict(), model.preset.name))


def derive_run(run: Path, folder: Path) -> DerivedRun:
    """Derive a variant of `run`, to be kept in `folder`.

    Args:
        run: Run folder, or its config.yml, or the name of a preset whose weights come with the package. Its checkpoints
            are those beside config.yml, else those that the configuration names (`run_checkpoints`).
        folder: Folder of the variant; nothing is written to it yet.

    Raises:
        FileNotFoundError: There is no such run.
        ValueError: It is not a run of a scenetok method, or the preset has no weights in the package.
    """
    if not run.exists() and str(run) in preset_names():
        return DerivedRun(_embedded_config(load_preset(str(run)), folder), None)
    source = read_run(run)
    if not isinstance(source.pipeline, SceneTokPipelineConfig):
        raise ValueError(f"{run} is a run of {source.method_name}, not of a scenetok method")
    return DerivedRun(run_config(source, folder), run_checkpoints(run, source))


def _embedded_config(preset: Preset, folder: Path) -> RunFolderConfig:
    preset.check_embedded()
    config = run_config(method_config(preset.method), folder)
    config.pipeline.model.preset = preset.name
    return config
