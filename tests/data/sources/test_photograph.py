"""Image files of all kinds, their field of view, and the scene of a single photograph."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from scenetok_ns.data.anchors import home_pose, trajectory
from scenetok_ns.data.scenes import DataError
from scenetok_ns.data.sources.photograph import DEFAULT_FOV, PhotographSource, read_photograph

WIDTH, HEIGHT = 60, 40
COLOURS = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
COLOURS[:, : WIDTH // 2] = (200, 40, 40)  # left red, right blue; the top row brighter
COLOURS[:, WIDTH // 2 :] = (40, 40, 200)
COLOURS[: HEIGHT // 2] += 50


def file(tmp_path: Path, image: Image.Image, name: str = "photo.png", **options: Any) -> Path:
    image.save(tmp_path / name, **options)
    return tmp_path / name


def tags(**photographic: Any) -> Image.Exif:
    exif = Image.Exif()
    names = {"focal": 0x920A, "equivalent": 0xA405, "resolution": 0xA20E, "unit": 0xA210, "pixels": 0xA002}
    ifd = exif.get_ifd(0x8769)
    for name, value in photographic.items():
        ifd[names[name]] = value
    return exif


def assert_shows(pixels: torch.Tensor, expected: np.ndarray, tolerance: int = 3) -> None:
    found = pixels.permute(1, 2, 0).numpy().astype(int)
    assert pixels.dtype == torch.uint8 and found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK", "L", "LA", "1", "I;16", "I"])
def test_every_kind_of_image_becomes_three_channels_of_bytes(tmp_path: Path, mode: str) -> None:
    image, expected = Image.fromarray(COLOURS), COLOURS.astype(int)
    grey = np.asarray(image.convert("L")).astype(int)
    if mode in ("I;16", "I"):
        values = (grey * 257).astype(np.uint16 if mode == "I;16" else np.int32)
        made = Image.fromarray(values)
        assert made.mode == mode
    else:
        made = image.quantize(8) if mode == "P" else image.convert(mode)
    if mode in ("L", "LA", "I;16", "I"):
        expected = np.repeat(grey[:, :, None], 3, axis=2)
    if mode == "1":
        expected = np.repeat(np.asarray(made).astype(int)[:, :, None] * 255, 3, axis=2)
    suffix = "tif" if mode in ("CMYK", "I") else "png"
    photograph = read_photograph(file(tmp_path, made, f"photo.{suffix}"))
    assert_shows(photograph.image, expected)
    said = " ".join(photograph.notes)
    assert ("16 bits" in said) == (mode in ("I;16", "I")) and ("CMYK" in said) == (mode == "CMYK")
    assert ("transparency" in said) == (mode in ("RGBA", "LA"))


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    pixels = np.dstack([COLOURS, np.full((HEIGHT, WIDTH), 255, np.uint8)])
    pixels[: HEIGHT // 2, :, 3] = 0
    pixels[HEIGHT // 2 :, :, 3] = 128
    expected = COLOURS.astype(float) * 128 / 255 + 255 * 127 / 255
    expected[: HEIGHT // 2] = 255
    assert_shows(read_photograph(file(tmp_path, Image.fromarray(pixels))).image, expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_upright(tmp_path: Path, orientation: int) -> None:
    """The pixels are stored with the inverse of each EXIF orientation, so reading must give the original picture."""
    undo = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE"}
    undo |= {6: "ROTATE_90", 7: "TRANSVERSE", 8: "ROTATE_270"}
    image = Image.fromarray(COLOURS)
    stored = image if orientation == 1 else image.transpose(Image.Transpose[undo[orientation]])
    exif = tags()
    exif[0x0112] = orientation
    photograph = read_photograph(file(tmp_path, stored, exif=exif))
    assert_shows(photograph.image, COLOURS.astype(int))
    assert ("turned upright as EXIF says" in photograph.notes) == (orientation > 1)


def fov(equivalent: float) -> float:
    """Field of view in degrees along the shorter side of the 3 : 2 test picture, which is 24 mm of film."""
    return math.degrees(2 * math.atan(12 / equivalent))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"equivalent": 28}, fov(28)),
        ({"equivalent": 50, "focal": 5.0, "resolution": 1.0}, fov(50)),
        # 10 mm at 6 pixels per mm are 60 pixels, the width of the picture: 36 mm equivalent.
        ({"focal": 10.0, "resolution": 6.0, "unit": 4}, fov(36)),
        ({"focal": 10.0, "resolution": 60.0, "unit": 3}, fov(36)),
        ({"focal": 10.0, "resolution": 6.0 * 25.4, "unit": 2}, fov(36)),
        ({"focal": 10.0, "resolution": 6.0 * 25.4}, fov(36)),  # inch is the default
        ({"focal": 10.0, "resolution": 60.0, "unit": 4, "pixels": 600}, fov(36)),  # made smaller since
        ({"focal": 10.0}, None),
        ({"equivalent": 0}, None),
        ({"focal": IFDRational(1, 0), "resolution": 6.0}, None),
        ({"equivalent": 1}, None),  # 170 degrees
        ({"equivalent": 1000}, None),
        ({}, None),
    ],
)
def test_field_of_view_from_exif(tmp_path: Path, values: dict[str, Any], expected: float | None) -> None:
    photograph = read_photograph(file(tmp_path, Image.fromarray(COLOURS), "photo.jpg", exif=tags(**values)))
    assert photograph.fov == (None if expected is None else pytest.approx(expected, abs=0.05))


@pytest.mark.parametrize("size", [(WIDTH, HEIGHT), (HEIGHT, WIDTH)])
def test_intrinsics_give_the_field_of_view_along_the_shorter_side(tmp_path: Path, size: tuple[int, int]) -> None:
    photograph = read_photograph(file(tmp_path, Image.new("RGB", size)))
    matrix = photograph.intrinsics(90.0)
    pixels = (float(matrix[0, 0]) * size[0], float(matrix[1, 1]) * size[1])
    assert pixels == pytest.approx((min(size) / 2,) * 2) and matrix[:2, 2].tolist() == [0.5, 0.5]


def test_where_the_field_of_view_is_from_is_said(tmp_path: Path) -> None:
    plain = file(tmp_path, Image.fromarray(COLOURS), "plain.jpg")
    told = file(tmp_path, Image.fromarray(COLOURS), "told.jpg", exif=tags(equivalent=28))
    path = trajectory("forward", 4)
    notes = [
        PhotographSource(*case, fov=given).focal_note for *case, given in ((plain, path, None), (told, path, None))
    ]
    assert (
        notes[0] == f"field of view {DEFAULT_FOV} degrees along the shorter side (assumed, because EXIF has none; "
        "give --fov if you know it)"
    )
    assert notes[1] == f"field of view {fov(28):.1f} degrees along the shorter side (from EXIF)"
    source = PhotographSource(told, path, fov=70)
    assert source.focal_note.startswith("field of view 70.0") and source.focal_note.endswith("(as given)")
    with pytest.raises(DataError, match="a field of view of 200 degrees was given; expected 5 to 150"):
        PhotographSource(told, path, fov=200)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no image at"),
        (b"", "cannot be read as an image"),
        (b"not a picture", "cannot be read as an image"),
        ("truncated", "cannot be read as an image"),
        ("float", "floating-point numbers without a known range"),
        ("large", r"its values go from 0 to 70000; expected 16 bits"),
        ("clear", "transparent everywhere"),
    ],
)
def test_what_is_no_photograph_is_refused_in_one_line(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "photo.tif"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "truncated":
        path = file(tmp_path, Image.fromarray(COLOURS), "photo.jpg")
        path.write_bytes(path.read_bytes()[:200])
    elif content == "float":
        file(tmp_path, Image.fromarray(np.ones((4, 4), np.float32)), path.name)
    elif content == "large":
        file(tmp_path, Image.fromarray(np.array([[0, 70000]], np.int32)), path.name)
    elif content == "clear":
        file(tmp_path, Image.new("RGBA", (4, 4), (1, 2, 3, 0)), path.name)
    with pytest.raises(DataError, match=message) as error:
        read_photograph(path)
    assert "\n" not in str(error.value) and path.name in str(error.value)


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = file(tmp_path, Image.fromarray(COLOURS))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match="too large to be read"):
        read_photograph(path)


def test_one_pixel_is_too_small_for_any_model(tmp_path: Path) -> None:
    source = PhotographSource(file(tmp_path, Image.new("RGB", (1, 1))), trajectory("forward", 3))
    with pytest.raises(DataError, match=r"photo.png has 1 x 1 pixels, .* sees 32 x 32: give one whose shorter"):
        source.check_size(32)
    PhotographSource(file(tmp_path, Image.new("RGB", (32, 40))), trajectory("forward", 3)).check_size(32)


def test_paths_in_other_units_are_told(tmp_path: Path) -> None:
    picture = file(tmp_path, Image.new("RGB", (32, 40)))
    near, far = (PhotographSource(picture, trajectory("forward", 3), pose_scale=scale) for scale in (2.0, 1000.0))
    assert near.reach == pytest.approx(2.0) and "make --pose-scale smaller" not in near.path_note()
    assert far.reach == pytest.approx(1000.0) and "make --pose-scale smaller" in far.path_note()


def test_which_picture_of_several_is_said(tmp_path: Path) -> None:
    first, second = Image.new("RGB", (8, 8), (250, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 250))
    path = tmp_path / "both.gif"
    first.save(path, save_all=True, append_images=[second])
    photograph = read_photograph(path)
    assert "the first of its 2 pictures" in photograph.notes
    assert photograph.image[:, 0, 0].tolist() == [250, 0, 0]


def test_a_photograph_is_opened_once_until_its_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, open_image = [], Image.open
    monkeypatch.setattr(Image, "open", lambda path, *rest: opened.append(path) or open_image(path, *rest))
    path = file(tmp_path, Image.fromarray(COLOURS))
    checked, rendered = (PhotographSource(path, trajectory("forward", 3)) for _ in range(2))
    assert opened == [path] and torch.equal(checked.photograph.image, rendered.photograph.image)
    file(tmp_path, Image.fromarray(255 - COLOURS))
    assert torch.equal(read_photograph(path).image, 255 - checked.photograph.image) and opened == [path, path]


def test_the_scene_of_a_photograph(tmp_path: Path) -> None:
    path = trajectory("turn", 5)
    source = PhotographSource(file(tmp_path, Image.fromarray(COLOURS)), path, fov=90.0)
    scene = source.scene("photo")
    assert source.keys == ["photo"] and scene.num_frames == 1 and torch.equal(scene.c2w[0], path[0])
    assert source.fixed_views(12).context.tolist() == source.fixed_views(12).target.tolist() == [0]
    views = scene.load_views([0], (32, 32))
    assert_shows(views.images[0][:, :, :8], np.tile(views.images[0][:, :, 0].T.numpy()[:, None].astype(int), (1, 8, 1)))
    assert views.intrinsics[0, 0, 0] == pytest.approx(0.5) and views.intrinsics[0, 1, 1] == pytest.approx(0.5)
    with pytest.raises(DataError, match="expected a pose scale above 0, got 0"):
        PhotographSource(tmp_path / "photo.png", path, pose_scale=0.0)


@pytest.mark.parametrize(("name", "end"), [("forward", (0, 1, 0)), ("sideways", (1, 0, 0)), ("turn", (1, 1, 0))])
def test_trajectories_begin_at_home_and_go_where_they_say(name: Any, end: tuple[float, ...]) -> None:
    path = trajectory(name, 9)
    torch.testing.assert_close(path[0], home_pose())
    torch.testing.assert_close(path[-1, :3, 3], torch.tensor(end, dtype=torch.float32), atol=1e-6, rtol=0)
    rotation = path[:, :3, :3]
    torch.testing.assert_close(rotation.mT @ rotation, torch.eye(3).expand(9, 3, 3), atol=1e-6, rtol=0)
    assert (torch.linalg.det(rotation) > 0).all()
    assert (path[:, :3, 1] @ torch.tensor([0.0, 0.0, 1.0]) < -0.999).all()  # upright: y, which is down, against z
    ahead = path[-1, :3, 2]
    torch.testing.assert_close(ahead, torch.tensor([1.0, 0, 0] if name == "turn" else [0, 1.0, 0]), atol=1e-6, rtol=0)
