"""Settings of a set of precomputed files, in a JSON file beside them. They are compared before files are added."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

from scenetok_ns.data.scenes import DataError
from scenetok_ns.tools.atomic_files import write_atomically
from scenetok_ns.tools.json_files import JsonError, read_json

Settings = TypeVar("Settings", bound="SetSettings")


@dataclass(frozen=True)
class SetSettings:
    """Base of dataclasses that hold everything the numbers in a set depend on, apart from the photographs."""

    FILE: ClassVar[str]
    """Name of the JSON file in the folder of the set."""
    PATTERN: ClassVar[str]
    """Pattern of the files of the set, from its folder."""
    KIND: ClassVar[str]
    """Content of these files, for messages."""

    @classmethod
    def read(cls: type[Settings], root: Path) -> Settings | None:
        """Read the settings of an existing set; None if it has no such file. Raises DataError for a damaged file."""
        path = root / cls.FILE
        if not path.is_file():
            return None
        try:
            return cls(**read_json(path))
        except (JsonError, TypeError) as error:
            raise DataError(f"{path} is damaged ({error}); choose another folder for the {cls.KIND}") from error

    def claim(self, root: Path) -> None:
        """Write the settings of a new set, or check that an existing set has the same ones.

        Raises:
            DataError: The existing set has other settings, or none.
        """
        existing = self.read(root)
        if existing is None:
            if any(root.glob(self.PATTERN)):
                raise DataError(
                    f"{root} holds {self.KIND} from another program (no {self.FILE}); choose another folder"
                )
            write_atomically(root / self.FILE, json.dumps(asdict(self), indent=1).encode())
        elif existing != self:
            ours, theirs = asdict(self), asdict(existing)
            differ = ", ".join(f"{k} {theirs[k]} (now {ours[k]})" for k in ours if ours[k] != theirs[k])
            raise DataError(f"{root} was made with {differ}; choose another folder or the same settings")
