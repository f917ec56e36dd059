"""Default folder in which `scenetok evaluate` writes and `scenetok report` reads."""

from __future__ import annotations

from pathlib import Path


def default_folder(run: Path) -> Path:
    """RUN/evaluation; for a preset, which has no folder, PRESET-evaluation in the current folder."""
    if run.is_dir():
        return run / "evaluation"
    return run.parent / "evaluation" if run.is_file() else Path(f"{run.name}-evaluation")
