"""Look up the device that a user names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scenetok_ns.tools.errors import UsageError

if TYPE_CHECKING:
    import torch


def chosen_device(name: str | None) -> torch.device:
    """Return the device that --device names. None means the GPU, or the CPU if there is no GPU. Raises UsageError."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu") if name is None else named_device(name)


def named_device(name: str) -> torch.device:
    """Return the device that --device names. Raises UsageError if this machine does not have it."""
    import torch

    count = torch.cuda.device_count()
    known = ["cpu", *(["cuda"] if count else []), *(f"cuda:{i}" for i in range(count))]
    if name not in known:
        raise UsageError(f"--device {name}: this machine has {', '.join(known)}")
    return torch.device(name)
