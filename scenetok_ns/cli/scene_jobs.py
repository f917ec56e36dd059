"""Helpers of commands that process all scenes of a data set: splits, shards, progress bar and report."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from scenetok_ns.tools.errors import UsageError

if TYPE_CHECKING:
    from scenetok_ns.data.precomputed.scene_jobs import JobReport, Shard
    from scenetok_ns.data.scenes import SceneSource

Split = Literal["train", "test"]


def open_split(data: Path, split: str, splits: tuple[str, ...]) -> SceneSource:
    """Open the scenes of DATA/split, or of DATA itself if there is no such folder.

    Raises DataError if there is no such folder and the command processes several `splits`.
    """
    from scenetok_ns.data.scenes import DataError
    from scenetok_ns.data.sources.dl3dv import DL3DVSource
    from scenetok_ns.data.sources.re10k import INDEX, RE10KSource

    folder = data / split
    if not folder.is_dir():
        if len(splits) > 1:
            raise DataError(f"no folder {folder}; if {data} is a single split, name it: --splits {split}")
        folder = data
    if (folder / INDEX).is_file() or any(folder.glob("*.torch")):
        return RE10KSource(folder)
    return DL3DVSource(folder)


def chosen_shard(shard: str | None) -> Shard:
    """The part of the work that --shard names, else the part that SLURM or torchrun assigned to this process.

    Raises UsageError for a text that is not a shard.
    """
    from scenetok_ns.data.precomputed.scene_jobs import Shard

    if shard is None:
        return Shard.from_environment(os.environ)
    try:
        return Shard.parse(shard)
    except ValueError as error:
        raise UsageError(f"--shard: {error}") from error


def job_label(name: str, shard: Shard) -> str:
    """Description of a job's progress bar, with the shard if the work is shared."""
    return name + (f", shard {shard.index}/{shard.count}" if shard.count > 1 else "")


def scene_progress(console: Console) -> Progress:
    """A progress bar that counts scenes or files."""
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)


def print_report(report: JobReport, output: Path, console: Console) -> None:
    """Print what a job did. Raises DataError if it could not use any of its scenes."""
    from scenetok_ns.data.scenes import DataError

    if report.skipped and not report.written and not report.present:
        raise DataError(f"nothing was written to {output}: {report.skipped.summary(3)}")
    present = f"{report.present} scenes were there already"
    console.print(f"{report.written} files written to {output}, {present}", soft_wrap=True)
    if report.skipped:
        console.print(report.skipped.summary(), soft_wrap=True)
