"""Captures of stock dataparsers as scenes: conventions, lens distortion, damaged input."""

from __future__ import annotations

import json
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image
from scene_files import transforms, walk
from torch import Tensor

from scenetok_ns.captures import scene_of_outputs
from scenetok_ns.data.scenes import BadScene

HEIGHT, WIDTH = 60, 100
OPENGL = torch.tensor([1.0, -1.0, -1.0, 1.0])


def outputs(folder: Path, distortion: list[float] | None, n: int = 2, **fields: Any) -> DataparserOutputs:
    """Photographs whose red and green say in which direction of the camera a pixel looks."""
    folder.mkdir(parents=True, exist_ok=True)
    cameras = Cameras(
        camera_to_worlds=(walk(n) * OPENGL)[:, :3],
        fx=torch.full((n,), 70.0),
        fy=torch.full((n,), 72.0),
        cx=torch.linspace(47.0, 52.0, n),
        cy=torch.full((n,), 31.0),
        width=WIDTH,
        height=HEIGHT,
        distortion_params=None if distortion is None else torch.tensor([distortion] * n),
        **{"camera_type": CameraType.PERSPECTIVE, **fields},
    )
    files = [folder / f"frame_{index:05d}.png" for index in range(n)]
    if cameras.camera_type[0].item() == CameraType.PERSPECTIVE.value:
        for index, file in enumerate(files):
            rays = cameras.generate_rays(index, keep_shape=True).directions
            inside = rays @ cameras.camera_to_worlds[index, :3, :3] * OPENGL[:3]
            Image.fromarray(colours(inside[..., 0] / inside[..., 2], inside[..., 1] / inside[..., 2])).save(file)
    return DataparserOutputs(image_filenames=files, cameras=cameras)


def colours(x: Tensor, y: Tensor) -> np.ndarray:
    return torch.stack([128 + 100 * x, 128 + 100 * y, torch.full_like(x, 7)], -1).round().to(torch.uint8).numpy()


@pytest.mark.parametrize(
    "distortion",
    [None, [0.0] * 6, [0.1, -0.02, 0.0, 0.0, 0.0, 0.0], [-0.2, 0.05, 0.01, 0.0, 0.003, -0.002]],
    ids=["none", "zero", "pincushion", "barrel"],
)
def test_every_pixel_looks_where_its_camera_says(tmp_path: Path, distortion: list[float] | None) -> None:
    parts = [outputs(tmp_path / "a", distortion), outputs(tmp_path / "b", None, n=3)]
    scene = ForkingPickler.loads(bytes(ForkingPickler.dumps(scene_of_outputs("capture", parts))))
    assert scene.num_frames == 5 and scene.frame_names[2] == "frame_00000"
    torch.testing.assert_close(scene.c2w, torch.cat([walk(2), walk(3)]))
    rows, columns = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    pixels = torch.stack([columns / WIDTH, rows / HEIGHT, torch.ones_like(rows)], -1)
    for image, intrinsics in zip(scene.load_images(range(5)), scene.intrinsics, strict=True):
        rays = pixels @ intrinsics.inverse().mT
        difference = image.permute(1, 2, 0).int() - torch.from_numpy(colours(rays[..., 0], rays[..., 1])).int()
        # Bilinear interpolation of rounded colours; a half pixel off would be 0.7, and without undistortion it is 15.
        assert difference.abs().max() <= 2 and difference.float().mean(dim=(0, 1)).abs().max() < 0.3


def test_the_lens_is_centred_as_nerfstudio_centres_it(tmp_path: Path) -> None:
    """A wide lens in the middle of a tiny picture: half a pixel, in which OpenCV differs, would tip the picture."""
    camera = Cameras(
        camera_to_worlds=torch.eye(4)[None, :3],
        fx=12.0,
        fy=12.0,
        cx=12.0,
        cy=12.0,
        width=24,
        height=24,
        distortion_params=torch.tensor([[-0.25, 0.05, 0.0, 0.0, 0.0, 0.0]]),
    ).reshape((1,))
    rays = camera.generate_rays(0, keep_shape=True).directions * OPENGL[:3]
    gain = 0.8
    seen = colours(gain * rays[..., 0] / rays[..., 2], gain * rays[..., 1] / rays[..., 2])
    Image.fromarray(seen).save(tmp_path / "frame_00000.png")
    scene = scene_of_outputs("x", [DataparserOutputs([tmp_path / "frame_00000.png"], camera)])
    image = scene.load_images([0])[0].double()
    assert (image.mean(dim=(1, 2))[:2] - 128).abs().max() < 0.1


def test_transparent_images_are_laid_on_the_background(tmp_path: Path) -> None:
    part = outputs(tmp_path, None, n=1)
    Image.new("RGBA", (WIDTH, HEIGHT), (200, 0, 0, 0)).save(part.image_filenames[0])
    part.alpha_color = torch.ones(3)
    image = scene_of_outputs("capture", [part]).load_images([0])[0]
    assert image.shape == (3, HEIGHT, WIDTH) and (image == 255).all()


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadScene, match="scene x: lens distortion with k4"):
        scene_of_outputs("x", [outputs(tmp_path, [0.1, 0.0, 0.0, 0.1, 0.0, 0.0])])
    with pytest.raises(BadScene, match=r"scene x: .*perspective cameras only, got fisheye"):
        scene_of_outputs("x", [outputs(tmp_path, None, camera_type=CameraType.FISHEYE)])
    with pytest.raises(BadScene, match="scene x: the dataparser found no images"):
        scene_of_outputs("x", [])
    part = outputs(tmp_path, None)
    Image.new("RGB", (WIDTH, HEIGHT + 1)).save(part.image_filenames[1])
    scene = scene_of_outputs("x", [part])
    with pytest.raises(BadScene, match="decoded: its camera is for 60 x 100 pixels, it has 61 x 100"):
        scene.load_images([1])
    part.image_filenames[0].unlink()
    with pytest.raises(BadScene, match=r"frame frame_00000 cannot be decoded: .*No such file"):
        scene.load_images([0])


def test_a_stock_dataparser(tmp_path: Path) -> None:
    """The relative poses of nerfstudio-data, whose world is turned and scaled, are those of the file."""
    meta = {**transforms(10, (HEIGHT, WIDTH)), "k1": 0.0}
    (tmp_path / "images").mkdir()
    for frame in meta["frames"]:
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / frame["file_path"])
    (tmp_path / "transforms.json").write_text(json.dumps(meta))
    parser = NerfstudioDataParserConfig(data=tmp_path, downscale_factor=1).setup()
    train, test = (parser.get_dataparser_outputs(split) for split in ("train", "test"))
    scene = scene_of_outputs("capture", [train, test])
    order = [int(name.removeprefix("frame_")) - 1 for name in scene.frame_names]
    assert sorted(order) == list(range(10)) and len(test.image_filenames) > 0
    ours, wanted = scene.c2w[0].inverse() @ scene.c2w, walk(10)[order[0]].inverse() @ walk(10)[order]
    wanted[:, :3, 3] *= train.dataparser_scale
    torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=1e-5)
