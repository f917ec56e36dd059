"""Choice of video frames: the sharpest of each stretch, upright, for videos of any length."""

from __future__ import annotations

import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image, ImageFilter
from support.capture_making import Stages
from support.room_pictures import HEIGHT, WIDTH, photograph, textures, walk

from scenetok_ns.data.capture.video_frames import choose_frames, default_frames, extract_frames, laplacian_variance

SHARP = {1, 4, 8, 11, 15}
"""Indices of the sharp frames among 17; the others are blurred."""


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "walk.mp4"
    walls = textures()
    writer = imageio_ffmpeg.write_frames(str(path), (WIDTH, HEIGHT), fps=10, quality=9, macro_block_size=2)
    writer.send(None)
    for number, pose in enumerate(walk(17)):
        image = Image.fromarray(photograph(pose, walls))
        if number not in SHARP:
            image = image.filter(ImageFilter.GaussianBlur(2))
        writer.send(np.asarray(image))
    writer.close()
    return path


def test_the_sharpest_frame_of_each_stretch_is_taken(video: Path, tmp_path: Path) -> None:
    stages = Stages()
    pictures, left_out = extract_frames(video, tmp_path, 5, stages)
    assert [picture.name for picture in pictures] == [f"frame_0000{n}.jpg" for n in range(1, 6)] and not left_out
    assert [picture.source for picture in pictures] == [f"frame {n + 1} ({n / 10:.1f} s)" for n in sorted(SHARP)]
    walls, poses = textures(), walk(17)
    for picture, number in zip(pictures, sorted(SHARP), strict=True):
        stored = np.asarray(Image.open(tmp_path / picture.name)).astype(float)
        assert stored.shape == (HEIGHT, WIDTH, 3) and (picture.width, picture.height) == (WIDTH, HEIGHT)
        same, other = (np.abs(stored - photograph(poses[n], walls)).mean() for n in (number, number - 1))
        assert same < 0.6 * other  # that frame, not the one before
    assert stages.calls[-1] == ("video", 34, 34)


def test_turned_videos_are_upright(video: Path, tmp_path: Path) -> None:
    """Phones store frames in the orientation of the sensor, with a rotation flag, which must be applied."""
    turned = tmp_path / "turned.mov"
    flag = ["-display_rotation", "90", "-i", str(video), "-c", "copy", str(turned)]
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", *flag], check=True)
    (picture, *_), _ = extract_frames(turned, tmp_path / "turned", 5, Stages())
    (straight, *_), _ = extract_frames(video, tmp_path / "straight", 5, Stages())
    assert (picture.width, picture.height) == (HEIGHT, WIDTH)
    one, other = (
        np.asarray(Image.open(path)).astype(float)
        for path in (tmp_path / "turned" / picture.name, tmp_path / "straight" / straight.name)
    )
    assert np.abs(one - np.rot90(other)).mean() < 3


def test_more_frames_than_there_are_means_all(video: Path, tmp_path: Path) -> None:
    pictures, _ = extract_frames(video, tmp_path, None, Stages())
    assert len(pictures) == 17


def test_choice_of_frames() -> None:
    assert choose_frames([(1, 9), (5, 9), (3, 9), (2, 9), (9, 9), (1, 9)], 2) == ([1, 4], [])
    assert choose_frames([(0, 0), (0.1, 1), (3, 9), (2, 9)], 2) == ([2], [1])
    assert [default_frames(seconds) for seconds in (0.0, 5.0, 40.0, 600.0)] == [30, 30, 80, 120]


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    board = (np.indices((8, 8)).sum(0) % 2 * 255).astype(np.uint8)
    assert laplacian_variance(board) == pytest.approx((4 * 255) ** 2)
    assert laplacian_variance(np.full((8, 8), 100, np.uint8)) == 0
