"""Whole captures: comparison with known poses, interrupts, notes on pictures that are left out, and bad sources."""

from __future__ import annotations

import fcntl
import json
import shutil
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from capture import agreement, poses_of
from PIL import Image
from support.capture_making import NUMBER, OPTIONS, Made, Stages
from support.room_pictures import FOCAL, HEIGHT, WIDTH, photograph, textures, turn, walk, write_photographs

from scenetok_ns.data.capture.capture_folder import CaptureOptions, make_capture
from scenetok_ns.data.capture.photographs import CaptureError
from scenetok_ns.data.capture.pose_estimation import EstimationOptions, require_pycolmap

OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


def known_poses() -> dict[str, np.ndarray]:
    return {f"IMG_{number}": pose @ OPENGL for number, pose in enumerate(walk(NUMBER), start=1)}


def test_cameras_are_those_that_took_the_pictures(room: Made) -> None:
    found = poses_of(room.capture.folder / "transforms.json")
    assert room.capture.registered == room.capture.pictures == NUMBER and not room.capture.warnings
    difference = agreement(found, known_poses(), by_order=False)
    assert difference["position_rms_percent"] < 1 and difference["rotation_max_degrees"] < 1
    up = np.mean([pose[:3, 1] for pose in found.values()], axis=0)
    assert up[2] > 0.9 and abs(up[:2]).max() < 0.05  # OpenGL: y of a camera points up, z of the world does
    assert np.abs(np.mean([pose[:3, 3] for pose in found.values()], axis=0)).max() < 1e-6


def test_files_of_a_capture_agree_with_each_other(room: Made) -> None:
    folder = room.capture.folder
    names = {path.name for path in folder.iterdir()}
    assert names == {"images", "sparse", "sparse_pc.ply", "thumbnails.jpg", "transforms.json", "capture.json"}
    transforms = json.loads((folder / "transforms.json").read_text())
    pycolmap = require_pycolmap()
    model = pycolmap.Reconstruction(folder / "sparse/0")
    for frame in transforms["frames"]:
        assert (folder / frame["file_path"]).is_file()
        image = model.find_image_with_name(Path(frame["file_path"]).name)
        c2w = np.vstack([image.cam_from_world().inverse().matrix(), [0, 0, 0, 1]]) @ OPENGL
        np.testing.assert_allclose(frame["transform_matrix"], c2w, atol=1e-9)
        assert frame["colmap_im_id"] == image.image_id
    fx, fy, cx, cy, k1, k2, p1, p2 = model.cameras[1].params
    lens = [transforms[name] for name in ("fl_x", "fl_y", "cx", "cy", "k1", "k2", "p1", "p2", "w", "h")]
    assert lens == [fx, fy, cx, cy, k1, k2, p1, p2, WIDTH, HEIGHT]
    assert transforms["camera_model"] == "OPENCV" and transforms["fl_x"] == pytest.approx(FOCAL, rel=0.03)
    record = json.loads((folder / "capture.json").read_text())
    assert record["registered"] == NUMBER and record["sources"]["IMG_3.jpg"] == "IMG_3.jpg"
    assert record["figures"]["reprojection_error"] < 0.5 and record["figures"]["joined_matches"] > 0.9
    with Image.open(folder / "thumbnails.jpg") as sheet:
        assert sheet.size == (NUMBER * 160, 160 + 14)
        pixels = np.asarray(sheet.convert("L")).astype(int)
        squares = pixels[:160].reshape(160, NUMBER, 160)
        assert (squares[:8] < 250).any(axis=(0, 2)).all()  # landscape pictures fill their squares
        assert (pixels[160:].reshape(14, NUMBER, 160) < 100).any(axis=(0, 2)).all()  # each has a name


def test_an_interrupted_capture_continues(room: Made) -> None:
    assert room.first.names == ["pictures", "features", "matches", "cameras"]
    assert room.after_interrupt == [".capture.capture-part", "photos"]
    # No picture is read again; COLMAP skips what its database already holds.
    assert room.second.names == ["features", "matches", "cameras"]
    for stages in (room.first, room.second):
        for name in stages.names:
            counts = [(done, total) for stage, done, total in stages.calls if stage == name]
            assert [done for done, _ in counts] == sorted(done for done, _ in counts)
            assert counts[-1][0] == counts[-1][1] or name == stages.interrupt_at
    assert sorted(path.name for path in room.capture.folder.parent.iterdir()) == ["capture", "photos"]


