"""Captures of stock dataparsers are read as scenes: conventions, lens distortion, damaged input."""

from __future__ import annotations

import json
import struct
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.data.utils.colmap_parsing_utils import rotmat2qvec
from PIL import Image
from support.scene_files import transforms, walk
from torch import Tensor

from scenetok_ns.bridge.capture_kinds import find_dataparser, fitting_dataparser
from scenetok_ns.bridge.captures import scene_of_outputs
from scenetok_ns.bridge.scene_views import read_capture, unrefined_note
from scenetok_ns.data.poses import camera_spread
from scenetok_ns.data.scenes import BadScene, DataError
from scenetok_ns.dataparsers.dl3dv_dataparser import Dl3dvDataParserConfig
from scenetok_ns.dataparsers.re10k_dataparser import Re10kDataParserConfig

HEIGHT, WIDTH = 60, 100
OPENGL = torch.tensor([1.0, -1.0, -1.0, 1.0])


def outputs(folder: Path, distortion: list[float] | None, n: int = 2, **fields: Any) -> DataparserOutputs:
    """Create photographs whose red and green encode the direction of each pixel's ray in camera coordinates."""
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
        # Bilinear interpolation of rounded colours. An offset of half a pixel would give 0.7, no undistortion 15.
        assert difference.abs().max() <= 2 and difference.float().mean(dim=(0, 1)).abs().max() < 0.3


def test_the_lens_is_centred_as_nerfstudio_centres_it(tmp_path: Path) -> None:
    """OpenCV's pixel centres differ by half a pixel, which would shift the mean colour of this tiny picture."""
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


def write_capture(folder: Path, n: int = 10, **fields: Any) -> Path:
    meta = {**transforms(n, (HEIGHT, WIDTH)), "k1": 0.0, **fields}
    (folder / "images").mkdir(parents=True)
    for frame in meta["frames"]:
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / frame["file_path"])
    (folder / "transforms.json").write_text(json.dumps(meta))
    return folder


APPLIED = [[0.0, 1.0, 0.0, 0.5], [-1.0, 0.0, 0.0, -2.0], [0.0, 0.0, 1.0, 3.0]]


@pytest.mark.parametrize(
    "fields", [{}, {"applied_transform": APPLIED}, {"applied_scale": 3.0, "applied_transform": APPLIED}]
)
def test_poses_are_those_of_the_file(tmp_path: Path, fields: dict[str, Any]) -> None:
    """nerfstudio-data rotates, centres and scales the world, and includes the transform that ns-process-data applied.

    All of this must be undone.
    """
    folder = write_capture(tmp_path / "my.capture", **fields)
    source = read_capture(NerfstudioDataParserConfig(data=folder).setup(), "test")
    scene = source.scene("my.capture")
    order = [int(name.removeprefix("frame_")) - 1 for name in scene.frame_names]
    assert sorted(order) == list(range(10)) and source.num_train == 9
    torch.testing.assert_close(scene.c2w, walk(10)[order], atol=1e-5, rtol=1e-5)


