"""Dataclasses from YAML files: unknown, missing, wrongly typed and impossible values are named."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

LARGEST = 1e9
"""Bound of every number in a file."""


def read_yaml(path: Path) -> Any:
    """Read plain values. Raises ValueError, in one line with the file's name, for a file that is not YAML."""
    try:
        return yaml.safe_load(path.read_text("utf8"))
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error)
        place = "" if mark is None else f" in line {mark.line + 1}"
        reason = f"it is not YAML{place}: {str(problem).splitlines()[0]}"
    except UnicodeDecodeError:
        reason = "it is not UTF-8 text"
    except RecursionError:
        reason = "it is nested too deeply"
    except ValueError as error:  # of a date or a number that cannot be
        reason = str(error).splitlines()[0]
    raise ValueError(f"{path} cannot be read: {reason}")


def build(cls: type, values: dict[str, Any], where: str) -> Any:
    """Make a (nested) dataclass from plain YAML values; unknown, missing and wrongly typed fields are named."""
    hints = get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    if not isinstance(values, dict):
        raise ValueError(f"{where}: expected the fields of {cls.__name__}, got {values!r}")
    unknown = sorted(set(values) - set(fields))
    missing = sorted(name for name, f in fields.items() if name not in values and f.default is dataclasses.MISSING)
    if unknown or missing:
        raise ValueError(f"{where}: {cls.__name__} has unknown fields {unknown} and lacks {missing}")
    made = {name: _convert(hints[name], value, f"{where}: {name}") for name, value in values.items()}
    return cls(**made)


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return build(hint, value, where)
    origin, options = get_origin(hint), get_args(hint)
    if origin is Literal:
        if value not in options:
            raise ValueError(f"{where}: expected one of {list(options)}, got {value!r}")
        return value
    if origin in (Union, UnionType):
        (inner,) = (option for option in options if option is not type(None))
        return None if value is None else _convert(inner, value, where)
    if origin is tuple:
        items = value if isinstance(value, list) else [value]
        wanted = [options[0]] * len(items) if options[-1] is Ellipsis else list(options)
        if not isinstance(value, list) or len(items) != len(wanted):
            raise ValueError(f"{where}: expected a list of {len(wanted)} numbers, got {value!r}")
        return tuple(_convert(option, item, where) for option, item in zip(wanted, items, strict=True))
    accepted = (int, float) if hint is float else hint
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(f"{where}: expected {hint.__name__}, got {value!r}")
    if isinstance(value, (int, float)) and not abs(value) <= LARGEST:
        raise ValueError(f"{where}: expected a finite number, got {value!r:.40}")
    return hint(value)


def check_range(where: str, config: Any, **bounds: tuple[float, float]) -> None:
    """Raise ValueError unless fields that are not None lie between two bounds, both allowed."""
    for name, (low, high) in bounds.items():
        value = getattr(config, name)
        if value is not None and not low <= value <= high:
            upper = f" and at most {high:g}" if high < LARGEST else ""
            raise ValueError(f"{where}: {name} must be at least {low:g}{upper}, got {value}")


def check_divides(where: str, name: str, value: int, divisor_name: str, divisor: int) -> None:
    """Raise ValueError unless one count is a multiple of another, both above 0."""
    if divisor < 1 or value < 1 or value % divisor:
        raise ValueError(f"{where}: {name} {value} is not a multiple of {divisor_name} {divisor}")
