"""Writing demo scenes with a progress bar, shared by `scenetok demo-data` and `scenetok demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

Layout = Literal["re10k", "dl3dv"]
TRAIN, TEST, FRAMES, SIZE = 56, 8, 48, 64
"""Defaults: numbers of scenes, pictures of each scene, their width and height in pixels."""


def write_rooms(
    output: Path,
    console: Console,
    layout: Layout = "re10k",
    train: int = TRAIN,
    test: int = TEST,
    frames: int = FRAMES,
    size: int = SIZE,
    seed: int = 0,
    depth: bool = True,
) -> None:
    """Write `train` and `test` scenes to a new folder; see `scenetok demo-data`."""
    from scenetok_ns.data.demo.scenes import Split
    from scenetok_ns.data.demo.writer import write_demo_data

    scenes: dict[Split, int] = {"train": train, "test": test}
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console) as progress:
        task = progress.add_task("making rooms", total=train + test)
        write_demo_data(
            output, layout, scenes, frames, size, seed, depth=depth, on_scene=lambda: progress.advance(task)
        )
    console.print(f"{train} training and {test} test scenes of {frames} frames are in {output}", soft_wrap=True)
