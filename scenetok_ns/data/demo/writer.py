"""Write procedural rooms as files in the layout of RealEstate10K (as SceneTok stores it) or DL3DV."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int16, UInt8
from PIL import Image
from torch import Tensor

from scenetok_ns.data.demo.scenes import (
    SPLITS,
    Split,
    render_depths,
    render_rooms,
    sample_rooms,
    sample_walks,
    scene_seed,
)
from scenetok_ns.tools.atomic_files import atomic_folder, save_torch

Layout = Literal["re10k", "dl3dv"]
SCENES_PER_CHUNK = 8
JPEG_QUALITY = 95
MILLIMETRES = 1000
DEPTH_FOLDER = "depths"
"""Folder of depth maps: 16-bit PNG files in millimetres, as Nerfstudio reads them (`depth_file_path`, unit 0.001)."""
DL3DV_REDUCTION = 4
"""Factor between the size that transforms.json states and that of the pictures in images_4."""


@dataclass(frozen=True)
class DemoScene:
    """One scene to write. images: display values as bytes. depths: along the camera's axis, in whole millimetres."""

    key: str
    images: UInt8[Tensor, "v h w 3"]
    c2w: Float[Tensor, "v 4 4"]
    intrinsics: Float[Tensor, "3 3"]
    depths: Int16[Tensor, "v h w"] | None = None


def make_scene(seed: int, split: Split, index: int, num_frames: int, size: int, depth: bool = False) -> DemoScene:
    """Create scene `index` of a split from these arguments alone. depth: add a depth map for each frame."""
    rooms = sample_rooms([scene_seed(seed, split, index)])
    c2w = sample_walks(rooms, num_frames)
    images = render_rooms(rooms, c2w, rooms.intrinsics, size)[0]
    display = (images * 255).round().byte().permute(0, 2, 3, 1)
    depths = None
    if depth:
        metres = render_depths(rooms, c2w, rooms.intrinsics, size)[0]
        depths = (metres * MILLIMETRES).round().to(torch.int16)
    return DemoScene(f"demo-{seed}-{split}-{index:06d}", display, c2w[0], rooms.intrinsics[0], depths)


def write_demo_data(
    output: Path,
    layout: Layout,
    num_scenes: dict[Split, int],
    num_frames: int = 48,
    size: int = 64,
    seed: int = 0,
    workers: int | None = None,
    depth: bool = False,
    on_scene: Callable[[], None] = lambda: None,
) -> None:
    """Write scenes to `output`/{train,test}. The folder appears when it is complete.

    Args:
        output: Folder to create.
        layout: "re10k" or "dl3dv".
        num_scenes: Number of scenes of each split.
        num_frames: Number of frames of each scene.
        size: Side of the frames in pixels.
        seed: Random seed of the data set.
        workers: Number of threads. None: one for each core.
        depth: Also write an exact depth map of each frame (docs/data.md describes the format).
        on_scene: Called after each scene.

    Raises:
        FileExistsError: `output` is not empty.
        ValueError: The layout, a count or a size is invalid.
    """
    if layout not in WRITERS:
        raise ValueError(f"write_demo_data: expected layout {' or '.join(WRITERS)}, got {layout!r}")
    if num_frames < 2 or size < 8:
        raise ValueError(f"write_demo_data: expected at least 2 frames of 8 pixels, got {num_frames} of {size}")
    unknown = sorted(set(num_scenes) - set(SPLITS))
    if unknown or sum(num_scenes.values()) < 1 or min(num_scenes.values()) < 0:
        raise ValueError(f"write_demo_data: expected numbers of scenes for {SPLITS}, got {num_scenes}")
    threads = ThreadPoolExecutor(workers or os.cpu_count(), initializer=_one_thread)
    before = torch.get_num_threads()
    try:
        with atomic_folder(output) as folder, threads as pool:
            for split in SPLITS:
                indices = range(num_scenes.get(split, 0))
                if indices:
                    made = pool.map(lambda i, split=split: make_scene(seed, split, i, num_frames, size, depth), indices)
                    WRITERS[layout](folder / split, made, on_scene)
    finally:
        torch.set_num_threads(before)  # the pool's setting affects the whole process where MKL is concerned


def _one_thread() -> None:
    """Use one thread for each scene: scenes are created in parallel, and more threads would compete for the cores."""
    torch.set_num_threads(1)


