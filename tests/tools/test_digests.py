from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from scenetok_ns.tools import digests as file_digests
from scenetok_ns.tools.digests import remembered_sha256


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_file_is_read_once_for_each_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    reads: list[Path] = []
    read = file_digests.sha256_of
    monkeypatch.setattr(file_digests, "sha256_of", lambda path, *more: reads.append(path) or read(path, *more))
    file, other = tmp_path / "weights.pt", tmp_path / "other.pt"
    file.write_bytes(b"first")
    other.write_bytes(b"other")
    for _ in range(2):
        assert remembered_sha256(file) == digest(b"first") and remembered_sha256(other) == digest(b"other")
    assert reads == [file, other]

    before = file.stat()
    file.write_bytes(b"later")  # of the same size, and dated back
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert remembered_sha256(file) == digest(b"later")
    (tmp_path / "cache" / "scenetok_ns" / "sha256.json").write_text("{ damaged")
    assert remembered_sha256(file) == digest(b"later")


def test_nothing_is_remembered_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("a file instead of the folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "weights.pt"
    file.write_bytes(b"weights")
    assert remembered_sha256(file) == digest(b"weights")
