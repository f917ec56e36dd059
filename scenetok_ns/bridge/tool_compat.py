"""Change Nerfstudio's own tools: load checkpoints with newer torch, and print readable errors for our runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import numpy as np
import torch

from scenetok_ns.tools.errors import (
    REPORT,
    TRACEBACK,
    described,
    first_line,
    frames_of,
    is_inside,
    print_error,
    wants_traceback,
)


def allow_numpy_scalars() -> None:
    """Let `torch.load(weights_only=True)` read numpy's scalars.

    Stock learning-rate schedules put them into checkpoints, which stock ns-eval and ns-viewer then refuse since
    torch 2.6. A numpy scalar is a number: reading one does not run code from the file.
    """
    make_scalar: Any = np.float64(0).__reduce__()[0]  # lives in another module in each major version of numpy
    number_types = [type(np.dtype(name)) for name in ("float64", "float32", "int64", "int32", "bool")]
    torch.serialization.add_safe_globals([make_scalar, np.dtype, *number_types])


def shorten_errors() -> None:
    """Print one line instead of a traceback when a tool of Nerfstudio ends with an error about the input of our runs.

    After Ctrl-C, the line is "interrupted", and "viewer closed" at the end of ns-viewer. Wraps `sys.excepthook`.
    Errors of other methods' runs go to the earlier hook unchanged. So do our own bugs, followed by a request to report
    them.
    """
    stock = sys.excepthook

    def report(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        frames = frames_of(traceback)
        if isinstance(error, KeyboardInterrupt) and is_our_run(frames) and not wants_traceback():
            serves = any(frame.f_code.co_name == "_start_viewer" for frame in frames)
            print_error("viewer closed" if serves else "interrupted")
            return
        message, ours = None, False
        if isinstance(error, Exception) and is_our_run(frames):
            message, ours = _about_file(error, frames) or described(error), True
        if message is None or wants_traceback():
            stock(kind, error, traceback)
        if message is not None:
            print_error(f"error: {message}\n({TRACEBACK}=1 shows where)")
        elif ours and frames and is_inside(frames[-1].f_code.co_filename):
            print_error(REPORT)

    sys.excepthook = report


def is_our_run(frames: Sequence[FrameType]) -> bool:
    """Whether a tool of Nerfstudio was working on a run of one of our methods.

    That is the case if there are frames of this package, or the tool's frames hold a configuration, a pipeline or a
    config.yml of this package.
    """
    return any(is_inside(frame.f_code.co_filename) or _holds_ours(frame) for frame in frames)


def _holds_ours(frame: FrameType) -> bool:
    values = frame.f_locals
    config, path = values.get("config"), values.get("config_path")
    if any(_is_ours(value) for value in (config, getattr(config, "pipeline", None), values.get("pipeline"))):
        return True
    return _is_stock(frame, "eval_setup") and isinstance(path, Path) and _names_us(path)


def _is_stock(frame: FrameType, function: str) -> bool:
    """Whether a frame is a call of this function in nerfstudio.utils.eval_utils.

    The module itself cannot be imported while plugins are being imported.
    """
    return frame.f_code.co_name == function and frame.f_globals.get("__name__") == "nerfstudio.utils.eval_utils"


def _is_ours(value: Any) -> bool:
    return type(value).__module__.startswith("scenetok_ns.")


def _names_us(config: Path) -> bool:
    """Whether a config.yml, which may be damaged, names classes of this package."""
    try:
        return b"scenetok_ns." in config.read_bytes()
    except OSError:
        return False


def opened_config() -> Path | None:
    """Return the config.yml that a tool of Nerfstudio is opening, taken from the tool's frame; None if there is none.

    A configuration does not know the file that it was read from, but the tools ask it for the folder of checkpoints.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if _is_stock(frame, "eval_setup"):
            path = frame.f_locals.get("config_path")
            return path if isinstance(path, Path) else None
        frame = frame.f_back
    return None


# --- What an error of a tool is about ---


def _about_file(error: Exception, frames: Sequence[FrameType]) -> str | None:
    """Describe in one line a file or option that a tool of Nerfstudio could not use; None for other errors."""
    for frame in frames:
        code, values = frame.f_code, frame.f_locals
        if code is torch.load.__code__:
            return f"checkpoint {values.get('f')} cannot be read: {_short(error)}; is the file complete?"
        if _is_stock(frame, "eval_setup") and "pipeline" not in values and described(error) is None:
            return _about_config(Path(values["config_path"]), error, is_read="config" in values)
        if _is_stock(frame, "eval_load_checkpoint") and not _goes_on(frame, frames):
            return _about_checkpoints(Path(values["config"].load_dir), error)
        steps = getattr(values.get("self"), "interpolation_steps", 1)
        if isinstance(steps, int) and steps < 1 and code.co_name == "main":
            return f"--interpolation-steps must be at least 1, got {steps}"
        path = getattr(values.get("self"), "camera_path_filename", None)
        if path is not None and "pipeline" in values:
            return _about_camera_path(Path(path))
    return None


def _goes_on(frame: FrameType, frames: Sequence[FrameType]) -> bool:
    """Whether `frame` had called this package or torch when the error was raised."""
    later = frames[list(frames).index(frame) + 1 :]
    return any(is_inside(one.f_code.co_filename) or one.f_code is torch.load.__code__ for one in later)


def _about_config(path: Path, error: Exception, *, is_read: bool) -> str | None:
    """Describe the problem with a config.yml, which the stock loader does not check; None if there is none."""
    from scenetok_ns.tools.safe_config import read_config

    try:
        read_config(path)
    except (ValueError, OSError) as problem:
        return str(problem)
    return None if is_read else f"{path} cannot be read as the configuration of a scenetok run: {_short(error)}"


def _about_checkpoints(folder: Path, error: Exception) -> str:
    if not any(folder.glob("step-*.ckpt")):
        return f"no checkpoint (step-NNNNNNNNN.ckpt) in {folder}; the run is not complete: train or import it again"
    return f"{folder} must hold checkpoints (step-NNNNNNNNN.ckpt) only: {_short(error)}; move other files away"


def _about_camera_path(path: Path) -> str | None:
    from scenetok_ns.data.camera_path_files import check_camera_path

    try:
        check_camera_path(path)
    except (ValueError, OSError) as problem:
        return str(problem)
    return None


def _short(error: Exception) -> str:
    return first_line(error).split(". ")[0]
