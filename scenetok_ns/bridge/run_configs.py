"""Read the configuration of a run folder safely, and find the checkpoints that belong to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nerfstudio.engine.trainer import TrainerConfig

from scenetok_ns.bridge.tool_compat import opened_config
from scenetok_ns.models.run_folders import config_file
from scenetok_ns.tools.run_files import checkpoint_folder
from scenetok_ns.tools.safe_config import read_config


def read_run(run: Path) -> TrainerConfig:
    """Read the configuration of a run without running code that the file may name.

    Args:
        run: The run folder, or the config.yml in it.

    Raises:
        FileNotFoundError: There is no such run (`models.run_folders.config_file`).
        ValueError: The file is not the configuration of a scenetok run.
    """
    path = config_file(run)
    config = read_config(path)
    if not isinstance(config, TrainerConfig):
        raise ValueError(f"{path} does not hold the configuration of a run")
    return config


def run_checkpoints(run: Path, config: TrainerConfig) -> Path:
    """Find the folder of a run's checkpoints. A copied or moved run uses the checkpoints beside its config.yml.

    If there are none, the folder is the one that the configuration names; a warning is logged if it is another run's.
    """
    return checkpoint_folder(config_file(run), config.relative_model_dir, config.get_checkpoint_dir())


LAST_FIELDS = ("viewer", "vis")
"""Last fields of every config.yml, as fields are in alphabetical order."""


class OwnCheckpoints:
    """Mixin for run configurations: Nerfstudio's tools use the checkpoints beside config.yml, even in a moved run."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Set the fields that were read from a config.yml. Raises ValueError if the file ends early."""
        if missing := [name for name in LAST_FIELDS if name not in state]:
            raise ValueError(f"the file ends early: it has no {missing[0]!r}; copy config.yml again")
        vars(self).update(state)

    def get_checkpoint_dir(self) -> Path:
        """Folder of checkpoints beside the config.yml that a tool is opening, else the one in the configuration."""
        opened, named = opened_config(), super().get_checkpoint_dir()  # type: ignore[misc]
        if opened is None:
            return named
        beside = opened.absolute().parent / self.relative_model_dir  # type: ignore[attr-defined]
        return beside if beside.is_dir() else named
