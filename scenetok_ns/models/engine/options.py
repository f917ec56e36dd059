"""How the rendering engine works on a device."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

BFLOAT16_SINCE = (8, 0)
"""Minimum compute capability of GPUs that calculate in bfloat16 (Ampere)."""


def suits_engine(device: torch.device) -> bool:
    """Whether the engine is faster than the plain loop on a device: a CUDA GPU that calculates in bfloat16."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= BFLOAT16_SINCE


@dataclass(frozen=True)
class EngineOptions:
    """Settings of an engine; `for_device` chooses them."""

    dtype: torch.dtype = torch.bfloat16
    """Dtype of weights and activations. Latents, times and steps stay in float32."""
    graphs: bool = True
    """Replay CUDA graphs instead of launching kernels one by one. CUDA only."""
    autoencoders: bool = True
    """Encode and decode through `Autoencoder.for_inference` as well, in `dtype`. Off: use autoencoders as they are."""
    exact_tokens: bool = False
    """Keep the compressor's stream of scene tokens in float32 between its layers, as training under autocast does.
    Each layer still runs in `dtype`."""
    low_vram: bool = False
    """Capture no graphs of autoencoders, because a graph keeps its memory. Keep no copies of networks that the current
    work does not need. Compute the modulations of one denoising step at a time."""

    @property
    def autocasts(self) -> bool:
        """Whether modules with float32 weights run under autocast, at the precision of the rest."""
        return self.dtype != torch.float32

    @classmethod
    def for_device(cls, device: torch.device, *, autoencoders: bool = True, low_vram: bool = False) -> EngineOptions:
        """Choose settings for a device.

        Args:
            device: Device of the engine.
            autoencoders: Use copies of the autoencoders in half precision. Off: the exact engine, which leaves them in
                their own precision and keeps the compressor's tokens in float32.
            low_vram: Save memory on the GPU.
        """
        options = cls(autoencoders=autoencoders, exact_tokens=not autoencoders, low_vram=low_vram)
        return options if device.type == "cuda" else replace(options, dtype=torch.float32, graphs=False)
