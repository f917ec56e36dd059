"""Captures with unusual pixels, lenses, worlds and names are read correctly.

Every case changes one thing in a clean capture. The result is compared with that of the clean capture, or the error
must name the problem and what to do.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image
from support.capture_files import write_demo_capture
from support.room_pictures import walk as room_walk
from support.room_pictures import write_photographs

from scenetok_ns.bridge.capture_kinds import find_dataparser
from scenetok_ns.bridge.scene_views import StockSceneSource, read_capture
from scenetok_ns.data.camera_path_files import read_path
from scenetok_ns.data.poses import camera_spread
from scenetok_ns.data.scenes import BadScene, DataError, Scene
from scenetok_ns.dataparsers.dl3dv_dataparser import Dl3dvDataParserConfig

FRAMES, SIZE, SIDE = 10, 72, 64
SPREAD = 1.13


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captures") / "clean"
    write_demo_capture(folder, FRAMES, size=SIZE)
    return folder


@pytest.fixture
def capture(clean: Path, tmp_path: Path) -> Path:
    """A copy of the clean capture that the test may change."""
    shutil.copytree(clean, tmp_path / "capture")
    return tmp_path / "capture"


def source(folder: Path) -> StockSceneSource:
    return read_capture(find_dataparser(folder).setup(), "test", typical_spread=SPREAD)


def scene_at(folder: Path) -> Scene:
    found = source(folder)
    return found.scene(found.key)


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    meta = json.loads((folder / "transforms.json").read_text())
    change(meta)
    (folder / "transforms.json").write_text(json.dumps(meta))


def pictures(folder: Path) -> list[Path]:
    return sorted((folder / "images").iterdir())


def assert_same(found: Scene, expected: Scene, pixels: float = 0.0) -> None:
    """Check that cameras are the same, and that pictures differ by at most `pixels` grey values on average."""
    torch.testing.assert_close(found.c2w, expected.c2w, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(found.intrinsics, expected.intrinsics)
    for index in range(FRAMES):
        one, other = (scene.load_images([index])[0].float() for scene in (found, expected))
        assert one.shape == other.shape and float((one - other).abs().mean()) <= pixels, index


# --- Pixels ---


@pytest.mark.parametrize(
    ("mode", "suffix", "tolerance"),
    [("CMYK", ".jpg", 3.0), ("P", ".png", 6.0), ("RGBA", ".png", 0.0), ("LA", ".png", None), ("I;16", ".png", None)],
)
def test_pixel_formats(capture: Path, clean: Path, mode: str, suffix: str, tolerance: float | None) -> None:
    expected = scene_at(clean)
    for file in pictures(capture):
        image = Image.open(file)
        image.load()
        file.unlink()
        if mode == "I;16":
            grey = np.asarray(image.convert("L")).astype(np.uint16) * 257
            Image.fromarray(grey).save(file.with_suffix(suffix))
        else:
            changed = image.quantize(256) if mode == "P" else image.convert(mode)
            changed.save(file.with_suffix(suffix), **({"quality": 98} if suffix == ".jpg" else {}))
    found = scene_at(capture)
    if tolerance is not None:
        assert_same(found, expected, tolerance)
        return
    for index in range(FRAMES):
        grey = expected.load_images([index])[0].float().mul(torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0)
        assert float((found.load_images([index])[0].float() - grey).abs().mean()) < 1


def test_colours_under_transparency_are_not_seen(capture: Path) -> None:
    for file in pictures(capture):
        pixels = np.dstack([np.asarray(Image.open(file)), np.full((SIZE, SIZE), 255, np.uint8)])
        pixels[:24] = (255, 0, 255, 0)
        file.unlink()
        Image.fromarray(pixels).save(file.with_suffix(".png"))
    image = scene_at(capture).load_images([3])[0]
    assert (image[:, :24] == 255).all() and not (image[:, 24:] == 255).all()


def test_pictures_are_not_turned_by_exif(capture: Path, clean: Path) -> None:
    """EXIF rotation is ignored, because poses refer to the pixels as they are stored."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for file in pictures(capture):
        Image.open(file).save(file, exif=exif, quality="keep")
    assert_same(scene_at(capture), scene_at(clean), pixels=1)


# --- Lenses ---


