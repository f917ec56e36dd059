"""A small capture for all tests of this folder: nine views of a room, created in two calls."""

from __future__ import annotations

import pytest
from support.capture_making import NUMBER, OPTIONS, Made, Stages
from support.room_pictures import walk, write_photographs

from scenetok_ns.data.capture.capture_folder import make_capture


@pytest.fixture(scope="session")
def room(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A capture whose first call was interrupted before mapping."""
    folder = tmp_path_factory.mktemp("room")
    write_photographs(folder / "photos", walk(NUMBER))
    first, second = Stages("cameras"), Stages()
    with pytest.raises(KeyboardInterrupt):
        make_capture(folder / "photos", folder / "capture", OPTIONS, first)
    left = sorted(path.name for path in folder.iterdir())
    return Made(
        folder / "photos", make_capture(folder / "photos", folder / "capture", OPTIONS, second), first, second, left
    )
