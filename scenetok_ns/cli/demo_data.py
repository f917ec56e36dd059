"""`scenetok demo-data`."""

from __future__ import annotations

from pathlib import Path

from scenetok_ns.cli.demo_rooms import FRAMES, SIZE, TEST, TRAIN, Layout, write_rooms
from scenetok_ns.tools.printing import plain_console


def demo_data(
    output: Path,
    layout: Layout = "re10k",
    train_scenes: int = TRAIN,
    test_scenes: int = TEST,
    frames: int = FRAMES,
    size: int = SIZE,
    seed: int = 0,
    depth: bool = True,
) -> None:
    """Write procedurally generated indoor scenes with exact poses. Each scene is a walk through a furnished room.

    Args:
        output: Folder for the data set; it must be empty or not exist.
        layout: File layout: that of RealEstate10K (chunks of JPEGs), or that of DL3DV (a folder with PNGs and
            transforms.json for each scene).
        train_scenes: Number of training scenes.
        test_scenes: Number of test scenes; none of them is a training scene of any seed.
        frames: Number of frames of each scene, along a walk that turns by at least 120 degrees.
        size: Width and height of the pictures in pixels.
        seed: Random seed. Each seed gives other scenes; scene i of a seed is always the same.
        depth: Also write an exact depth map of each picture, in millimetres.
    """
    write_rooms(output, plain_console(), layout, train_scenes, test_scenes, frames, size, seed, depth)
