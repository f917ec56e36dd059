"""Ways in which a file can be broken, whatever its content, and values that no setting can have."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

Damage = Callable[[Path], None]

NAN, INFINITE = float("nan"), float("inf")
VALUES: dict[str, Any] = {
    "null": None,
    "text": "x",
    "list": [],
    "object": {},
    "nan": NAN,
    "infinite": INFINITE,
    "negative": -1,
    "huge": 10**30,
    "huge float": 1e300,
}
"""Invalid values for a number in a file."""


def _remove(path: Path) -> None:
    path.unlink()


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def _bytes(content: bytes) -> Damage:
    def write(path: Path) -> None:
        path.write_bytes(content)

    return write


def _half(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def _zeros(path: Path) -> None:
    path.write_bytes(bytes(len(path.read_bytes())))


def _tail_of_zeros(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 3] + bytes(len(data) - len(data) // 3))


BINARY: dict[str, Damage] = {
    "missing": _remove,
    "a folder": _folder,
    "a device": _device,
    "empty": _bytes(b""),
    "zeros": _zeros,
    "half of it": _half,
    "zeros at the end": _tail_of_zeros,
    "noise": _bytes(random.Random(0).randbytes(5000)),
    "text": _bytes(b"this is not the file that you are looking for\n" * 50),
}
"""Damages for files of any kind."""

TEXT: dict[str, Damage] = {
    **{name: damage for name, damage in BINARY.items() if name not in ("text",)},
    "UTF-16": _bytes('{"a": 1}'.encode("utf-16")),
    "a number": _bytes(b"7"),
    "a word": _bytes(b'"x"'),
    "null": _bytes(b"null"),
    "a list": _bytes(b"[]"),
    "a list of lists": _bytes(b"[[[]]]"),
    "an empty object": _bytes(b"{}"),
    "nested": _bytes(b"[" * 100_000),
    "many digits": _bytes(b"1" * 5000),
    "open bracket": _bytes(b"a: [1,\n b: {\n"),
}
"""Damages for JSON and YAML files."""


def changed(content: Any, place: tuple[str | int, ...], value: Any) -> Any:
    """Copy nested values, with another value at one place."""
    copy = deepcopy(content)
    part = copy
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    return copy


def without(content: Any, place: tuple[str | int, ...]) -> Any:
    """Copy nested values, without the value at one place."""
    copy = deepcopy(content)
    part = copy
    for key in place[:-1]:
        part = part[key]
    del part[place[-1]]
    return copy


def json_mutations(content: Any, places: dict[tuple[str | int, ...], tuple[str, ...]]) -> Iterator[tuple[str, Any]]:
    """Yield a name and the content for each invalid value at each place; "missing" removes the entry."""
    for place, kinds in places.items():
        for kind in kinds:
            name = f"{'.'.join(map(str, place))} {kind}"
            yield name, without(content, place) if kind == "missing" else changed(content, place, VALUES[kind])


def writes_json(content: Any) -> Damage:
    return writes(json.dumps(content))


def writes(text: str) -> Damage:
    """Create a damage that replaces the file with this text."""
    return _bytes(text.encode())
