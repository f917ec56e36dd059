"""Small data sets on disk, in both layouts, for the tests of the readers."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor


def walk(frames: int, seed: int = 0) -> Float[Tensor, "v 4 4"]:
    """A forward walk that turns, as distinct rigid OpenCV poses."""
    generator = torch.Generator().manual_seed(seed)
    c2w = torch.eye(4).repeat(frames, 1, 1)
    angle = torch.linspace(0, 2.0, frames) + torch.rand(1, generator=generator)
    c2w[:, 0, 0], c2w[:, 0, 2] = angle.cos(), angle.sin()
    c2w[:, 2, 0], c2w[:, 2, 2] = -angle.sin(), angle.cos()
    c2w[:, 0, 3], c2w[:, 2, 3] = torch.linspace(-1, 1, frames), torch.linspace(0, 3, frames)
    return c2w


def intrinsics(frames: int) -> Float[Tensor, "v 3 3"]:
    k = torch.eye(3).repeat(frames, 1, 1)
    k[:, 0, 0], k[:, 1, 1], k[:, :2, 2] = 0.5, 0.9, 0.5
    return k


def picture(index: int, size: tuple[int, int]) -> Image.Image:
    """A picture in one colour that identifies its frame even after JPEG compression: red is 4 * index."""
    return Image.fromarray(np.full((*size, 3), (4 * index, 100, 200), dtype=np.uint8))


def jpeg(index: int, size: tuple[int, int]) -> Tensor:
    buffer = BytesIO()
    picture(index, size).save(buffer, "JPEG", quality=95)
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


def example(key: str, frames: int = 8, size: tuple[int, int] = (36, 64)) -> dict[str, Any]:
    return {
        "url": f"https://example.org/{key}",
        "key": key,
        "timestamps": torch.arange(frames) * 100,
        "cameras": rows_from_cameras(walk(frames), intrinsics(frames)),
        "images": [jpeg(index, size) for index in range(frames)],
    }


def write_re10k(folder: Path, chunks: list[list[dict[str, Any]]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    index = {}
    for number, chunk in enumerate(chunks):
        torch.save(chunk, folder / f"{number:06d}.torch")
        index.update({item["key"]: f"{number:06d}.torch" for item in chunk})
    (folder / "index.json").write_text(json.dumps(index))
    return folder


def transforms(frames: int, size: tuple[int, int] = (144, 256)) -> dict[str, Any]:
    height, width = size
    opengl = walk(frames).double() @ torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
    return {
        "w": width,
        "h": height,
        "fl_x": 0.5 * width,
        "fl_y": 0.9 * height,
        "cx": 0.5 * width,
        "cy": 0.5 * height,
        "k1": 0.01,
        "camera_model": "OPENCV",
        "frames": [
            {"file_path": f"images/frame_{index + 1:05d}.png", "transform_matrix": opengl[index].tolist()}
            for index in range(frames)
        ],
    }


def write_dl3dv(
    scene: Path, frames: int = 8, size: tuple[int, int] = (144, 256), image_folder: str = "images_4", divide: int = 4
) -> Path:
    """Write one scene; `scene` is the folder of transforms.json."""
    images = scene / image_folder
    images.mkdir(parents=True)
    for index in range(frames):
        picture(index, (size[0] // divide, size[1] // divide)).save(images / f"frame_{index + 1:05d}.png")
    (scene / "transforms.json").write_text(json.dumps(transforms(frames, size)))
    return scene


def rows_from_cameras(c2w: Float[Tensor, "v 4 4"], intrinsics: Float[Tensor, "v 3 3"]) -> Float[Tensor, "v 18"]:
    """The inverse of `poses.cameras_from_rows`."""
    rows = torch.zeros(len(c2w), 18)
    rows[:, :4] = intrinsics[:, [0, 1, 0, 1], [0, 1, 2, 2]]
    rows[:, 6:] = torch.linalg.inv(c2w.double())[:, :3].flatten(1).float()
    return rows
