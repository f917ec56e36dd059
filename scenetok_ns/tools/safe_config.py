"""Reading a run's config.yml without running what it might say.

Stock tools read these files with YAML's unsafe loader, which calls any function that a file names. Configurations need
little of that: dataclasses of a few packages, their classes by name, paths and enumerations.
"""

from __future__ import annotations

import dataclasses
import enum
import pathlib
from typing import Any

import yaml

PACKAGES = ("nerfstudio", "scenetok_ns", "torch.optim", "pathlib", "builtins")
"""Where the names in a configuration may come from."""

VALUES = (pathlib.PurePath, enum.Enum)
"""Kinds of objects that are made by a call with arguments."""

FUNCTIONS = ("nerfstudio.data.utils.nerfstudio_collate.nerfstudio_collate",)
"""Functions that a configuration may name; the loader calls none."""

PLAIN = (bool, bytes, complex, dict, float, int, list, set, str, tuple, type(None))


class ConfigLoader(yaml.UnsafeLoader):
    """Makes dataclasses, paths and enumerations; raises yaml.YAMLError, by name, for anything else."""

    def find_python_name(self, name: str, mark: Any, unsafe: bool = False) -> Any:
        if not any(name.startswith(f"{package}.") for package in PACKAGES) and "." in name:
            raise _refused(name, mark)
        found = super().find_python_name(name, mark)
        if name in FUNCTIONS:
            return found
        if not isinstance(found, type) or (found.__module__ == "builtins" and found not in PLAIN):
            raise _refused(name, mark)
        return found

    def find_python_module(self, name: str, mark: Any, unsafe: bool = False) -> Any:
        raise _refused(name, mark)

    def make_python_instance(
        self, suffix: str, node: Any, args: Any = None, kwds: Any = None, newobj: bool = False, unsafe: bool = False
    ) -> Any:
        if suffix == "builtins.getattr" and _names_a_member(args):
            return args[0][args[1]]  # how Python 3.11.0 to 3.11.3 write the member of an enumeration
        kind = self.find_python_name(suffix, node.start_mark)
        is_value = isinstance(kind, type) and issubclass(kind, VALUES)
        if not is_value and not (newobj and dataclasses.is_dataclass(kind)):
            raise _refused(suffix, node.start_mark)
        return super().make_python_instance(suffix, node, args, kwds, newobj)


def _names_a_member(args: Any) -> bool:
    """Whether `args` are an enumeration and the name of one of its members."""
    if not args or len(args) != 2 or not isinstance(args[0], type) or not issubclass(args[0], enum.Enum):
        return False
    return isinstance(args[1], str) and args[1] in args[0].__members__


def _refused(name: str, mark: Any) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, f"{name} has no place in a run's configuration", mark)


def read_config(path: pathlib.Path) -> Any:
    """The object in a config.yml; raises ValueError, in one line, for one that is damaged or names anything unusual."""
    loader = ConfigLoader(path.read_text("utf8"))
    try:
        return loader.get_single_data()
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ValueError(f"{path} cannot be read as the configuration of a run: {problem}") from error
    finally:
        loader.dispose()
