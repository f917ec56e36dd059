"""Build dataclasses from YAML files; errors name unknown, missing, wrongly typed and impossible values."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

LARGEST = 1e9
"""Largest absolute value that a number in a file may have."""


def read_yaml(path: Path) -> Any:
    """Read plain values from a YAML file. Raises a one-line ValueError with the file's name if it is not YAML."""
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
    except ValueError as error:  # an impossible date or number
        reason = str(error).splitlines()[0]
    raise ValueError(f"{path} cannot be read: {reason}")


def build(cls: type, values: dict[str, Any], where: str) -> Any:
    """Build a dataclass, nested ones included, from plain YAML values.

    Args:
        cls: The dataclass.
        values: Its fields by name.
        where: File, or place in the file, that error messages begin with.

    Raises:
        ValueError: Fields are unknown, missing or of the wrong type; the message names them.
    """
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
    """Raise ValueError unless each named field is None or lies within its bounds (low, high), both included."""
    for name, (low, high) in bounds.items():
        value = getattr(config, name)
        if value is not None and not low <= value <= high:
            upper = f" and at most {high:g}" if high < LARGEST else ""
            raise ValueError(f"{where}: {name} must be at least {low:g}{upper}, got {value}")


def check_divides(where: str, name: str, value: int, divisor_name: str, divisor: int) -> None:
    """Raise ValueError unless `value` is a multiple of `divisor`, and both are above 0."""
    if divisor < 1 or value < 1 or value % divisor:
        raise ValueError(f"{where}: {name} {value} is not a multiple of {divisor_name} {divisor}")
