"""What Nerfstudio's own tools need from the outside: newer torch, and errors that a person can read."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

TRACEBACK = "SCENETOK_TRACEBACK"
"""Environment variable; if set, errors show where they come from."""


def allow_numpy_scalars() -> None:
    """Let `torch.load(weights_only=True)` read numpy's scalars.

    Stock learning-rate schedules put them into checkpoints, which stock ns-eval and ns-viewer then refuse since
    torch 2.6. A numpy scalar is a number: reading one runs no code of the file's.
    """
    make_scalar: Any = np.float64(0).__reduce__()[0]  # lives in another module in each major version of numpy
    number_types = [type(np.dtype(name)) for name in ("float64", "float32", "int64", "int32", "bool")]
    torch.serialization.add_safe_globals([make_scalar, np.dtype, *number_types])


def shorten_errors() -> None:
    """Let errors that this package raises about its input end a tool with their one line instead of a traceback."""
    stock = sys.excepthook

    def report(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        message = str(error) if is_about_input(error, traceback) else about_checkpoint(error, traceback)
        if TRACEBACK in os.environ or message is None:
            stock(kind, error, traceback)
        else:
            print(f"error: {message}\n({TRACEBACK}=1 shows where)", file=sys.stderr)

    sys.excepthook = report


def is_about_input(error: BaseException, traceback: TracebackType | None) -> bool:
    """Whether `error` was raised by this package's own code as a complaint about what it was given."""
    if traceback is None or not isinstance(error, (ValueError, OSError, ImportError)):
        return False
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    source = Path(traceback.tb_frame.f_code.co_filename)
    return Path(__file__).parents[1] in source.parents


def about_checkpoint(error: BaseException, traceback: TracebackType | None) -> str | None:
    """One line about a checkpoint that torch could not read for a stock tool; None: `error` is about something else."""
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if code is torch.load.__code__:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0]
            return f"checkpoint {traceback.tb_frame.f_locals.get('f')} cannot be read: {reason}; is the file whole?"
        traceback = traceback.tb_next
    return None