def test_what_a_frame_says_wins(capture: Path, clean: Path) -> None:
    """Every second frame has its own focal length, which overrides that of the file in all readers."""

    def zoom(meta: dict[str, Any]) -> None:
        for frame in meta["frames"][::2]:
            frame |= {"fl_x": 1.6 * meta["fl_x"], "fl_y": 1.6 * meta["fl_y"], "cx": meta["cx"] + 3}

    edit(capture, zoom)
    found, expected = scene_at(capture), scene_at(clean)
    number = torch.tensor([int(name.rsplit("_", 1)[1]) for name in found.frame_names])
    own = number % 2 == int(json.loads((clean / "transforms.json").read_text())["frames"][0]["file_path"][-5]) % 2
    factor = torch.where(own, 1.6, 1.0)
    torch.testing.assert_close(found.intrinsics[:, 0, 0], expected.intrinsics[:, 0, 0] * factor)
    torch.testing.assert_close(found.intrinsics[:, 1, 1], expected.intrinsics[:, 1, 1] * factor)
    torch.testing.assert_close(found.intrinsics[:, 0, 2], 0.5 + torch.where(own, 3 / SIZE, 0.0))
    path = read_path(capture / "transforms.json", None, side=SIDE)
    encoded = found.load_views(range(FRAMES), (SIDE, SIDE))
    order = [found.frame_names.index(name) for name in sorted(found.frame_names)]
    torch.testing.assert_close(path.intrinsics, encoded.intrinsics[order])
    home = capture.parent / "set/scene/nerfstudio"
    shutil.copytree(capture, home)
    dl3dv = Dl3dvDataParserConfig(data=home.parent.parent).setup().scene_source("test").scene("scene")
    torch.testing.assert_close(dl3dv.intrinsics, found.intrinsics[order])


def test_a_path_has_the_lens_that_encoding_uses(capture: Path) -> None:
    """A path read from transforms.json has the cameras of encoded views, even if frames differ in distortion."""

    def bend(meta: dict[str, Any]) -> None:
        meta["k1"] = -0.12
        for frame in meta["frames"][::2]:
            frame["k1"] = 0.05

    edit(capture, bend)
    found = scene_at(capture)
    views = found.load_views(range(FRAMES), (SIDE, SIDE))
    path = read_path(capture / "transforms.json", None, side=SIDE)
    order = [found.frame_names.index(name) for name in sorted(found.frame_names)]
    torch.testing.assert_close(path.intrinsics, views.intrinsics[order])
    torch.testing.assert_close(path.c2w, views.c2w[order])
    focal = path.intrinsics[:, 0, 0]
    assert float((focal[1::2] - focal[::2]).abs().min()) > 0.02  # two lenses, and neither is the distorted one


@pytest.mark.parametrize("where", ["file", "frame"])
@pytest.mark.parametrize("fields", [{"camera_model": "OPENCV_FISHEYE"}, {"is_fisheye": True}])
def test_fisheye_is_refused(capture: Path, where: str, fields: dict[str, Any]) -> None:
    edit(capture, lambda meta: (meta if where == "file" else meta["frames"][4]).update(fields))
    with pytest.raises(DataError, match=r"frame images/frame_0000\d\.jpg: SceneTok reads perspective cameras only"):
        source(capture)


def test_a_field_of_view_alone_is_enough(capture: Path, clean: Path) -> None:
    """Synthetic data sets state only a field of view: no sizes, focal length or principal point, and no suffixes."""

    def strip(meta: dict[str, Any]) -> None:
        angle = 2 * np.arctan(meta["w"] / 2 / meta["fl_x"])
        for name in ("w", "h", "fl_x", "fl_y", "cx", "cy", "k1", "k2", "p1", "p2", "camera_model"):
            meta.pop(name, None)
        meta["camera_angle_x"] = angle
        for frame in meta["frames"]:
            frame["file_path"] = "./" + frame["file_path"].removesuffix(".jpg")

    edit(capture, strip)
    assert_same(scene_at(capture), scene_at(clean))


# --- Sizes and names of pictures ---


