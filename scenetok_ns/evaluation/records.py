"""The files of an unfinished evaluation: one for each scene, complete or absent, so that it can be continued.

All sums over the set are computed from these files in the order of the scenes. Interruptions and the number of
processes that wrote the files therefore change nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from scenetok_ns.data.scenes import DataError
from scenetok_ns.evaluation.measures import Measured
from scenetok_ns.tools.atomic_files import UNFINISHED, remove_leftovers, write_atomically
from scenetok_ns.tools.json_files import JsonError, read_json

SETTINGS = "settings.json"
SCENES, PICTURES = "scenes", "pictures"


@dataclass(frozen=True, eq=False)
class SceneRecord:
    """Measurements of one scene."""

    key: str
    context: list[int]
    """Frame numbers of the context views."""
    frames: list[int]
    """Frame numbers of the target views."""
    measured: Measured
    seconds: float
    """Time for rendering the views in seconds, including decoding."""

    def save(self, path: Path) -> None:
        parts = {"view": self.measured.views, "pred": self.measured.pred, "target": self.measured.target}
        tensors = {f"{part}/{name}": v.contiguous() for part, values in parts.items() for name, v in values.items()}
        text = {"key": self.key, "context": self.context, "frames": self.frames, "seconds": self.seconds}
        write_atomically(path, save(tensors, {"scene": json.dumps(text)}))

    @classmethod
    def load(cls, path: Path) -> SceneRecord:
        """Read a record. Raises DataError if the file is damaged."""
        parts: dict[str, dict[str, Any]] = {"view": {}, "pred": {}, "target": {}}
        try:
            with safe_open(path, framework="pt") as file:
                text = json.loads(file.metadata()["scene"])
                for name in file.keys():  # noqa: SIM118  not a mapping
                    part, metric = name.split("/", 1)
                    parts[part][metric] = file.get_tensor(name)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is damaged ({error}); delete it and continue the evaluation") from error
        return cls(measured=Measured(parts["view"], parts["pred"], parts["target"]), **text)


@dataclass(frozen=True)
class EvaluationFolder:
    """Files of one evaluation with one set of settings."""

    root: Path

    def claim(self, settings: dict[str, Any]) -> None:
        """Start an evaluation, or continue one with the same settings.

        Raises:
            DataError: The folder holds an evaluation with other settings, or files that are not an evaluation.
        """
        path = self.root / SETTINGS
        content = json.loads(json.dumps(settings))
        # List the files before checking for settings, which another starting process writes before all other files.
        names = [entry.name for entry in self.root.iterdir()] if self.root.is_dir() else []
        if not path.is_file():
            if not all(UNFINISHED.fullmatch(name) for name in names):
                raise DataError(
                    f"{self.root} holds files but no {SETTINGS}, so it is not an evaluation; choose another folder"
                )
            write_atomically(path, json.dumps(content, indent=1).encode())
        else:
            try:
                existing = read_json(path)
            except JsonError as error:
                raise DataError(f"{path} is damaged ({error}); choose another folder") from error
            if existing != content:
                differ = "; ".join(differences(existing, content)[:3])
                raise DataError(
                    f"{self.root} holds an evaluation with other settings: {differ}. Choose another folder, or give "
                    "the same settings to continue it"
                )
        remove_leftovers(self.root)

    def has(self, key: str) -> bool:
        """Whether the scene has a record."""
        return self._path(key).is_file()

    def settled(self, key: str) -> bool:
        """Whether the scene has a record, or a reason why it was skipped."""
        return self.has(key) or self._skip_path(key).is_file()

    def write(self, record: SceneRecord) -> None:
        record.save(self._path(record.key))
        self._skip_path(record.key).unlink(missing_ok=True)

    def skip(self, key: str, reason: str) -> None:
        write_atomically(self._skip_path(key), json.dumps({"key": key, "reason": reason}).encode())

    def skipped(self, keys: Sequence[str]) -> dict[str, str]:
        """Skipped scene -> reason."""
        paths = [self._skip_path(key) for key in keys if not self.has(key)]
        found = [_read_skip(path) for path in paths if path.is_file()]
        return {entry["key"]: entry["reason"] for entry in found}

    def record(self, key: str) -> SceneRecord | None:
        path = self._path(key)
        return SceneRecord.load(path) if path.is_file() else None

    def records(self, keys: Sequence[str]) -> Iterator[SceneRecord]:
        """Yield the records of the scenes that have one. Only one is in memory at a time."""
        for key in keys:
            if (record := self.record(key)) is not None:
                yield record

    def pictures(self, key: str) -> Path:
        return self.root / PICTURES / file_name(key)

    def _path(self, key: str) -> Path:
        return self.root / SCENES / f"{file_name(key)}.safetensors"

    def _skip_path(self, key: str) -> Path:
        return self.root / SCENES / f"{file_name(key)}.skipped.json"


def _read_skip(path: Path) -> dict[str, str]:
    try:
        found = read_json(path)
    except JsonError as error:
        raise DataError(f"{path} is damaged ({error}); delete it and continue the evaluation") from error
    if not isinstance(found, dict) or not all(isinstance(found.get(name), str) for name in ("key", "reason")):
        raise DataError(f"{path} is damaged (it lacks key or reason); delete it and continue the evaluation")
    return found


def file_name(key: str) -> str:
    """Return the file name of a scene: its name or, if that has special characters, a similar but unique name."""
    plain = re.sub(r"[^\w.-]", "_", key)
    return (
        plain if plain == key and not key.startswith(".") else f"{plain}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
    )


def differences(before: Any, now: Any, name: str = "") -> list[str]:
    """List the differences between two settings, each like `sampler.steps 25 (now 10)`."""
    if isinstance(before, dict) and isinstance(now, dict):
        found = []
        for key in dict.fromkeys([*before, *now]):
            found += differences(before.get(key), now.get(key), f"{name}.{key}" if name else str(key))
        return found
    if before == now:
        return []
    shown = [text if len(text) <= 60 else f"{text[:57]}..." for text in (str(before), str(now))]
    return [f"{name} {shown[0]} (now {shown[1]})"]
