"""The configuration of a run folder, read safely."""

from __future__ import annotations

from pathlib import Path

from nerfstudio.engine.trainer import TrainerConfig

from scenetok_ns.tools.run_files import CONFIG
from scenetok_ns.tools.safe_config import read_config


def read_run(run: Path) -> TrainerConfig:
    """Read the configuration of a run folder, or of the config.yml in it, without running what the file might name.

    Raises:
        FileNotFoundError: There is no config.yml.
        ValueError: It is not the configuration of a scenetok run.
    """
    path = run / CONFIG if run.is_dir() else run
    if not path.is_file():
        raise FileNotFoundError(f"{run} is not a run folder: it has no {CONFIG}")
    config = read_config(path)
    if not isinstance(config, TrainerConfig):
        raise ValueError(f"{path} does not hold the configuration of a run")
    return config