def test_smaller_pictures_are_read_where_there_are_no_others(tmp_path: Path) -> None:
    """In DL3DV's downloads, transforms.json refers to full-size pictures that are absent."""
    full, folder = (write_capture(tmp_path / name) for name in ("full", "downloaded"))
    (folder / "images").rename(folder / "images_8")
    (folder / "images_4").mkdir()
    for picture in (folder / "images_8").iterdir():
        Image.new("RGB", (WIDTH // 4, HEIGHT // 4), "red").save(folder / "images_4" / picture.name)
    for data in (folder, folder / "transforms.json"):
        scene, expected = (
            source.scene(source.key)
            for source in (read_capture(find_dataparser(at).setup(), "test") for at in (data, full))
        )
        assert (
            scene.load_images([0])[0].shape == (3, HEIGHT // 4, WIDTH // 4) and scene.load_images([0])[0][0].min() > 200
        )
        torch.testing.assert_close(scene.c2w, expected.c2w)
        torch.testing.assert_close(scene.intrinsics, expected.intrinsics)


def test_poses_of_colmap_are_those_of_its_model(tmp_path: Path) -> None:
    poses = walk(9)
    write_colmap(tmp_path, poses)
    config = find_dataparser(tmp_path)
    assert isinstance(config, ColmapDataParserConfig) and config.colmap_path == Path("sparse/0")
    scene = read_capture(config.setup(), "val").scene(tmp_path.name)
    order = [int(name.removeprefix("photo_")) for name in scene.frame_names]
    assert sorted(order) == list(range(9))
    torch.testing.assert_close(scene.c2w, poses[order], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(scene.intrinsics[0, 0, 0], torch.tensor(70.0 / WIDTH))


@pytest.mark.parametrize(("count", "held_out"), [(4, 0), (6, 0), (9, 0), (10, 1), (12, 1)])
def test_captures_of_both_kinds_hold_out_as_many_photographs(tmp_path: Path, count: int, held_out: int) -> None:
    """Stock colmap holds out every eighth picture, so one of four would be lost."""
    write_colmap(tmp_path / "colmap", walk(count))
    frames = [
        {"file_path": f"images/photo_{index}.png", "transform_matrix": (pose * OPENGL).tolist()}
        for index, pose in enumerate(walk(count))
    ]
    (tmp_path / "colmap" / "transforms.json").write_text(
        json.dumps({"fl_x": 70.0, "w": 100, "h": 60, "frames": frames})
    )
    by_transforms = read_capture(find_dataparser(tmp_path / "colmap").setup(), "test")
    (tmp_path / "colmap" / "transforms.json").unlink()
    source = read_capture(find_dataparser(tmp_path / "colmap").setup(), "test")
    assert source.num_train == by_transforms.num_train == count - held_out
    assert {*source.scene("colmap").frame_names} == {*by_transforms.scene("colmap").frame_names}
    stored = ColmapDataParserConfig(data=tmp_path / "colmap")  # as `ns-train ... colmap`, and in earlier runs
    assert read_capture(stored.setup(), "test").num_train == count - (count + 7) // 8


def test_named_dataparsers_find_what_encode_finds(tmp_path: Path) -> None:
    """`ns-train scenetok-refine --data FOLDER colmap` finds a model that is not at Nerfstudio's default place."""
    write_colmap(tmp_path, walk(9))
    source = read_capture(ColmapDataParserConfig(data=tmp_path, eval_interval=4).setup(), "val")
    assert source.num_train == 6 and source.scene(tmp_path.name).num_frames == 9
    with pytest.raises(
        DataError, match=r"has no transforms.json, but colmap reads it: add colmap --eval-mode fraction at"
    ):
        read_capture(NerfstudioDataParserConfig(data=tmp_path).setup(), "val")
    with pytest.raises(DataError, match=r"there is no COLMAP model at .*sparse/7"):
        read_capture(ColmapDataParserConfig(data=tmp_path, colmap_path=Path("sparse/7")).setup(), "val")
    (tmp_path / "sparse").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="has no cameras: scenetok capture"):
        read_capture(NerfstudioDataParserConfig(data=tmp_path).setup(), "val")


def write_colmap(folder: Path, c2w: Tensor) -> None:
    """Write a COLMAP model in text form, with pictures."""
    (folder / "sparse/0").mkdir(parents=True)
    (folder / "images").mkdir()
    lines = []
    for index, pose in enumerate(c2w.double()):
        w2c = torch.linalg.inv(pose)
        quaternion = rotmat2qvec(w2c[:3, :3].numpy())
        values = " ".join(f"{value:.12f}" for value in [*quaternion, *w2c[:3, 3].tolist()])
        lines += [f"{index + 1} {values} 1 photo_{index}.png", "1.0 1.0 -1"]
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "images" / f"photo_{index}.png")
    (folder / "sparse/0/images.txt").write_text("\n".join(lines) + "\n")
    (folder / "sparse/0/cameras.txt").write_text(f"1 OPENCV {WIDTH} {HEIGHT} 70 72 50 30 0 0 0 0\n")
    (folder / "sparse/0/points3D.txt").write_text("1 0 0 1 10 20 30 0.1 1 0\n")


def test_captures_of_any_unit_are_scaled_to_the_training_data(tmp_path: Path) -> None:
    folder = write_capture(tmp_path / "metres")
    meta = json.loads((folder / "transforms.json").read_text())
    for frame in meta["frames"]:
        for row in frame["transform_matrix"][:3]:
            row[3] *= 1000
    other = write_capture(tmp_path / "millimetres", frames=meta["frames"])
    metres, millimetres = (
        read_capture(NerfstudioDataParserConfig(data=data).setup(), "test", typical_spread=2.5)
        for data in (folder, other)
    )
    assert metres.pose_scale == pytest.approx(1000 * millimetres.pose_scale, rel=1e-4)
    assert camera_spread(metres.scene("metres").c2w) * metres.pose_scale == pytest.approx(2.5)
    assert torch.equal(metres.fixed_views(4).context, millimetres.fixed_views(4).context)
    trained = [source.training_part() for source in (metres, millimetres)]
    torch.testing.assert_close(*(source.scene(source.key).c2w for source in trained), atol=1e-5, rtol=1e-5)
    assert trained[0].scene("metres").num_frames == 9 and metres.scene("metres").num_frames == 10
    for word in ("metres: 9 views", "1 to evaluate on", "(training data: 2.5)", "positions are multiplied by"):
        assert word in metres.summary()
    given = read_capture(NerfstudioDataParserConfig(data=folder).setup(), "test", pose_scale=0.3, typical_spread=2.5)
    assert given.pose_scale == 0.3 and "times 0.3" in given.summary()
    with pytest.raises(DataError, match="a pose scale above 0, got -1"):
        read_capture(NerfstudioDataParserConfig(data=folder).setup(), "test", pose_scale=-1)


def test_a_handful_of_photographs_has_targets_too(tmp_path: Path) -> None:
    """nerfstudio-data holds out no view of fewer than ten, so training views that are not context become targets."""
    source = read_capture(NerfstudioDataParserConfig(data=write_capture(tmp_path / "few", n=6)).setup(), "test")
    views = source.fixed_views(4)
    assert sorted([*views.context.tolist(), *views.target.tolist()]) == list(range(6))
    assert source.fixed_views(6).target.tolist() == list(range(6))
    with pytest.raises(BadScene, match="6 training views, but 7 context views are needed"):
        source.fixed_views(7)


def test_the_note_names_what_helps(tmp_path: Path) -> None:
    """Fitting for few photographs, refining for many; neither for generated scenes, which they do not improve."""
    few, many = (write_capture(tmp_path / name, n=count) for name, count in (("few", 11), ("many", 12)))
    assert f"--data {few} --output scene.safetensors --fit-steps" in unrefined_note("scenetok-tiny", few)
    assert "scenetok-refine" not in unrefined_note("scenetok-tiny", few / "transforms.json")
    assert f"ns-train scenetok-refine --data {many}" in unrefined_note("scenetok-tiny", many)
    assert "--fit-steps" not in unrefined_note("scenetok-tiny", many)
    write_colmap(tmp_path / "colmap", walk(5))
    assert "--fit-steps" in unrefined_note("scenetok-tiny", tmp_path / "colmap")
    (tmp_path / "binary/sparse/0").mkdir(parents=True)
    for count, word in ((3, "--fit-steps"), (300, "scenetok-refine")):
        (tmp_path / "binary/sparse/0/images.bin").write_bytes(struct.pack("<Q", count) + b"poses")
        found = unrefined_note("scenetok-tiny", tmp_path / "binary")
        assert word in found and found.endswith("colmap --eval-mode fraction") == (word == "scenetok-refine")
    assert "scenetok-refine" in unrefined_note("scenetok-tiny", tmp_path / "unknown")
    fitted = unrefined_note("scenetok-tiny", few, fits=True)
    assert fitted.endswith("rough shapes of photographs.") and "improve" not in fitted
    assert "scenetok-refine" in unrefined_note("scenetok-tiny", many, fits=True)
    generated = unrefined_note("scenegen-tiny", few)
    assert "resembles these rooms" in generated and "scenetok" not in generated


def test_what_a_stock_dataparser_chokes_on_is_one_line(tmp_path: Path) -> None:
    folder = write_capture(tmp_path / "scan")
    (folder / "transforms.json").write_text("{}")
    with pytest.raises(DataError, match=r"scan/transforms\.json has no frames"):
        read_capture(NerfstudioDataParserConfig(data=folder).setup(), "test")


def test_kinds_of_data(tmp_path: Path) -> None:
    def kind(name: str, *files: str) -> type:
        for file in files:
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).touch()
        return type(find_dataparser(tmp_path / name))

    assert kind("processed", "transforms.json", "colmap/sparse/0/cameras.bin") is NerfstudioDataParserConfig
    assert type(find_dataparser(tmp_path / "processed/transforms.json")) is NerfstudioDataParserConfig
    assert kind("of-dl3dv", "transforms.json", "images_4/frame_00001.png") is NerfstudioDataParserConfig
    assert kind("colmap", "colmap/sparse/0/cameras.bin") is ColmapDataParserConfig
    assert kind("undistorted", "sparse/cameras.bin", "images/a.jpg") is ColmapDataParserConfig
    assert kind("chunks", "test/index.json") is Re10kDataParserConfig
    assert kind("videos", "test/scene/nerfstudio/transforms.json") is Dl3dvDataParserConfig
    for name, file, advice in (
        ("phone", "keyframes/images/1.jpg", "ns-process-data polycam --data .*phone --output-dir .*phone-processed"),
        ("lidar", "EXR_RGBD/metadata.json", "ns-process-data record3d"),
        (
            "holiday",
            "beach/IMG_1.JPG",
            "has no cameras: scenetok capture .*holiday --output .*holiday-capture finds them",
        ),
        ("empty", "notes.txt", "is not a data set: expected transforms.json"),
    ):
        with pytest.raises(DataError, match=advice):
            kind(name, file)
    with pytest.raises(DataError, match=r"capture '.*my photos' --output '.*my photos-capture' finds them; then give"):
        kind("my photos", "IMG_1.JPG")
    (tmp_path / "walk.mp4").touch()
    with pytest.raises(DataError, match=r"scenetok capture .*walk.mp4 --output .*walk-capture finds them"):
        find_dataparser(tmp_path / "walk.mp4")
    for config in (NerfstudioDataParserConfig, ColmapDataParserConfig):  # as `ns-train scenetok-refine --data` does
        for name in ("walk.mp4", "holiday"):
            with pytest.raises(DataError, match=rf"scenetok capture .*{name} --output .* finds them"):
                fitting_dataparser(config(data=tmp_path / name).setup())
    with pytest.raises(DataError, match="no data at"):
        find_dataparser(tmp_path / "nowhere")
