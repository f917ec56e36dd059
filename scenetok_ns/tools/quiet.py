"""Whether this process prints nothing but errors (`--quiet`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_quiet = False


def is_quiet() -> bool:
    """Whether progress, hints and results must not be printed."""
    return _quiet


@contextmanager
def quiet_printing(wanted: bool) -> Iterator[None]:
    """Print nothing but errors inside the body if `wanted`."""
    global _quiet
    before, _quiet = _quiet, wanted
    try:
        yield
    finally:
        _quiet = before