def test_smaller_pictures_scale_the_lens(capture: Path, clean: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = scene_at(clean)
    edit(capture, lambda meta: meta.update({name: 2 * meta[name] for name in ("w", "h", "fl_x", "fl_y", "cx", "cy")}))
    with caplog.at_level(logging.INFO):
        found = scene_at(capture)
    assert "72 x 72 pixels, but their cameras are for 144 x 144" in caplog.text
    assert_same(found, expected)


def test_cropped_and_turned_pictures_are_refused(capture: Path) -> None:
    edit(capture, lambda meta: meta.update(w=96))
    with pytest.raises(DataError, match=r"has 72 x 72 pixels, its camera is for 96 x 72: it was cropped"):
        source(capture)
    for file in pictures(capture):
        Image.open(file).resize((72, 96)).save(file)
    with pytest.raises(DataError, match=r"has 72 x 96 pixels, its camera is for 96 x 72: it was turned"):
        source(capture)


def test_pictures_of_mixed_sizes(capture: Path, clean: Path) -> None:
    """Every second picture is in portrait format with its own intrinsics, as from two phones."""

    def mix(meta: dict[str, Any]) -> None:
        for frame in meta["frames"][::2]:
            file = capture / frame["file_path"]
            Image.open(file).crop((4, 0, 68, SIZE)).save(file, quality=95)
            frame |= {"w": 64, "h": SIZE, "cx": meta["cx"] - 4}

    edit(capture, mix)
    found, expected = scene_at(capture), scene_at(clean)
    assert {found.load_images([index])[0].shape[2] for index in range(FRAMES)} == {64, SIZE}
    views, whole = found.load_views(range(FRAMES), (SIDE, SIDE)), expected.load_views(range(FRAMES), (SIDE, SIDE))
    assert views.images.shape == (FRAMES, 3, SIDE, SIDE)
    # A cropped picture is scaled up more to fill the square, so its focal length grows.
    narrow = torch.tensor([found.sizes[index][1] == 64 for index in range(FRAMES)])
    for axis in (0, 1):
        ratio = views.intrinsics[:, axis, axis] / whole.intrinsics[:, axis, axis]
        torch.testing.assert_close(ratio, torch.where(narrow, 72 / 64, 1.0), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "rename",
    [
        lambda path: path.replace("/", "\\"),
        lambda path: "C:\\scans\\room\\" + path.replace("/", "\\"),
        lambda path: "/home/somebody/room/" + path,
        lambda path: path.replace(".jpg", ".JPG"),
        lambda path: path.replace(".jpg", ".png"),
        lambda path: path.replace("images/", "Images/"),
        lambda path: "./" + path,
    ],
    ids=["backslash", "drive", "elsewhere", "case", "suffix", "folder case", "dot"],
)
def test_names_of_other_machines(capture: Path, clean: Path, rename: Callable[[str], str]) -> None:
    def change(meta: dict[str, Any]) -> None:
        for frame in meta["frames"]:
            frame["file_path"] = rename(frame["file_path"])

    edit(capture, change)
    assert_same(scene_at(capture), scene_at(clean))


def test_missing_pictures_are_named(capture: Path) -> None:
    pictures(capture)[3].unlink()
    with pytest.raises(DataError, match=r"no picture images/frame_0000\d\.jpg in .*capture"):
        source(capture)


@pytest.mark.parametrize(
    ("folders", "largest"), [(("images_2", "images_4"), 36), (("images_4",), 18), (("images_3",), 25)]
)
def test_any_folder_of_smaller_pictures(capture: Path, clean: Path, folders: tuple[str, ...], largest: int) -> None:
    """Without full-size pictures, those of images_N are read without asking, even if their sizes are rounded up."""
    for folder in folders:
        (capture / folder).mkdir()
        side = -(-SIZE // int(folder[-1])) + (folder == "images_3")
        for file in pictures(capture):
            Image.open(file).resize((side, side)).save(capture / folder / file.name)
    shutil.rmtree(capture / "images")
    found = scene_at(capture)
    assert found.load_images([0])[0].shape[1] == largest
    torch.testing.assert_close(found.intrinsics, scene_at(clean).intrinsics)


# --- Worlds ---


def move(capture: Path, scale: float, offset: tuple[float, float, float]) -> None:
    def change(meta: dict[str, Any]) -> None:
        for frame in meta["frames"]:
            for row, shift in zip(frame["transform_matrix"], offset, strict=False):
                row[3] = row[3] * scale + shift

    edit(capture, change)


@pytest.mark.parametrize(
    ("scale", "offset"),
    [
        (0.2 / 40, (441547.5, 5121946.5, 2345.1)),  # metres of a map
        (0.001 / 40, (441.5475, 5121.9465, 2.3451)),  # its kilometres
        (1e-9, (0.0, 0.0, 0.0)),
        (1e6, (0.0, 0.0, 0.0)),
    ],
)
def test_units_and_places_of_any_kind(
    capture: Path, clean: Path, scale: float, offset: tuple[float, float, float], caplog: pytest.LogCaptureFixture
) -> None:
    move(capture, scale, offset)
    found, expected = source(capture), source(clean)
    assert found.pose_scale == pytest.approx(expected.pose_scale / scale, rel=2e-3)
    assert torch.equal(found.fixed_views(6).context, expected.fixed_views(6).context)
    one, other = ((part.scene(part.key).c2w[:, :3, 3] * part.pose_scale).double() for part in (found, expected))
    torch.testing.assert_close(one - one[0], other - other[0], atol=2e-3, rtol=0)
    assert ("georeferenced" in caplog.text) == any(offset)
    path = read_path(capture / "transforms.json", None, side=SIDE)
    order = [found.scene(found.key).frame_names.index(name) for name in sorted(found.scene(found.key).frame_names)]
    torch.testing.assert_close(path.c2w, found.scene(found.key).c2w[order])


def test_a_stray_camera_counts_for_nothing(capture: Path, clean: Path, caplog: pytest.LogCaptureFixture) -> None:
    stray = json.loads((clean / "transforms.json").read_text())["frames"][4]["file_path"]

    def throw(meta: dict[str, Any]) -> None:
        meta["frames"][4]["transform_matrix"][0][3] += 1e5

    edit(capture, throw)
    found = source(capture)
    name = Path(stray).stem
    assert f"far from all other cameras, so left out: {name}" in caplog.text
    assert found.pose_scale == pytest.approx(source(clean).pose_scale, rel=0.3)
    views = found.fixed_views(8)
    used = {found.scene(found.key).frame_names[index] for index in torch.cat([views.context, views.target]).tolist()}
    assert name not in used and len(used) == FRAMES - 1
    part = found.training_part()
    assert name not in part.scene(part.key).frame_names


def test_damaged_poses_name_their_frame(capture: Path) -> None:
    damaged = json.loads((capture / "transforms.json").read_text())["frames"][4]["file_path"]

    def spoil(meta: dict[str, Any]) -> None:
        meta["frames"][4]["transform_matrix"][1][3] = float("nan")

    edit(capture, spoil)
    with pytest.raises(DataError, match=rf"frame {damaged}: transform_matrix is not finite"):
        source(capture)
    edit(capture, lambda meta: meta["frames"][4].update(transform_matrix=(2 * np.eye(4)).tolist()))
    with pytest.raises(BadScene, match=rf"not rigid .*it is {Path(damaged).stem}; 1 of {FRAMES}"):
        source(capture)


def test_matrices_of_three_rows_and_byte_order_marks(capture: Path, clean: Path) -> None:
    def cut(meta: dict[str, Any]) -> None:
        for frame in meta["frames"]:
            frame["transform_matrix"] = frame["transform_matrix"][:3]
        del meta["cx"], meta["cy"]

    edit(capture, cut)
    text = (capture / "transforms.json").read_text()
    (capture / "transforms.json").write_text(text, encoding="utf-8-sig")
    assert_same(scene_at(capture), scene_at(clean))


def one_place(meta: dict[str, Any]) -> None:
    for frame in meta["frames"]:
        frame["transform_matrix"] = meta["frames"][0]["transform_matrix"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "transforms.json holds a list: expected an object with a list `frames`"),
        ("", "cannot be read as JSON"),
        ("null", "holds a NoneType"),
        ('{"frames": {}}', "has no frames"),
        ('{"frames": [7]}', "frame 0 is a int"),
        ("\x00\xff", "cannot be read as JSON"),
        (lambda meta: meta.update(frames=meta["frames"][:1]), "has one photograph.*scenetok generate --image"),
        (one_place, f"all {FRAMES} cameras are in one place.*--pose-scale"),
        (lambda meta: meta.update(fl_x=None, fl_y=None), "no focal length"),
        (lambda meta: meta.update(fl_x="wide"), "fl_x is not a number: 'wide'"),
        (lambda meta: meta["frames"][2].update(fl_y=0), "fl_y must be above 0"),
        (lambda meta: meta["frames"][2].update(transform_matrix="pose"), "not a matrix of numbers"),
        (lambda meta: meta.update(k4=0.1), "lens distortion with k4"),
    ],
)
def test_files_that_cannot_be_meant(capture: Path, content: Any, said: str) -> None:
    if callable(content):
        edit(capture, content)
    else:
        (capture / "transforms.json").write_text(content, encoding="latin1")
    with pytest.raises(DataError, match=said) as refusal:
        source(capture)
    assert "\n" not in str(refusal.value)


