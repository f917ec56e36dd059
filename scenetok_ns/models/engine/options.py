"""How the rendering engine works on a device."""

from __future__ import annotations

from dataclasses import dataclass

import torch

BFLOAT16_SINCE = (8, 0)
"""Compute capability (Ampere) from which on a GPU calculates in bfloat16."""


def suits_engine(device: torch.device) -> bool:
    """Whether the engine is worth having on a device: a CUDA GPU that calculates in bfloat16."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= BFLOAT16_SINCE


@dataclass(frozen=True)
class EngineOptions:
    """Settings of an engine; `for_device` has those that make sense."""

    dtype: torch.dtype = torch.bfloat16
    """Of weights and activations. Latents, times and steps stay in float32."""
    graphs: bool = True
    """Replay CUDA graphs instead of launching kernels one by one. CUDA only."""
    autoencoders: bool = True
    """Encode and decode through `Autoencoder.for_inference` as well, in `dtype`. Off: the autoencoders as they are."""

    low_vram: bool = False
    """No graphs of autoencoders, which keep the memory that they were captured in."""

    @property
    def autocasts(self) -> bool:
        """Whether modules with float32 weights are run under autocast, to be as precise as the rest."""
        return self.dtype != torch.float32

    @classmethod
    def for_device(cls, device: torch.device, *, autoencoders: bool = True, low_vram: bool = False) -> EngineOptions:
        if device.type == "cuda":
            return cls(autoencoders=autoencoders, low_vram=low_vram)
        return cls(dtype=torch.float32, graphs=False, autoencoders=autoencoders, low_vram=low_vram)
