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
    """Write procedurally made indoor scenes with exact poses: a walk through a furnished room each.

    Args:
        output: Folder for the data set; it must not exist or be empty.
        layout: RealEstate10K's (chunks of JPEGs) or DL3DV's (a folder of PNGs and transforms.json for each scene).
        train_scenes: Number of training scenes.
        test_scenes: Number of test scenes; none is among the training scenes of any seed.
        frames: Number of frames of each scene, along a walk that turns by at least 120 degrees.
        size: Width and height of the pictures in pixels.
        seed: Random seed: another one gives other scenes; scene i of a seed is always the same.
        depth: Also write an exact depth map of each picture, in millimetres.
    """
    write_rooms(output, plain_console(), layout, train_scenes, test_scenes, frames, size, seed, depth)