def test_cameras_in_one_place_may_be_meant(capture: Path) -> None:
    edit(capture, one_place)
    found = read_capture(
        NerfstudioDataParserConfig(data=capture).setup(), "test", pose_scale=1.0, typical_spread=SPREAD
    )
    assert found.pose_scale == 1.0


def test_splits_of_the_file(capture: Path) -> None:
    """Split lists in the file override the dataparser's options, and a val list also serves as the test split."""
    names = [frame["file_path"] for frame in json.loads((capture / "transforms.json").read_text())["frames"]]
    edit(capture, lambda meta: meta.update(train_filenames=names[2:], val_filenames=names[:2]))
    found = source(capture)  # asks for test
    views = found.fixed_views(4)
    held = {found.scene(found.key).frame_names[index] for index in views.target.tolist()}
    assert found.num_train == FRAMES - 2 and held == {Path(name).stem for name in names[:2]}
    edit(capture, lambda meta: meta.update(val_filenames=["images/nowhere.jpg"]))
    with pytest.raises(DataError, match=r"val_filenames has images/nowhere\.jpg"):
        source(capture)


# --- Folders ---


def test_several_captures_in_a_folder_are_listed(clean: Path, tmp_path: Path) -> None:
    for name in ("attic", "cellar"):
        shutil.copytree(clean, tmp_path / "house" / name)
    move(tmp_path / "house/attic", 10.0, (0.0, 0.0, 0.0))
    with pytest.raises(DataError, match=r"holds 2 captures \(attic, cellar\).*such as .*attic"):
        find_dataparser(tmp_path / "house")
    attic, cellar = (source(tmp_path / "house" / name) for name in ("attic", "cellar"))
    assert attic.pose_scale == pytest.approx(cellar.pose_scale / 10, rel=1e-4)
    # A folder in DL3DV's layout is still a data set.
    (tmp_path / "house/attic/images").rename(tmp_path / "house/attic/images_4")
    assert isinstance(find_dataparser(tmp_path / "house"), Dl3dvDataParserConfig)


