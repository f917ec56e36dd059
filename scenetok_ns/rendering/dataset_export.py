"""Write frames with cameras as a Nerfstudio data set: transforms.json, pictures, and points to start splats from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scenetok_ns.data.poses import flip_axes
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.rendering.picture_files import encode_picture
from scenetok_ns.rendering.views import RenderedViews
from scenetok_ns.splats.gaussians import write_points
from scenetok_ns.splats.points import Points

IMAGES, POINTS, TRANSFORMS = "images", "points.ply", "transforms.json"


def write_dataset(folder: Path, train: RenderedViews, evaluation: RenderedViews, points: Points | None) -> None:
    """Fill an existing folder with a data set that ns-train reads with its nerfstudio-data dataparser.

    The file lists the splits. Raises OSError if a file cannot be written.

    Args:
        folder: Existing folder.
        train: Views to train on; the data set is in the world of their cameras.
        evaluation: Views to evaluate on.
        points: Points from which splatfacto starts. None: it starts with random points.
    """
    (folder / IMAGES).mkdir()
    splits = {"train": train, "eval": evaluation}
    frames, names = [], {}
    for split, views in splits.items():
        paths = [f"{IMAGES}/{split}_{i:05d}.png" for i in range(1, len(views.frames) + 1)]
        for path, picture in zip(paths, views.frames, strict=True):
            (folder / path).write_bytes(encode_picture(picture, "PNG"))
        names[split] = paths
        frames += frame_entries(paths, views.cameras, side=views.frames.shape[-1])
    content: dict[str, Any] = {"camera_model": "PINHOLE"}
    if points is not None:
        write_points(folder / POINTS, points.means, points.colours)
        content["ply_file_path"] = POINTS
    content |= {
        "train_filenames": names["train"],
        "val_filenames": names["eval"],
        "test_filenames": names["eval"],
        "frames": frames,
    }
    (folder / TRANSFORMS).write_text(json.dumps(content, indent=1), "utf8")


def frame_entries(paths: list[str], cameras: CameraBatch, side: int) -> list[dict[str, Any]]:
    """Create the `frames` of a transforms.json: OpenGL camera-to-world, intrinsics in pixels."""
    poses = flip_axes(cameras.c2w[0].double()).tolist()
    lenses = (cameras.intrinsics[0].double() * side).tolist()
    return [
        {
            "file_path": path,
            "w": side,
            "h": side,
            "fl_x": lens[0][0],
            "fl_y": lens[1][1],
            "cx": lens[0][2],
            "cy": lens[1][2],
            "transform_matrix": pose,
        }
        for path, pose, lens in zip(paths, poses, lenses, strict=True)
    ]
