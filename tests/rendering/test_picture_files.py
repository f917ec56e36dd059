"""Picture files hold the rounded bytes, sheets are complete, and no file is half-written."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scenetok_ns.rendering.picture_files import captioned, encode_picture, save_picture, sheet, to_bytes

COLOURS = torch.rand(6, 3, 4, 5, generator=torch.Generator().manual_seed(0))


def pixels(data: bytes) -> torch.Tensor:
    return torch.from_numpy(np.asarray(Image.open(BytesIO(data))).copy()).permute(2, 0, 1)


def test_floats_are_rounded_and_cut_off() -> None:
    assert to_bytes(torch.tensor([-0.5, 0.0, 0.499 / 255, 0.501 / 255, 1.0, 2.0])).tolist() == [0, 0, 0, 1, 255, 255]


def test_a_png_holds_exactly_the_picture_whichever_type_it_has() -> None:
    levels = to_bytes(COLOURS[0])
    for picture in (COLOURS[0], levels):
        assert torch.equal(pixels(encode_picture(picture, "PNG")), levels)


def test_rows_of_a_sheet_lie_below_each_other_and_pictures_beside() -> None:
    found = sheet([COLOURS[:3], list(COLOURS[3:])])
    assert found.shape == (3, 8, 15)
    for place, picture in enumerate(COLOURS):
        top, left = 4 * (place // 3), 5 * (place % 3)
        assert torch.equal(found[:, top : top + 4, left : left + 5], picture)


def test_captions_stand_where_their_parts_begin() -> None:
    plain = torch.full((3, 128, 256), 100, dtype=torch.uint8)
    found = captioned(plain, {0: "model", 128: "photograph"})
    changed = (found != plain).any(0)
    assert (plain == 100).all() and not changed[20:].any()
    columns = changed.any(0).nonzero().flatten()
    left, right = columns[columns < 128], columns[columns >= 128]
    assert (left[0], right[0]) == (0, 128) and len(left) < len(right) < 100  # the longer word
    assert found[:, :16, :128].max() == 255 and found[:, :16, 128:].max() == 255


def test_files_are_of_their_suffix_and_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, kind in (("a.png", "PNG"), ("b.jpg", "JPEG")):
        save_picture(tmp_path / "new" / name, COLOURS[0])
        assert Image.open(tmp_path / "new" / name).format == kind
    monkeypatch.setattr("os.replace", lambda *paths: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match=r"cannot write .*c\.png: No space left"):
        save_picture(tmp_path / "new" / "c.png", COLOURS[0])
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.png", "b.jpg"]
