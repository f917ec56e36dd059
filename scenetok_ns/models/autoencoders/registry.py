"""From an `AutoencoderConfig` to its latent space and to the autoencoder itself: the one place that knows the names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from scenetok_ns.models.autoencoders.base import Autoencoder, LatentSpace
from scenetok_ns.models.autoencoders.pixel import PixelAutoencoder, pixel_latent_space
from scenetok_ns.models.presets import AutoencoderConfig


@dataclass(frozen=True)
class _Entry:
    space: Callable[[AutoencoderConfig], LatentSpace]
    build: Callable[[LatentSpace, Path | None, torch.device, torch.dtype | None], Autoencoder]


def _build_pixel(
    space: LatentSpace, weights: Path | None, device: torch.device, dtype: torch.dtype | None
) -> Autoencoder:
    if weights is not None:
        raise ValueError(f"the pixel autoencoder has no weights, got {weights}; leave the path out")
    return PixelAutoencoder(space)


_ENTRIES: dict[str, _Entry] = {
    "pixel": _Entry(pixel_latent_space, _build_pixel),
}


def latent_space(config: AutoencoderConfig) -> LatentSpace:
    """Layout, sizes and statistics of an autoencoder; needs neither its weights nor its library."""
    return _entry(config).space(config)


def build_autoencoder(
    config: AutoencoderConfig,
    weights: Path | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> Autoencoder:
    """The frozen autoencoder on `device`, ready to use.

    `weights`: the file as published (or a folder in diffusers' format); None only for autoencoders without weights.
    `dtype` of the weights and of the computation; None takes the autoencoder's own choice for the device.
    Raises ValueError (wrong or missing weights, by name) and ImportError (names the extra to install).
    """
    entry = _entry(config)
    return entry.build(entry.space(config), weights, torch.device(device), dtype).requires_grad_(False).eval()


def _entry(config: AutoencoderConfig) -> _Entry:
    if config.name not in _ENTRIES:
        raise ValueError(f"there is no autoencoder {config.name!r}; known: {', '.join(sorted(_ENTRIES))}")
    return _ENTRIES[config.name]
