"""Advice on a better scene from photographs, for the commands that print it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from scenetok_ns.tools.printing import command

FEW_PHOTOGRAPHS = 12
"""Number of photographs below which fitting tokens improves a scene more than refining does."""
FIT_STEPS = 60
"""Number of fitting steps to try."""


REFINING_TIME = "300 steps: 12 minutes or more on a CPU, far fewer on a GPU"
"""Duration of `refining_command` with its default number of steps."""


def encoding_command(data: Path) -> str:
    """Command that encodes a capture and fits the tokens."""
    return command("scenetok", "encode", "--data", data, "--output", "scene.safetensors", "--fit-steps", FIT_STEPS)


def refining_command(data: Path, dataparser: Sequence[str] = ()) -> str:
    """Command that refines a capture. `dataparser`: words that name it, if it is not nerfstudio-data."""
    return command("ns-train", "scenetok-refine", "--data", data, *dataparser)


def needs_fitting(photographs: int | None) -> bool:
    """Whether to advise fitting tokens instead of refining. None: number not known."""
    return photographs is not None and photographs < FEW_PHOTOGRAPHS


def improvement(data: Path, photographs: int | None, dataparser: Sequence[str] = ()) -> str:
    """One sentence on how to improve the scene of a capture, with the command.

    Args:
        data: The capture.
        photographs: Number of its photographs; None: not known.
        dataparser: As in `refining_command`.
    """
    if needs_fitting(photographs):
        return f"To improve the scene, fit its tokens to the photographs: {encoding_command(data)}"
    refining = refining_command(data, dataparser)
    return f"To improve the scene a lot, refine it on its photographs ({REFINING_TIME}): {refining}"
