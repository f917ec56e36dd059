"""How the rendering engine works on a device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

CompilePolicy = Literal["auto", "always", "never"]


@dataclass(frozen=True)
class EngineOptions:
    """Settings of an engine; `for_device` has those that make sense."""

    dtype: torch.dtype = torch.bfloat16
    """Of weights and activations. Latents, times and steps stay in float32."""
    graphs: bool = True
    """Replay CUDA graphs instead of launching kernels one by one. CUDA only."""
    low_vram: bool = False
    """Send the networks that weights were copied from to main memory, and decode in smaller pieces."""
    compile: CompilePolicy = "auto"
    """torch.compile of the blocks. auto: on CUDA, once enough has been asked for to make up for the time it takes."""

    @property
    def autocasts(self) -> bool:
        """Whether modules with float32 weights are run under autocast, to be as precise as the rest."""
        return self.dtype != torch.float32

    @classmethod
    def for_device(cls, device: torch.device, *, low_vram: bool = False) -> EngineOptions:
        if device.type == "cuda":
            return cls(low_vram=low_vram)
        return cls(dtype=torch.float32, graphs=False, low_vram=low_vram, compile="never")