def test_the_same_source_and_seed_give_the_same_capture(room: Made, tmp_path: Path) -> None:
    straight = make_capture(room.source, tmp_path / "again", OPTIONS, Stages())
    first, second = (poses_of(folder / "transforms.json") for folder in (room.capture.folder, straight.folder))
    for name, pose in first.items():
        np.testing.assert_allclose(second[name], pose, atol=1e-6)


def test_a_finished_capture_is_taken_as_it_is(room: Made) -> None:
    stages = Stages()
    again = make_capture(room.source, room.capture.folder, OPTIONS, stages)
    assert not again.is_new and not stages.calls and again.notes == room.capture.notes
    other = CaptureOptions(estimation=EstimationOptions(seed=1))
    with pytest.raises(FileExistsError, match="exists; choose another --output, or remove it"):
        make_capture(room.source, room.capture.folder, other, stages)


def test_another_process_at_work_is_not_disturbed(room: Made, tmp_path: Path) -> None:
    (tmp_path / ".out.capture-part").mkdir()
    code = (
        f"import fcntl; f = open({str(tmp_path / '.out.capture-part/lock')!r}, 'w'); fcntl.flock(f, 2); print(input())"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        while _is_free(tmp_path / ".out.capture-part/lock"):
            time.sleep(0.02)
        with pytest.raises(CaptureError, match=r"another process is working on .*\.out\.capture-part"):
            make_capture(room.source, tmp_path / "out", OPTIONS, Stages())
        other.communicate("done")


def _is_free(file: Path) -> bool:
    with file.open("w") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_mixed_photographs_are_used_or_named(tmp_path: Path) -> None:
    """Other pixel formats, EXIF rotation, portrait pictures, subfolders and spaces in names work.

    Copies, damaged files and blank pictures are left out and named.
    """
    source = tmp_path / "my photos"
    files = write_photographs(source, walk(10))
    pixels = [np.asarray(Image.open(file)) for file in files]
    Image.fromarray(pixels[1]).convert("CMYK").save(files[1], quality=95)
    Image.fromarray(pixels[2]).quantize(200).save(source / "IMG_3.png")
    files[2].unlink()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees when it is shown
    Image.fromarray(np.rot90(pixels[3]).copy()).save(files[3], quality=95, exif=exif)
    (source / "upright").mkdir()
    portrait = photograph(walk(10)[4], textures(), size=(HEIGHT, WIDTH))
    Image.fromarray(portrait).save(source / "upright/IMG 5.jpg", quality=95)
    files[4].unlink()
    shutil.copy(files[0], source / "IMG_1 (2).jpg")
    files[9].write_bytes(files[9].read_bytes()[:2000])
    Image.new("RGB", (WIDTH, HEIGHT), (200, 190, 180)).save(source / "wall.jpg")
    Image.fromarray(photograph(walk(10)[4], textures(seed=7))).save(source / "elsewhere.png")
    (source / "._IMG_1.jpg").write_bytes(b"of macOS")
    made = make_capture(source, tmp_path / "out", OPTIONS, Stages())
    assert (made.pictures, made.registered) == (10, 9)
    said = "\n".join((*made.notes, *made.warnings))
    for words in (
        "left out 1 (IMG_1 (2).jpg): a copy of another",
        "left out 1 (IMG_10.jpg): cannot be read",
        "left out 1 (wall.jpg): blank",
        "1 of 10 pictures could not be placed (elsewhere.png)",
        "2 lenses or picture formats",
        f"1 of {HEIGHT} x {WIDTH}",
        f"the middle {HEIGHT} x {HEIGHT} of {WIDTH} x {HEIGHT}, {HEIGHT} x {HEIGHT} of {HEIGHT} x {WIDTH} pixels",
    ):
        assert words in said, said
    stored = json.loads((made.folder / "transforms.json").read_text())["frames"]
    frames = {Path(frame["file_path"]).name: frame for frame in stored}
    assert set(frames) == {f"IMG_{n}.jpg" for n in (1, 2, 4, 6, 7, 8, 9)} | {"IMG_3.png", "upright_IMG_5.jpg"}
    assert frames["upright_IMG_5.jpg"]["w"] == HEIGHT and frames["IMG_4.jpg"]["w"] == WIDTH
    known = {f"IMG_{number}": pose @ OPENGL for number, pose in enumerate(walk(10), start=1)}
    found = {Path(name).stem.removeprefix("upright_"): np.array(f["transform_matrix"]) for name, f in frames.items()}
    assert agreement(found, known, by_order=False)["position_rms_percent"] < 2


def views(folder: Path, count: int = 5) -> list[Path]:
    return write_photographs(folder, walk(count))


def each(change: Callable[[Image.Image, int], Image.Image], suffix: str = ".png") -> Callable[[Path], None]:
    """Write five views, each changed by a function of picture and number."""

    def make(folder: Path) -> None:
        for number, file in enumerate(views(folder)):
            with Image.open(file) as stored:
                changed = change(stored.convert("RGB"), number)
            file.unlink()
            changed.save(file.with_suffix(suffix))

    return make


def cut_short(folder: Path) -> None:
    for file in views(folder):
        file.write_bytes(file.read_bytes()[:1500])


def copies(folder: Path) -> None:
    first, *others = views(folder)
    for other in others:
        shutil.copy(first, other)


def still(folder: Path) -> None:
    """Write one view five times, with the noise of a sensor."""
    view, random = photograph(walk(5)[2], textures()), np.random.default_rng(0)
    folder.mkdir()
    for number in range(5):
        noisy = np.clip(view + random.normal(0, 2, view.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{number}.jpg", quality=95)


def unrelated(folder: Path) -> None:
    folder.mkdir()
    for number in range(5):
        Image.fromarray(photograph(walk(5)[number], textures(seed=number))).save(folder / f"{number}.jpg", quality=95)


def plain_walls(folder: Path) -> None:
    """Write pictures of plain walls, whose brightness changes slowly."""
    folder.mkdir()
    for number in range(5):
        row = np.linspace(90 + 5 * number, 200, WIDTH)
        Image.fromarray(np.tile(row[None, :, None], (HEIGHT, 1, 3)).astype(np.uint8)).save(folder / f"{number}.png")


def bombs(folder: Path) -> None:
    """Write files of a few bytes that claim to have 40,000 x 40,000 pixels."""
    folder.mkdir()

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    for number in range(5):
        (folder / f"{number}.png").write_bytes(content)


def files(*names: str, content: bytes = b"not a picture") -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        folder.mkdir()
        for name in names:
            (folder / name).write_bytes(content)

    return make


def video(*frames: np.ndarray) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        height, width = frames[0].shape[:2]
        writer = imageio_ffmpeg.write_frames(str(path), (width, height), fps=10, macro_block_size=2)
        writer.send(None)
        for frame in frames:
            writer.send(np.ascontiguousarray(frame))
        writer.close()

    return make


def headless_video(path: Path) -> None:
    """Write an MP4 that ends before its index, as after a full memory card."""
    video(*[photograph(pose, textures()) for pose in walk(4)])(path)
    path.write_bytes(path.read_bytes()[:3000])


GREY = np.full((HEIGHT, WIDTH, 3), 120, np.uint8)
BAD = {
    "nothing there": ("gone", lambda path: None, "no photographs or video at"),
    "empty folder": ("empty", lambda path: path.mkdir(), "holds no photographs"),
    "folder of text": ("notes", files("a.txt", "b.md"), "holds no photographs"),
    "raw photographs": ("raw", files("a.CR2", "b.cr2"), "raw photographs .*export them as JPEG"),
    "folder of videos": ("clips", files("a.mov"), "holds videos, no photographs: give one of them, such as .*a.mov"),
    "one photograph": ("one", lambda path: views(path, 1), "1 picture, too few .*scenetok generate"),
    "one photograph, as a file": ("one.jpg", lambda path: views(path.parent, 1)[0].rename(path), "scenetok generate"),
    "three photographs": ("three", lambda path: views(path, 3), "3 pictures, too few for poses"),
    "text named .mp4": (
        "text.mp4",
        lambda path: path.write_text("no video"),
        "cannot be read as a video: .*Invalid",
    ),
    "empty video": ("empty.mov", lambda path: path.touch(), "cannot be read as a video"),
    "video without an index": ("cut.mp4", headless_video, "cannot be read as a video"),
    "grey video": ("grey.mp4", video(*[GREY] * 6), "0 of 6 pictures are usable.*blank"),
    "video of two frames": ("two.mp4", video(photograph(walk(2)[0], textures()), GREY), "1 of 2 pictures are usable"),
    "damaged photographs": ("damaged", cut_short, "0 of 5 pictures are usable.*IMG_1.jpg: cannot be read"),
    "not pictures at all": ("fake", files("a.jpg", "b.jpg", "c.jpg", "d.jpg"), "0 of 4 .*a.jpg: cannot be read"),
    "damaged HEIC": ("apple", files("a.heic", "b.heic", "c.heic", "d.heic"), "0 of 4 .*a.heic: cannot be read"),
    "copies": ("copies", copies, "1 of 5 pictures are usable.*a copy of IMG_1.jpg"),
    "transparent": ("clear", each(lambda image, _: Image.new("RGBA", image.size)), "0 of 5 pictures are usable"),
    "floating-point": ("float", each(lambda image, _: image.convert("F"), ".tif"), "floating-point numbers"),
    "tiny": ("tiny", each(lambda image, _: image.resize((40, 30))), "40 x 30 pixels, too small"),
    "white": ("white", each(lambda image, _: Image.new("RGB", image.size, "white")), "blank: a single colour"),
    "bombs": ("bombs", bombs, "more than 178 million pixels"),
    "plain walls": ("walls", plain_walls, "no cameras were found .*almost no detail"),
    "unrelated": ("unrelated", unrelated, "no cameras were found .*pairs of 5 pictures have enough in common"),
    "still camera": ("still", still, "the camera did not move: 5 pictures show one view"),
    "turning camera": ("turning", lambda path: write_photographs(path, turn(6)), "only turned on the spot"),
}
"""Bad source -> its file name, the function that creates it, and a pattern of the error message."""


@pytest.mark.parametrize("name", BAD)
def test_bad_sources_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    place, make, said = BAD[name]
    make(tmp_path / place)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CaptureError, match=said) as refusal:
        make_capture(tmp_path / place, tmp_path / "out", OPTIONS, Stages())
    assert "\n" not in str(refusal.value) and place in str(refusal.value)
    assert sorted(tmp_path.iterdir()) == before  # nothing incomplete is left


def test_frames_of_photographs_and_foreign_folders_are_refused(room: Made, tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="--frames is for a video"):
        make_capture(room.source, tmp_path / "out", CaptureOptions(frames=3), Stages())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").touch()
    with pytest.raises(FileExistsError, match="mine exists"):
        make_capture(room.source, tmp_path / "mine", OPTIONS, Stages())
    assert (tmp_path / "mine/thesis.tex").exists()


def test_without_pycolmap_the_extra_is_named(room: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pycolmap", None)
    with pytest.raises(CaptureError, match=r"pip install 'scenetok-ns\[capture\]'"):
        make_capture(room.source, tmp_path / "out", OPTIONS, Stages())
    assert not any(tmp_path.iterdir())


def test_three_photographs_are_enough_where_that_is_asked_for(tmp_path: Path) -> None:
    """The viewer accepts three photographs for a scene generator. By default they are refused."""
    write_photographs(tmp_path / "three", walk(9)[:3])
    made = make_capture(tmp_path / "three", tmp_path / "made", CaptureOptions(fewest=2), lambda *step: None)
    assert (made.pictures, made.registered) == (3, 3)
    with pytest.raises(CaptureError, match="3 pictures, too few for poses"):
        make_capture(tmp_path / "three", tmp_path / "refused", CaptureOptions(), lambda *step: None)
