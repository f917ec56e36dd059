"""Writing demo scenes with a progress bar, shared by `scenetok demo-data`, `scenetok demo` and `scenetok gallery`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from scenetok_ns.tools.atomic_files import check_absent
from scenetok_ns.tools.errors import UsageError

Layout = Literal["re10k", "dl3dv"]
TRAIN, TEST, FRAMES, SIZE = 56, 8, 48, 128
"""Default number of training scenes, of test scenes and of pictures in each scene, and picture size in pixels."""
MOST_SCENES, MOST_PIXELS = 1_000_000, 1 << 26
"""Maximum number of scenes in a split, and of pixels in all pictures of a scene, which are rendered together."""


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
    for option, count in (("--train-scenes", train), ("--test-scenes", test)):
        if not 0 <= count <= MOST_SCENES:
            raise UsageError(f"{option} must be from 0 to {MOST_SCENES:,}, got {count}")
    if frames < 2 or size < 8 or frames * size**2 > MOST_PIXELS:
        raise UsageError(
            f"--frames must be at least 2, --size at least 8, and a scene at most {MOST_PIXELS:,} pixels; got {frames} "
            f"frames of {size} x {size}"
        )
    check_absent(output.absolute())  # before a progress bar begins
    from scenetok_ns.data.demo.scenes import Split
    from scenetok_ns.data.demo.writer import write_demo_data

    scenes: dict[Split, int] = {"train": train, "test": test}
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console) as progress:
        task = progress.add_task("making rooms", total=train + test)
        write_demo_data(
            output, layout, scenes, frames, size, seed, depth=depth, on_scene=lambda: progress.advance(task)
        )
    console.print(f"{train} training and {test} test scenes of {frames} frames are in {output}", soft_wrap=True)
