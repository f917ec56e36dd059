"""From an `AutoencoderConfig` to its latent space and to the autoencoder itself: the one place that knows the names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from scenetok_ns.models.autoencoders import pixel, vavae, video_dcae, wan
from scenetok_ns.models.autoencoders.base import Autoencoder, LatentSpace
from scenetok_ns.models.presets import AutoencoderConfig


@dataclass(frozen=True)
class _Pretrained:
    """An autoencoder with a file of weights."""

    file: str
    url: str
    load: Callable[[LatentSpace, Path, torch.device, torch.dtype], Autoencoder]
    cuda_dtype: torch.dtype
    """What it runs in on CUDA if nothing else is asked for; elsewhere float32."""


@dataclass(frozen=True)
class _Entry:
    """How to make one kind of autoencoder: `pretrained`, or `build` where there are no weights."""

    space: Callable[[AutoencoderConfig], LatentSpace]
    pretrained: _Pretrained | None = None
    build: Callable[[LatentSpace], Autoencoder] | None = None


_ENTRIES: dict[str, _Entry] = {
    "pixel": _Entry(pixel.pixel_latent_space, build=pixel.PixelAutoencoder),
    "vavae": _Entry(
        vavae.vavae_latent_space,
        _Pretrained(
            vavae.WEIGHTS_FILE,
            "https://huggingface.co/hustvl/vavae-imagenet256-f16d32-dinov2",
            lambda space, path, device, dtype: vavae.VAVAE(
                space, vavae.load_network(path, vavae.VAVAEConfig(), device, dtype)
            ),
            torch.bfloat16,
        ),
    ),
    "video_dcae": _Entry(
        video_dcae.video_dcae_latent_space,
        _Pretrained(
            video_dcae.WEIGHTS_FILE,
            "https://huggingface.co/hpcai-tech/Open-Sora-v2-Video-DC-AE",
            lambda space, path, device, dtype: video_dcae.VideoDCAE(
                space, video_dcae.load_network(path, video_dcae.VideoDCAEConfig(), device, dtype)
            ),
            torch.float32,
        ),
    ),
    "wan": _Entry(
        wan.wan_latent_space,
        _Pretrained(
            wan.WEIGHTS_FILE,
            "https://huggingface.co/Wan-AI/Wan2.2-TI2V-5B",
            lambda space, path, device, dtype: wan.WanVAE(
                space, wan.load_network(path, wan.WanConfig(), device, dtype)
            ),
            torch.bfloat16,
        ),
    ),
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
    `dtype` of the weights and of the computation; None: what the reference runs it in on CUDA (VA-VAE and Wan bfloat16,
    Video DC-AE float32), float32 elsewhere.
    Raises ValueError (wrong or missing weights, by name) and ImportError (names the extra to install).
    """
    entry, device = _entry(config), torch.device(device)
    space = entry.space(config)
    if entry.pretrained is None:
        if weights is not None:
            raise ValueError(f"the {config.name} autoencoder has no weights, got {weights}; leave the path out")
        assert entry.build is not None
        made = entry.build(space)
    else:
        if weights is None:
            raise ValueError(
                f"the {config.name} autoencoder needs its weights: give the path of {entry.pretrained.file} "
                f"({entry.pretrained.url})"
            )
        if dtype is None:
            dtype = entry.pretrained.cuda_dtype if device.type == "cuda" else torch.float32
        made = entry.pretrained.load(space, Path(weights), device, dtype)
    return made.requires_grad_(False).eval()


def weights_file(config: AutoencoderConfig) -> str | None:
    """Published name of the file of weights; None: this autoencoder has none."""
    pretrained = _entry(config).pretrained
    return pretrained.file if pretrained else None


def _entry(config: AutoencoderConfig) -> _Entry:
    if config.name not in _ENTRIES:
        raise ValueError(f"there is no autoencoder {config.name!r}; known: {', '.join(sorted(_ENTRIES))}")
    return _ENTRIES[config.name]
