"""Values of a config.yml, read without the classes that it names."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from scenetok_ns.tools.plain_config import read_values

TEXT = """\
!!python/object:nowhere.at.All
_target: !!python/name:os.system ''
data: !!python/object/apply:pathlib.PosixPath [data, room]
sizes: !!python/tuple [1, 2]
event: !!python/object/apply:os.system ["touch touched"]
pipeline: &p !!python/object:nowhere.Else
  model: {preset: re10k}
again: *p
"""


def test_values_are_read_and_nothing_is_imported_or_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yml").write_text(TEXT)
    values = read_values(tmp_path / "config.yml")
    assert values["data"] == Path("data/room") and values["sizes"] == [1, 2]
    assert values["_target"] is values["event"] is None
    assert values["pipeline"]["model"]["preset"] == "re10k" and values["again"] is values["pipeline"]
    assert "nowhere" not in sys.modules and [path.name for path in tmp_path.iterdir()] == ["config.yml"]


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a: [", b"- 1", b"", b"[" * 5000, b"a: 2001-13-77"])
def test_what_is_no_configuration_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.yml").write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read as the configuration of a scenetok run: ") as stop:
        read_values(tmp_path / "config.yml")
    assert "\n" not in str(stop.value)
