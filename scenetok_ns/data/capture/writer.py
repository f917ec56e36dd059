"""Write a reconstruction as a Nerfstudio capture: transforms.json, sparse/0, sparse_pc.ply, a sheet of thumbnails."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from scenetok_ns.data.capture.photographs import THUMBNAIL, Picture, thumbnail
from scenetok_ns.data.capture.report import Quality

if TYPE_CHECKING:
    import pycolmap

IMAGES = "images"
TRANSFORMS = "transforms.json"
SPARSE = "sparse/0"
POINTS = "sparse_pc.ply"
SHEET = "thumbnails.jpg"
RECORD = "capture.json"

SHEET_COLUMNS = 10
CAPTION, LONGEST_CAPTION = 14, 25
"""Height of the caption below a thumbnail in pixels, and its maximum number of characters."""
OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
LEFT_OUT = (200, 40, 40)
"""Colour of the frame around pictures that have no camera."""


def write_capture(
    folder: Path,
    model: pycolmap.Reconstruction,
    pictures: Sequence[Picture],
    quality: Quality,
    record: dict[str, Any],
    pycolmap: Any,
) -> None:
    """Write all files of a capture except the pictures themselves.

    The world is turned and moved so that z points up and the origin is the mean camera position. transforms.json
    (OpenGL camera-to-world) and sparse/0 (COLMAP) use the same world, in COLMAP's units.

    Args:
        folder: Folder of the capture, which already has the pictures in images/.
        model: The reconstruction; it is transformed in place.
        pictures: All pictures, in order. Pictures without a camera are on the sheet of thumbnails, but are not frames.
        quality: Quality figures of `model`.
        record: Further entries of capture.json.
        pycolmap: The module.
    """
    rotation = upright(np.stack([image.cam_from_world().inverse().matrix()[:, :3] for image in _images(model)]))
    model.transform(pycolmap.Sim3d(1.0, pycolmap.Rotation3d(rotation), np.zeros(3)))
    centre = np.mean([np.ravel(image.projection_center()) for image in _images(model)], axis=0)
    model.transform(pycolmap.Sim3d(1.0, pycolmap.Rotation3d(np.eye(3)), -centre))
    (folder / SPARSE).mkdir(parents=True, exist_ok=True)
    model.write_binary(folder / SPARSE)
    model.export_PLY(folder / POINTS)
    _write_sheet(folder, pictures, quality)
    source_of = {picture.name: picture.source for picture in pictures}
    _write_json(folder / TRANSFORMS, transforms(model))
    registered = set(quality.registered)
    figures = asdict(quality)
    for name in ("registered", "other_models", "parts"):
        del figures[name]
    content = {
        **record,
        "pictures": len(pictures),
        "registered": len(registered),
        "without_camera": [picture.source for index, picture in enumerate(pictures) if index not in registered],
        "figures": figures,
        "lenses": [_lens(camera) for _, camera in sorted(model.cameras.items())],
        "sources": source_of,
    }
    _write_json(folder / RECORD, content)


def transforms(model: pycolmap.Reconstruction) -> dict[str, Any]:
    """Content of transforms.json: frames in the order of their COLMAP ids, with one lens for all if they share it."""
    images = _images(model)
    lenses = {image.camera_id: _lens(model.cameras[image.camera_id]) for image in images}
    shared = next(iter(lenses.values())) if len(lenses) == 1 else {}
    frames = []
    for image in images:
        pose = np.eye(4)
        pose[:3] = image.cam_from_world().inverse().matrix()
        own = {} if shared else lenses[image.camera_id]
        frames.append({
            "file_path": f"{IMAGES}/{image.name}",
            "transform_matrix": (pose @ OPENGL).tolist(),
            "colmap_im_id": image.image_id,
            **own,
        })  # fmt: skip
    return {"camera_model": "OPENCV", **shared, "ply_file_path": POINTS, "frames": frames}


def upright(rotations: np.ndarray) -> np.ndarray:
    """Compute the rotation [3, 3] that turns the mean upward direction of cameras to +z.

    `rotations`: camera-to-world [v, 3, 3], OpenCV axes.
    """
    up = -rotations[:, :, 1].sum(axis=0)
    length = np.linalg.norm(up)
    if length < 1e-6 * len(rotations):  # half of the pictures are upside down
        return np.eye(3)
    z = up / length
    forward = rotations[:, :, 2].sum(axis=0)
    y = forward - (forward @ z) * z
    if np.linalg.norm(y) < 1e-6:
        y = np.eye(3)[int(np.abs(z).argmin())]
        y = y - (y @ z) * z
    y /= np.linalg.norm(y)
    return np.stack([np.cross(y, z), y, z])


def _lens(camera: pycolmap.Camera) -> dict[str, float | int]:
    """Intrinsics of a camera under Nerfstudio's names; parameters that its model lacks are 0."""
    values = dict(zip(camera.params_info.replace(" ", "").split(","), camera.params, strict=True))
    focal = values.get("f", 0.0)
    return {
        "w": camera.width,
        "h": camera.height,
        "fl_x": float(values.get("fx", focal)),
        "fl_y": float(values.get("fy", focal)),
        "cx": float(values["cx"]),
        "cy": float(values["cy"]),
        "k1": float(values.get("k1", values.get("k", 0.0))),
        "k2": float(values.get("k2", 0.0)),
        "p1": float(values.get("p1", 0.0)),
        "p2": float(values.get("p2", 0.0)),
    }


def _images(model: pycolmap.Reconstruction) -> list[Any]:
    return sorted((image for image in model.images.values() if image.has_pose), key=lambda image: image.image_id)


def _write_sheet(folder: Path, pictures: Sequence[Picture], quality: Quality) -> None:
    """Write the sheet of thumbnails with their names, in order; pictures without a camera get a red frame and a
    cross."""
    rows = math.ceil(len(pictures) / SHEET_COLUMNS)
    columns = min(len(pictures), SHEET_COLUMNS)
    sheet = Image.new("RGB", (columns * THUMBNAIL, rows * (THUMBNAIL + CAPTION)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    registered = set(quality.registered)
    for index, picture in enumerate(pictures):
        small = Image.fromarray(thumbnail(folder / IMAGES / picture.name))
        row, column = divmod(index, SHEET_COLUMNS)
        left, top = column * THUMBNAIL, row * (THUMBNAIL + CAPTION)
        sheet.paste(small, (left, top))
        caption = picture.source if len(picture.source) <= LONGEST_CAPTION else f"...{picture.source[-22:]}"
        draw.text((left + 2, top + THUMBNAIL + 1), caption, fill="black", font=font)
        if index not in registered:
            box = (left, top, left + small.width - 1, top + small.height - 1)
            draw.rectangle(box, outline=LEFT_OUT, width=3)
            draw.line((box[0], box[1], box[2], box[3]), fill=LEFT_OUT, width=3)
            draw.line((box[0], box[3], box[2], box[1]), fill=LEFT_OUT, width=3)
    sheet.save(folder / SHEET, quality=90)


def _write_json(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=1), "utf8")