def test_pictures_without_cameras_name_the_command(tmp_path: Path) -> None:
    write_photographs(tmp_path / "my photos", room_walk(4))
    with pytest.raises(DataError, match=r"my photos has no cameras: scenetok capture '.*my photos' --output"):
        find_dataparser(tmp_path / "my photos")
    with pytest.raises(DataError, match=r"is one photograph: scenetok generate --image"):
        find_dataparser(tmp_path / "my photos/IMG_1.jpg")


def test_names_with_spaces_in_colmap_text_models(tmp_path: Path) -> None:
    """The model also has two cameras, one of them with distortion, and empty lines of points."""
    (tmp_path / "sparse/0").mkdir(parents=True)
    (tmp_path / "images/left side").mkdir(parents=True)
    lines = ["# Image list", ""]
    for number in range(1, 5):
        name = f"left side/view {number}.png"
        lines += [f"{number} 1 0 0 0 {-float(number)} 0 0 {1 + number % 2} {name}", ""]
        Image.new("RGB", (80, 60) if number % 2 else (60, 80)).save(tmp_path / "images" / name)
    (tmp_path / "sparse/0/images.txt").write_text("\n".join(lines) + "\n")
    cameras = "1 PINHOLE 60 80 50 50 30 40\n2 SIMPLE_RADIAL 80 60 70 40 30 -0.1\n"
    (tmp_path / "sparse/0/cameras.txt").write_text(cameras)
    (tmp_path / "sparse/0/points3D.txt").write_text("")
    found = scene_at(tmp_path)
    assert sorted(found.frame_names) == [f"view {number}" for number in range(1, 5)]
    by_name = {name: index for index, name in enumerate(found.frame_names)}
    for number in range(1, 5):
        index = by_name[f"view {number}"]
        torch.testing.assert_close(found.c2w[index, :3, 3], torch.tensor([float(number), 0.0, 0.0]))
        if number % 2 == 0:
            torch.testing.assert_close(found.intrinsics[index, 0, 0], torch.tensor(50 / 60))
    assert found.load_views(range(4), (32, 32)).images.shape == (4, 3, 32, 32)
    (tmp_path / "sparse/0/cameras.txt").write_text(cameras.replace("SIMPLE_RADIAL", "OPENCV_FISHEYE"))
    with pytest.raises(DataError, match=r"picture left side/view \d\.png: SceneTok reads perspective cameras only"):
        source(tmp_path)
    (tmp_path / "sparse/0/cameras.txt").write_text("1 PINHOLE\n")
    with pytest.raises(DataError, match="cannot be read as a COLMAP model"):
        source(tmp_path)


def test_a_bomb_is_one_line(capture: Path) -> None:
    file = pictures(capture)[0]
    data = file.read_bytes()
    mark = data.index(b"\xff\xc0")
    file.write_bytes(data[: mark + 5] + b"\xff\xf0\xff\xf0" + data[mark + 9 :])
    with pytest.raises(DataError, match=r"cannot be read as a picture: .*decompression bomb"):
        source(capture)


def test_the_spread_of_sound_cameras_is_as_before(clean: Path) -> None:
    found = source(clean)
    assert found.pose_scale * camera_spread(found.scene(found.key).c2w) == pytest.approx(SPREAD)
