"""Small pictures of a box with textured walls from known cameras, which suffice for structure from motion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT, FOCAL = 176, 132, 146.3
SIZE = 4.0
"""Side of the box, whose centre is the origin."""
TEXELS = 256


def textures(seed: int = 0) -> np.ndarray:
    """Six textures with blobs of several sizes and colours, [6, TEXELS, TEXELS, 3], from 0 to 255."""
    random = np.random.default_rng(seed)
    total = np.zeros((6, TEXELS, TEXELS, 3))
    for cells, weight in ((16, 1.0), (48, 1.0), (128, 0.6)):
        coarse = random.normal(size=(6, cells, cells, 3))
        big = [[Image.fromarray(side[..., c].astype(np.float32)) for c in range(3)] for side in coarse]
        scaled = [
            [np.asarray(one.resize((TEXELS, TEXELS), Image.Resampling.BICUBIC)) for one in channels] for channels in big
        ]
        total += weight * np.array(scaled).transpose(0, 2, 3, 1)
    return np.clip(128 + 50 * total, 0, 255)


def look(position: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Camera-to-world pose [4, 4] that looks at a target, OpenCV axes, with z up in the world."""
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3] = np.stack([right, np.cross(forward, right), forward, position], axis=1)
    return pose


def walk(count: int) -> list[np.ndarray]:
    """Cameras on an arc that look at the far corner of the box."""
    angles = np.linspace(-0.6, 0.6, count)
    return [
        look(np.array([1.4 * np.sin(a), -1.5 + 0.4 * np.cos(3 * a), 0.3 * np.sin(5 * a)]), np.array([0.4, 1.6, -0.5]))
        for a in angles
    ]


def turn(count: int) -> list[np.ndarray]:
    """Cameras that only turn on the spot."""
    place = np.array([0.0, -1.0, 0.0])
    return [look(place, place + np.array([np.sin(a), np.cos(a), -0.2])) for a in np.linspace(-0.5, 0.5, count)]


def photograph(
    pose: np.ndarray, walls: np.ndarray, size: tuple[int, int] = (WIDTH, HEIGHT), focal: float = FOCAL
) -> np.ndarray:
    """Render the box from a camera inside, as RGB bytes [h, w, 3]."""
    width, height = size
    u, v = np.meshgrid(np.arange(width) + 0.5 - width / 2, np.arange(height) + 0.5 - height / 2)
    rays = np.stack([u / focal, v / focal, np.ones_like(u)], -1) @ pose[:3, :3].T
    origin = pose[:3, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        reach = np.maximum((SIZE / 2 - origin) / rays, (-SIZE / 2 - origin) / rays)
    axis = np.nanargmin(reach, axis=-1)
    hit = origin + rays * np.take_along_axis(reach, axis[..., None], -1)
    face = 2 * axis + (np.take_along_axis(rays, axis[..., None], -1)[..., 0] > 0)
    others = np.array([[1, 2], [0, 2], [0, 1]])[axis]
    place = (np.take_along_axis(hit, others, -1) / SIZE + 0.5) * (TEXELS - 1)
    low = np.clip(np.floor(place).astype(int), 0, TEXELS - 2)
    part = np.clip(place - low, 0, 1)
    total = np.zeros((height, width, 3))
    for i in (0, 1):
        for j in (0, 1):
            weight = (part[..., 0] if i else 1 - part[..., 0]) * (part[..., 1] if j else 1 - part[..., 1])
            total += weight[..., None] * walls[face, low[..., 0] + i, low[..., 1] + j]
    return total.round().astype(np.uint8)


def write_photographs(folder: Path, poses: list[np.ndarray], seed: int = 0, suffix: str = ".jpg") -> list[Path]:
    """Write IMG_1.jpg and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    walls = textures(seed)
    files = []
    for number, pose in enumerate(poses, start=1):
        files.append(folder / f"IMG_{number}{suffix}")
        Image.fromarray(photograph(pose, walls)).save(files[-1], quality=95)
    return files
