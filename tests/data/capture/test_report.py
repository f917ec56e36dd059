"""Reports on reconstructions: broken ones are recognised, and others are described correctly."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.capture_making import NUMBER, OPTIONS, Made, Stages

from scenetok_ns.data.capture.capture_folder import make_capture
from scenetok_ns.data.capture.photographs import CaptureError, Picture, prepare_photographs
from scenetok_ns.data.capture.pose_estimation import find_cameras, find_matches, require_pycolmap
from scenetok_ns.data.capture.report import (
    Pair,
    Quality,
    agreeing_parts,
    broken_line,
    is_rotation,
    measure,
    still_line,
    warnings_of,
)

GOOD = Quality(tuple(range(6)), (), 900, 0.4, 0.93, 15.0, (tuple(range(6)),))
PICTURES = [Picture(f"{n}.jpg", f"IMG {n}.JPG", 1600, 1200, None, "") for n in range(8)]


@pytest.fixture(scope="module")
def matched(room: Made, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Picture], Path]:
    folder = tmp_path_factory.mktemp("matched")
    pictures, _ = prepare_photographs(room.source, folder / "images", Stages())
    return find_matches(pictures, folder / "images", folder / "work", OPTIONS.estimation, Stages()), pictures, folder


def test_a_reconstruction_in_parts_is_recognised(matched: tuple[Path, list[Picture], Path]) -> None:
    """All pictures are registered with small errors, but form two rigid parts.

    Global mapping once produced such a result from 50 photographs of a fox.
    """
    database, pictures, folder = matched
    pycolmap = require_pycolmap()
    models = find_cameras(database, folder / "images", len(pictures), OPTIONS.estimation, Stages())
    whole = measure(models, database, pictures, pycolmap)
    assert whole.parts == (tuple(range(NUMBER)),) and not whole.is_broken and whole.joined_matches > 0.9
    assert len(whole.registered) == NUMBER and whole.triangulation_angle > 5 and not warnings_of(whole, pictures)
    assert still_line(database, pictures, pycolmap) is None

    broken = models[0]
    second = {image.image_id for image in broken.images.values() if pictures[image.image_id - 1].name > "IMG_5.jpg"}
    for number in list(broken.points3D):
        point = broken.points3D[number]
        moved = [element for element in point.track.elements if element.image_id in second]
        if len(moved) == len(point.track.elements):
            continue
        elements = [(element.image_id, element.point2D_idx) for element in moved]
        position, colour = point.xyz + np.array([3.0, 0.0, 0.0]), point.color
        for image, index in elements:
            broken.delete_observation(image, index)
        if len(elements) >= 2:
            track = pycolmap.Track([pycolmap.TrackElement(image, index) for image, index in elements])
            broken.add_point3D(position, track, colour)
    found = measure([broken], database, pictures, pycolmap)
    assert len(found.registered) == NUMBER and found.is_broken
    assert found.parts == ((0, 1, 2, 3, 4), (5, 6, 7, 8))
    assert "2 parts (5, 4 pictures) that do not fit together" in broken_line(found) and "--seed 1" in broken_line(found)


def test_a_broken_reconstruction_is_refused(room: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scenetok_ns.data.capture import capture_folder

    parts = ((0, 1, 2, 3, 4), (5, 6, 7, 8))
    torn = lambda *arguments: replace(measure(*arguments), parts=parts, joined_matches=0.68)  # noqa: E731
    monkeypatch.setattr(capture_folder, "measure", torn)
    with pytest.raises(CaptureError, match=r"broken: its cameras fall into 2 parts \(5, 4 pictures\)"):
        make_capture(room.source, tmp_path / "out", OPTIONS, Stages())
    assert not any(tmp_path.iterdir())


def test_parts_are_groups_of_pairs_that_agree() -> None:
    within = [Pair(0, 1, 100, 90), Pair(1, 2, 100, 60), Pair(3, 4, 100, 80)]
    assert agreeing_parts(range(6), [*within, Pair(2, 3, 100, 49)]) == ((0, 1, 2), (3, 4))
    assert agreeing_parts(range(6), [*within, Pair(2, 3, 100, 50)]) == ((0, 1, 2, 3, 4),)
    # Few matches prove nothing, and a single picture is not a part.
    assert agreeing_parts(range(5), [*within, Pair(2, 3, 14, 14)]) == ((0, 1, 2), (3, 4))
    # Two places with few connections are fine as long as the matches agree.
    assert not replace(GOOD, parts=((0, 1, 2), (3, 4))).is_broken
    assert replace(GOOD, parts=((0, 1, 2), (3, 4)), joined_matches=0.7).is_broken


def test_warnings_name_pictures_and_what_to_do() -> None:
    assert warnings_of(GOOD, PICTURES[:6]) == []
    lines = warnings_of(replace(GOOD, other_models=((6,),)), PICTURES)
    assert len(lines) == 2 and "1 picture shows a place that is not connected" in lines[0] and "IMG 6.JPG" in lines[0]
    assert "1 of 8 pictures could not be placed (IMG 7.JPG): it overlaps too little" in lines[1]
    few = replace(GOOD, registered=(0, 1, 2), parts=((0, 1, 2),))
    assert "IMG 3.JPG, IMG 4.JPG, IMG 5.JPG, IMG 6.JPG, IMG 7.JPG" in warnings_of(few, PICTURES)[0]
    assert "they overlap too little with the others, or are blurred" in warnings_of(few, PICTURES)[0]
    assert "fewer than half of the pictures (3 of 8)" in warnings_of(few, PICTURES)[1]
    for changed, words in (
        ({"joined_matches": 0.7}, "only 70% of the matches agree"),
        ({"triangulation_angle": 1.2}, "hardly moved (the median triangulation angle is 1.2 degrees)"),
        ({"reprojection_error": 2.5}, "reprojection error is large (2.50 pixels)"),
    ):
        (line,) = warnings_of(replace(GOOD, **changed), PICTURES[:6])
        assert words in line


def test_rotations_are_told_from_walks() -> None:
    turn = np.array([[0.9, -0.1, 0.4], [0.1, 1.0, 0.05], [-0.4, 0.0, 0.9]])
    rotation, _ = np.linalg.qr(turn)
    rotation *= np.sign(np.linalg.det(rotation))
    lens = np.array([[800.0, 0, 400], [0, 820, 300], [0, 0, 1]])
    assert is_rotation(5 * lens @ rotation @ np.linalg.inv(lens))
    plane = rotation + np.outer([0.1, 0.0, 0.05], [0.0, 0.3, 0.9])
    assert not is_rotation(lens @ plane @ np.linalg.inv(lens))


def test_pictures_of_two_places_are_two_models(room: Made, tmp_path: Path) -> None:
    """The larger place becomes the capture, and a warning names the pictures of the other one."""
    from support.room_pictures import walk, write_photographs

    source = tmp_path / "two"
    shutil.copytree(room.source, source)
    for number, file in enumerate(write_photographs(source / "cellar", walk(6), seed=9)):
        file.rename(source / f"cellar_{number}.jpg")
    made = make_capture(source, tmp_path / "out", OPTIONS, Stages())
    assert (made.pictures, made.registered) == (NUMBER + 6, NUMBER)
    assert any("6 pictures show a place that is not connected with the rest (cellar_0.jpg" in w for w in made.warnings)