def write_re10k(folder: Path, scenes: Iterator[DemoScene], on_scene: Callable[[], None]) -> None:
    """Write chunks NNNNNN.torch, each a list of scenes, and index.json: key -> chunk."""
    folder.mkdir(parents=True)
    index: dict[str, str] = {}
    chunk: list[dict] = []
    for scene in scenes:
        name = f"{len(index) // SCENES_PER_CHUNK:06d}.torch"
        index[scene.key] = name
        chunk.append(re10k_example(scene))
        if len(chunk) == SCENES_PER_CHUNK:
            _write_chunk(folder / name, chunk)
            chunk = []
        on_scene()
    if chunk:
        _write_chunk(folder / name, chunk)
    (folder / "index.json").write_text(json.dumps(index, indent=1))


def _write_chunk(path: Path, scenes: list[dict]) -> None:
    with path.open("wb") as file:
        save_torch(scenes, file)


def re10k_example(scene: DemoScene) -> dict:
    """Convert a scene to an entry of a chunk.

    `cameras` holds fx, fy, cx, cy (divided by the image size), 0, 0, then the 3 x 4 world-to-camera matrix by rows.
    `depths`, if there are depth maps, is int16 [frames, height, width]: millimetres along the camera's axis at the
    middle of each pixel.
    """
    w2c = torch.linalg.inv(scene.c2w.double())[:, :3].flatten(1)
    k = scene.intrinsics.double()
    lens = torch.stack([k[0, 0], k[1, 1], k[0, 2], k[1, 2], torch.zeros_like(k[0, 0]), torch.zeros_like(k[0, 0])])
    extra = {} if scene.depths is None else {"depths": scene.depths}
    return {
        **extra,
        "url": f"procedural room {scene.key}",
        "timestamps": torch.arange(len(scene.images)) * 100_000,
        "cameras": torch.cat([lens.expand(len(w2c), 6), w2c], dim=1).float(),
        "images": [jpeg_bytes(image) for image in scene.images],
        "key": scene.key,
    }


def jpeg_bytes(image: UInt8[Tensor, "h w 3"]) -> UInt8[Tensor, " bytes"]:
    buffer = io.BytesIO()
    Image.fromarray(image.numpy()).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


def write_dl3dv(folder: Path, scenes: Iterator[DemoScene], on_scene: Callable[[], None]) -> None:
    """Write folders KEY/nerfstudio with transforms.json (OpenGL camera-to-world) and images_4."""
    for scene in scenes:
        images = folder / scene.key / "nerfstudio" / f"images_{DL3DV_REDUCTION}"
        images.mkdir(parents=True)
        for i, image in enumerate(scene.images, start=1):
            Image.fromarray(image.numpy()).save(images / f"frame_{i:05d}.png")
        if scene.depths is not None:
            (images.parent / DEPTH_FOLDER).mkdir()
            for i, depth in enumerate(scene.depths, start=1):
                picture = Image.fromarray(depth.numpy().astype(np.uint16))
                picture.save(images.parent / DEPTH_FOLDER / f"frame_{i:05d}.png")
        (images.parent / "transforms.json").write_text(json.dumps(dl3dv_transforms(scene), indent=1))
        on_scene()


def dl3dv_transforms(scene: DemoScene) -> dict:
    height, width = (DL3DV_REDUCTION * side for side in scene.images.shape[1:3])
    k = scene.intrinsics.double()
    opengl = scene.c2w.double().numpy() * np.array([1.0, -1.0, -1.0, 1.0])
    return {
        "w": width,
        "h": height,
        "fl_x": float(k[0, 0]) * width,
        "fl_y": float(k[1, 1]) * height,
        "cx": float(k[0, 2]) * width,
        "cy": float(k[1, 2]) * height,
        "k1": 0.0,
        "k2": 0.0,
        "p1": 0.0,
        "p2": 0.0,
        "camera_model": "OPENCV",
        "frames": [
            {"file_path": f"images/frame_{i:05d}.png", "transform_matrix": matrix.tolist(), "colmap_im_id": i}
            | ({} if scene.depths is None else {"depth_file_path": f"{DEPTH_FOLDER}/frame_{i:05d}.png"})
            for i, matrix in enumerate(opengl, start=1)
        ],
    }


WRITERS = {"re10k": write_re10k, "dl3dv": write_dl3dv}
