"""What is known of all steps before the first one."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from scenetok_ns.models.flow import multistep_ratio


def step_table(times: Float[Tensor, "steps+1 latents"], device: torch.device) -> Float[Tensor, "steps 2 latents"]:
    """Length of each step in time, and the weight of the last change of velocity in it (`flow.multistep_ratio`)."""
    now, after = times[:-1], times[1:]
    before = torch.cat([now[:1], now[:-1]])
    return to_device(torch.stack([after - now, multistep_ratio(before, now, after)], dim=1), device)


def to_device(table: Tensor, device: torch.device) -> Tensor:
    """A table made on the CPU, without waiting for the device."""
    if device.type != "cuda":
        return table.to(device)
    return table.pin_memory().to(device, non_blocking=True)
