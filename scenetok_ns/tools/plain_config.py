"""Read the values in a run's config.yml without importing the classes that it names, be they Nerfstudio's or ours.

`safe_config.read_config` builds the configuration itself, but its imports take seconds.
"""

from __future__ import annotations

import pathlib
from typing import Any

import yaml

from scenetok_ns.tools.safe_config import PATHS, PYTHON


def read_values(path: pathlib.Path) -> dict[str, Any]:
    """Read a config.yml as dictionaries, lists, paths and plain values. No class or function is imported or called.

    Args:
        path: The file.

    Returns:
        The fields of the configuration. An object becomes the dictionary of its fields, a tuple a list; any other
        Python object becomes None.

    Raises:
        ValueError: The file is damaged or does not hold a configuration; one line.
        OSError: The file cannot be read.
    """
    problem = "it does not hold the fields of a configuration"
    try:
        loader = _PlainLoader(path.read_text("utf8"))
        try:
            values = loader.get_single_data()
        finally:
            loader.dispose()
        if isinstance(values, dict):
            return values
    except UnicodeDecodeError:
        problem = "it is not UTF-8 text"
    except RecursionError:
        problem = "it is nested too deeply"
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:
        problem = (getattr(error, "problem", None) or str(error)).splitlines()[0]
    raise ValueError(f"{path} cannot be read as the configuration of a scenetok run: {problem}")


class _PlainLoader(yaml.SafeLoader):
    """YAML's safe loader, extended to read a Python object as the dictionary of its fields."""

    def _plain(self, suffix: str, node: yaml.Node) -> Any:
        if isinstance(node, yaml.MappingNode):
            return self.construct_mapping(node, deep=True)
        if not isinstance(node, yaml.SequenceNode):
            return None
        values = self.construct_sequence(node, deep=True)
        if suffix.removeprefix("object/apply:") in PATHS and all(isinstance(part, str) for part in values):
            return pathlib.Path(*values)
        return values if suffix == "tuple" else None


_PlainLoader.add_multi_constructor(PYTHON, _PlainLoader._plain)
