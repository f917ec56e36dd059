"""Write a capture like that of a user: a folder with transforms.json and pictures, in its own world and units."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from PIL import Image

from scenetok_ns.data.demo.writer import DemoScene, dl3dv_transforms, make_scene

UNITS = 40.0
"""Number of capture units in a metre."""


def write_demo_capture(folder: Path, frames: int = 20, index: int = 0, size: int = 136) -> DemoScene:
    """Write a procedural room in units of 25 mm, lying on its side. Every 10th picture is for evaluation."""
    scene = make_scene(0, "test", index, frames, size)
    world = torch.tensor([[0.0, 0.0, 1.0, 100.0], [1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, -30.0], [0.0, 0.0, 0.0, 1.0]])
    poses = scene.c2w.clone()
    poses[:, :3, 3] *= UNITS
    moved = DemoScene(scene.key, scene.images, world @ poses, scene.intrinsics)
    meta = dl3dv_transforms(moved)
    meta.update({name: meta[name] / 4 for name in ("fl_x", "fl_y", "cx", "cy")}, w=size, h=size)
    names = [frame["file_path"].replace(".png", ".jpg") for frame in meta["frames"]]
    meta["frames"] = [{**frame, "file_path": name} for frame, name in zip(meta["frames"], names, strict=True)]
    (folder / "images").mkdir(parents=True)
    for image, name in zip(moved.images, names, strict=True):
        Image.fromarray(image.numpy()).save(folder / name, quality=95)
    (folder / "transforms.json").write_text(json.dumps(meta))
    return moved
