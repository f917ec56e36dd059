"""Build autoencoders and their latent spaces from an `AutoencoderConfig`. Only this module knows their names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch

from scenetok_ns.models.autoencoders import conv, pixel, vavae, video_dcae, wan
from scenetok_ns.models.autoencoders.base import Autoencoder, LatentSpace, to_channels_last
from scenetok_ns.models.presets import AutoencoderConfig, Encoding, Preset
from scenetok_ns.models.weight_files import embedded_weights, load_weights

Use = Literal["online", "precompute"]
"""online: images are encoded and latents decoded when needed. precompute: latents are computed once and stored. The
published code runs the same networks with different settings in these two cases."""


@dataclass(frozen=True)
class _Pretrained:
    """An autoencoder with a file of weights."""

    file: str
    url: str
    load: Callable[[LatentSpace, Path, torch.device, torch.dtype, Use], Autoencoder]
    cuda_dtype: dict[Use, torch.dtype]
    """Default dtype on CUDA; elsewhere it is float32."""


@dataclass(frozen=True)
class _Entry:
    """How to build one kind of autoencoder: with `pretrained`, or with `build` if it has no published weights."""

    space: Callable[[AutoencoderConfig], LatentSpace]
    pretrained: _Pretrained | None = None
    build: Callable[[LatentSpace], Autoencoder] | None = None
    samples: bool = False
    """Whether images become a Gaussian, from which latents may be sampled."""


def _load_vavae(space: LatentSpace, path: Path, device: torch.device, dtype: torch.dtype, use: Use) -> Autoencoder:
    return vavae.VAVAE(space, vavae.load_network(path, vavae.VAVAEConfig(), device, dtype))


def _load_video_dcae(space: LatentSpace, path: Path, device: torch.device, dtype: torch.dtype, use: Use) -> Autoencoder:
    network = video_dcae.load_network(path, video_dcae.VideoDCAEConfig(), device, dtype)
    tiling = video_dcae.ONLINE_TILING if use == "online" else video_dcae.PRECOMPUTE_TILING
    return video_dcae.VideoDCAE(space, network, tiling)


def _load_wan(space: LatentSpace, path: Path, device: torch.device, dtype: torch.dtype, use: Use) -> Autoencoder:
    network = wan.load_network(path, wan.WanConfig(), device, dtype)
    if device.type == "cuda":  # measured: 14 % faster; the other autoencoders get slower (docs/performance.md)
        to_channels_last(network)
    return wan.WanVAE(space, network)


def _build_conv(space: LatentSpace) -> Autoencoder:
    codec = conv.ConvCodec()
    load_weights({"codec": codec}, embedded_weights("scenetok-tiny"))
    return conv.ConvAutoencoder(space, codec)


_ENTRIES: dict[str, _Entry] = {
    "pixel": _Entry(pixel.pixel_latent_space, build=pixel.PixelAutoencoder),
    "conv": _Entry(conv.conv_latent_space, build=_build_conv),
    "vavae": _Entry(
        vavae.vavae_latent_space,
        _Pretrained(
            vavae.WEIGHTS_FILE,
            "https://huggingface.co/hustvl/vavae-imagenet256-f16d32-dinov2",
            _load_vavae,
            {"online": torch.bfloat16, "precompute": torch.float32},
        ),
        samples=True,
    ),
    "video_dcae": _Entry(
        video_dcae.video_dcae_latent_space,
        _Pretrained(
            video_dcae.WEIGHTS_FILE,
            "https://huggingface.co/hpcai-tech/Open-Sora-v2-Video-DC-AE",
            _load_video_dcae,
            {"online": torch.float32, "precompute": torch.bfloat16},
        ),
    ),
    "wan": _Entry(
        wan.wan_latent_space,
        _Pretrained(
            wan.WEIGHTS_FILE,
            "https://huggingface.co/Wan-AI/Wan2.2-TI2V-5B",
            _load_wan,
            {"online": torch.bfloat16, "precompute": torch.float32},  # the reference has no script that precomputes
        ),
    ),
}


def latent_space(config: AutoencoderConfig) -> LatentSpace:
    """Return layout, sizes and statistics of an autoencoder. Needs neither its weights nor its library."""
    return _entry(config).space(config)


def check_encoding(preset: Preset, encoding: Encoding, option: str) -> None:
    """Raise ValueError for an encoding that would change nothing, or is unknown. `option` is the flag that set it."""
    if encoding not in get_args(Encoding):
        raise ValueError(f"{option}: expected {', '.join(get_args(Encoding))}, got {encoding!r}")
    config = preset.context_autoencoder
    draws_tokens = encoding == "published" and preset.scene_generator is None
    if encoding != "mean" and not draws_tokens and not _entry(config).samples:
        raise ValueError(
            f"{option} {encoding} would change nothing: the {config.name} autoencoder of preset {preset.name} has one "
            "latent for each image; leave it out"
        )


def build_autoencoder(
    config: AutoencoderConfig,
    weights: Path | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    use: Use = "online",
) -> Autoencoder:
    """Build a frozen autoencoder in eval mode.

    Args:
        config: The autoencoder.
        weights: Published weight file, or a folder in diffusers' format. None only for autoencoders without published
            weights.
        device: Device of the weights.
        dtype: Dtype of the weights and of the computation. None: that of the published code on CUDA (online: VA-VAE and
            Wan in bfloat16, Video DC-AE in float32; precompute: Video DC-AE in bfloat16, the others in float32), and
            float32 elsewhere.
        use: Settings of the published code, for encoding and decoding on the fly or for stored latents. For the latter,
            Video DC-AE encodes groups of 16 frames separately.

    Raises:
        ValueError: The weights are missing, or belong to something else.
        ImportError: A library is missing; the message names the extra to install.
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
            dtype = default_dtype(config, device, use)
        made = entry.pretrained.load(space, Path(weights), device, dtype, use)
    return made.requires_grad_(False).eval()


def default_dtype(config: AutoencoderConfig, device: torch.device, use: Use = "online") -> torch.dtype:
    """Return the dtype that `build_autoencoder` chooses by default."""
    pretrained = _entry(config).pretrained
    return pretrained.cuda_dtype[use] if pretrained and device.type == "cuda" else torch.float32


def cuda_dtype(config: AutoencoderConfig) -> torch.dtype | None:
    """Return the dtype of the published code on a GPU; None for autoencoders without published weights."""
    return None if weights_file(config) is None else default_dtype(config, torch.device("cuda"))


def weights_file(config: AutoencoderConfig) -> str | None:
    """Published name of the weight file, or None if the autoencoder has none."""
    pretrained = _entry(config).pretrained
    return pretrained.file if pretrained else None


def _entry(config: AutoencoderConfig) -> _Entry:
    if config.name not in _ENTRIES:
        raise ValueError(f"there is no autoencoder {config.name!r}; known: {', '.join(sorted(_ENTRIES))}")
    return _ENTRIES[config.name]
