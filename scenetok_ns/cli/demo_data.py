"""`scenetok demo-data`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rich.progress import MofNCompleteColumn, Progress

from scenetok_ns.tools.printing import plain_console


def demo_data(
    output: Path,
    layout: Literal["re10k", "dl3dv"] = "re10k",
    train: int = 56,
    test: int = 8,
    frames: int = 48,
    size: int = 64,
    seed: int = 0,
    depth: bool = True,
) -> None:
    """Write procedurally made indoor scenes with exact poses: a walk through a furnished room each.

    Args:
        output: Folder for the data set; it must not exist or be empty.
        layout: RealEstate10K's (chunks of JPEGs) or DL3DV's (a folder of PNGs and transforms.json for each scene).
        train: Number of training scenes.
        test: Number of test scenes; none is among the training scenes of any seed.
        frames: Pictures of each scene, along a walk that turns by at least 120 degrees.
        size: Width and height of the pictures in pixels.
        seed: Another seed gives other scenes; scene i of a seed is always the same.
        depth: Also write an exact depth map of each picture, in millimetres.
    """
    from scenetok_ns.data.demo.scenes import Split
    from scenetok_ns.data.demo.writer import write_demo_data

    console = plain_console()
    scenes: dict[Split, int] = {"train": train, "test": test}
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console) as progress:
        task = progress.add_task("making rooms", total=train + test)
        write_demo_data(
            output, layout, scenes, frames, size, seed, depth=depth, on_scene=lambda: progress.advance(task)
        )
    console.print(f"{train} training and {test} test scenes of {frames} frames are in {output}", soft_wrap=True)
