"""Preparation of photographs for a capture: choice of files, names, lenses, and linking or conversion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.capture_making import Stages
from support.room_pictures import HEIGHT, WIDTH, walk, write_photographs

from scenetok_ns.data.capture.photographs import CaptureError, find_photographs, picture_names, prepare_photographs
from scenetok_ns.data.capture.pose_estimation import lens_groups, pairs_to_match


def test_order_is_natural_and_hidden_files_are_passed_over(tmp_path: Path) -> None:
    for name in (
        "IMG_10.jpg",
        "IMG_2.JPG",
        "IMG_2 (1).jpg",
        "._IMG_2.JPG",
        ".thumbs/a.jpg",
        "b/IMG_1.png",
        "notes.txt",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [file.relative_to(tmp_path).as_posix() for file in find_photographs(tmp_path)]
    assert found == ["b/IMG_1.png", "IMG_2.JPG", "IMG_2 (1).jpg", "IMG_10.jpg"]


def test_names_are_safe_and_different() -> None:
    files = ["my photo.JPG", "my_photo.jpg", "MY_PHOTO.webp", "Fuß.tif", "写真.heic", "day 1/a.png"]
    names = picture_names([Path(file) for file in files])
    assert names == ["my_photo.jpg", "my_photo_2.jpg", "MY_PHOTO_3.jpg", "Fu.png", "picture.jpg", "day_1_a.png"]


def test_upright_rgb_is_linked_and_other_pictures_are_converted(tmp_path: Path) -> None:
    files = write_photographs(tmp_path / "in", walk(4))
    files[1].rename(files[1].with_suffix(".png"))  # a JPEG by content
    pixels = np.asarray(Image.open(files[2]))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif.get_ifd(0x8769)[0xA405] = 8, "ACME", 26
    Image.fromarray(np.rot90(pixels, -1).copy()).save(files[2], quality=95, exif=exif)
    Image.fromarray(pixels).convert("L").save(files[3])
    pictures, left_out = prepare_photographs(tmp_path / "in", tmp_path / "out", Stages())
    names = [picture.name for picture in pictures]
    assert not left_out and names == ["IMG_1.jpg", "IMG_2.png", "IMG_3.jpg", "IMG_4.jpg"]
    assert (tmp_path / "out/IMG_1.jpg").samefile(files[0])
    with Image.open(tmp_path / "out/IMG_2.png") as image:
        assert image.format == "PNG"
    with Image.open(tmp_path / "out/IMG_3.jpg") as image:
        assert image.size == (WIDTH, HEIGHT) and not image.getexif()
        assert np.abs(np.asarray(image).astype(float) - pixels).mean() < 8
    with Image.open(tmp_path / "out/IMG_4.jpg") as image:
        assert image.mode == "RGB"
    # 26 mm is for a film with a diagonal of 43.3 mm; the picture's diagonal is 220 pixels.
    assert pictures[2].focal == pytest.approx(26 / 43.267 * 220, rel=1e-3) and pictures[0].focal is None
    assert [len(group) for group in lens_groups(pictures)] == [3, 1]
    assert len(lens_groups(pictures, separate=True)) == 4


def test_heic_is_read_or_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in write_photographs(tmp_path, walk(4)):
        file.rename(file.with_suffix(".heic"))
    pictures, _ = prepare_photographs(tmp_path, tmp_path / "out", Stages())  # Pillow goes by content
    assert [picture.name for picture in pictures] == [f"IMG_{n}.jpg" for n in range(1, 5)]
    monkeypatch.setitem(__import__("sys").modules, "pi_heif", None)
    with pytest.raises(CaptureError, match=r"HEIC photographs.*scenetok-ns\[capture\].*or export them as JPEG"):
        prepare_photographs(tmp_path, tmp_path / "out2", Stages())


def test_pairs_of_many_pictures_are_bounded() -> None:
    assert len(pairs_to_match(80)) == 80 * 79 // 2
    for count in (81, 120, 1000):
        pairs = pairs_to_match(count)
        assert len(set(pairs)) == len(pairs) < 20 * count + 80 * 79 // 2
        assert all(0 <= first < second < count for first, second in pairs)
        assert {(0, step) for step in (1, 10, 16, 32, 64)} <= set(pairs)
        assert any(first < count // 4 and second > 3 * count // 4 for first, second in pairs)  # a walk that comes back
