"""Read users' JSON files; an error says in one line how a file is broken."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any


class JsonError(ValueError):
    """A file is not valid JSON, or an entry is invalid; the message gives the reason without the file's name."""


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises JsonError, which does not name the file, if it cannot be read."""
    try:
        check_no_device(path)
        return json.loads(path.read_text("utf-8-sig"))  # with or without a byte order mark
    except UnicodeDecodeError:
        problem = "it is not UTF-8 text"
    except RecursionError:
        problem = "it is nested too deeply"
    except OSError as error:
        problem = error.strerror or str(error)
    except ValueError as error:  # json's own, and Python's about numbers of thousands of digits
        problem = f"it is not JSON: {str(error).splitlines()[0]}"
    raise JsonError(problem)


def check_no_device(path: Path) -> None:
    """Raise OSError if `path` is a device such as /dev/zero, which can be read from endlessly."""
    if path.is_char_device() or path.is_block_device():
        raise OSError("it is a device, not a file")


def number(value: Any, name: str, *, above: float = -math.inf, below: float = math.inf) -> float:
    """Return `value` as a finite number between two bounds, both excluded.

    Raises:
        JsonError: It is something else; the message names the entry, the bounds and the value.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            found = float(value)
        except OverflowError:
            found = math.inf
        if above < found < below:
            return found
    bounds = [f"above {above:g}"] * (above > -math.inf) + [f"below {below:g}"] * (below < math.inf)
    wanted = f"a number {' and '.join(bounds)}" if bounds else "a finite number"
    text = repr(value)
    raise JsonError(f"{name} is {text if len(text) <= 40 else text[:37] + '...'}, expected {wanted}")
