"""VA-VAE (f16, d32): the image autoencoder of context views, through diffusers' AutoencoderKL.

Published as `vavae-imagenet256-f16d32-dinov2.pt` (https://huggingface.co/hustvl/vavae-imagenet256-f16d32-dinov2).
Checked against recorded runs of the published network (parity case `vavae`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scenetok_ns.models.autoencoders import weights as weight_files
from scenetok_ns.models.autoencoders.base import Autoencoder, LatentSpace
from scenetok_ns.models.autoencoders.vavae_fast import FastEncoder
from scenetok_ns.models.ops.graphs import Replayed
from scenetok_ns.models.presets import AutoencoderConfig
from scenetok_ns.models.temporal import IMAGE_LAYOUT

WEIGHTS_FILE = "vavae-imagenet256-f16d32-dinov2.pt"

# fmt: off
LATENT_MEAN = (
    0.5985, -0.4992, 0.6440, -0.0971, -1.1910, -1.4332, 0.4685, 0.6259, 0.6320, -0.4897, -0.7445, 1.1596,
    0.8456, 0.5008, 0.2293, 0.4754, -0.4379, 0.8317, -0.0751, 0.3063, 0.4665, -0.0914, -0.8271, 0.0781,
    1.4151, 1.3792, 0.2696, -0.7573, 0.2813, -0.3092, 0.0779, 0.3497,
)
LATENT_STD = (
    3.8461, 4.2699, 3.5768, 3.5911, 3.6231, 3.4810, 3.3075, 3.5093, 3.5541, 3.6067, 3.7058, 3.6314,
    3.6295, 3.6205, 3.2590, 3.1868, 3.8258, 3.5999, 3.2966, 3.2261, 3.2192, 3.1055, 3.5805, 4.3569,
    3.3085, 3.2076, 4.5150, 3.4870, 3.0416, 3.4869, 4.4310, 4.0881,
)
# fmt: on
"""Channel statistics of raw latents, published with the weights (`latents_stats.pt`)."""

DROPPED_KEYS = {
    "loss.": "discriminator and perceptual network of its training",
    "foundation_model.": "the frozen DINOv2 its latents were aligned with",
    "linear_proj.": "projection of latents onto DINOv2's features, for the alignment loss",
}
"""Key prefixes of other modules in the published training checkpoint, and their contents."""


@dataclass(frozen=True)
class VAVAEConfig:
    """Sizes of the network; the defaults are the published ones."""

    widths: tuple[int, ...] = (128, 128, 256, 256, 512)
    """Widths of the levels, finest first. The coarsest level and both middle blocks have attention."""
    blocks_per_level: int = 2
    latent_channels: int = 32
    norm_groups: int = 32


def vavae_latent_space(config: AutoencoderConfig) -> LatentSpace:
    """Latent space with the published channel statistics. `config.scale` multiplies the normalised latents."""
    return LatentSpace(IMAGE_LAYOUT, 16, 32, LATENT_MEAN, tuple(std / config.scale for std in LATENT_STD))


def build_network(config: VAVAEConfig) -> nn.Module:
    """Build the network with random weights. Needs diffusers."""
    try:
        from diffusers import AutoencoderKL
    except ImportError as error:
        raise ImportError("VA-VAE needs diffusers: pip install 'scenetok-ns[autoencoders]'") from error
    plain = len(config.widths) - 1
    network: Any = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * plain + ("AttnDownEncoderBlock2D",),
        up_block_types=("AttnUpDecoderBlock2D",) + ("UpDecoderBlock2D",) * plain,
        block_out_channels=config.widths,
        layers_per_block=config.blocks_per_level,
        latent_channels=config.latent_channels,
        norm_num_groups=config.norm_groups,
        sample_size=256,
        scaling_factor=1.0,
    )
    return network


def key_rules(levels: int) -> tuple[tuple[str, str], ...]:
    """Replacements of fragments of diffusers' keys by fragments of the published keys, applied in this order.

    The published decoder counts its levels from the finest; diffusers counts from the level that runs first.
    """
    return (
        *((f"decoder.up_blocks.{levels - 1 - i}.resnets.", f"decoder.up.{i}.block.") for i in range(levels)),
        *((f"decoder.up_blocks.{levels - 1 - i}.attentions.", f"decoder.up.{i}.attn.") for i in range(levels)),
        *((f"decoder.up_blocks.{levels - 1 - i}.upsamplers.0.", f"decoder.up.{i}.upsample.") for i in range(levels)),
        *((f"encoder.down_blocks.{i}.resnets.", f"encoder.down.{i}.block.") for i in range(levels)),
        *((f"encoder.down_blocks.{i}.attentions.", f"encoder.down.{i}.attn.") for i in range(levels)),
        *((f"encoder.down_blocks.{i}.downsamplers.0.", f"encoder.down.{i}.downsample.") for i in range(levels)),
        ("mid_block.resnets.0.", "mid.block_1."),
        ("mid_block.resnets.1.", "mid.block_2."),
        ("mid_block.attentions.0.", "mid.attn_1."),
        ("conv_shortcut.", "nin_shortcut."),
        ("conv_norm_out.", "norm_out."),
        (".group_norm.", ".norm."),
        (".to_q.", ".q."),
        (".to_k.", ".k."),
        (".to_v.", ".v."),
        (".to_out.0.", ".proj_out."),
    )


def published_key(key: str, levels: int = 5) -> str:
    """Name in the published file of a parameter of diffusers' class (`key` is its name there)."""
    for ours, theirs in key_rules(levels):
        key = key.replace(ours, theirs)
    return key


REPLAYED_IMAGES = 6
"""Number of images in a CUDA graph of the encoder: half of the usual twelve, for which half a GiB is enough."""


class VAVAE(Autoencoder):
    """Image autoencoder with latents of 1/16 the height and width and 32 channels.

    The encoder outputs a diagonal Gaussian for each image. SceneTok was trained on samples from it, so pass `noise` to
    `encode` to reproduce its results; without noise, the mean is used. The network runs in the dtype of its weights
    (the published code runs it under bfloat16 autocast); mean, deviation and sample are computed in float32.
    """

    def __init__(self, space: LatentSpace, network: nn.Module, max_batch: int = 16) -> None:
        """Wrap a network. `max_batch` is the maximum number of images per pass, which bounds memory."""
        super().__init__(space)
        self.network: Any = network
        self.max_batch = max_batch
        self._fast: Callable[[Tensor], Tensor] | None = None
        """Encoder of copies from `for_inference`, which then replaces the network's."""

    def for_inference(
        self, device: torch.device, dtype: torch.dtype, *, graphs: bool = False, low_vram: bool = False
    ) -> VAVAE:
        """Return a copy that encodes faster. It decodes with this autoencoder's network, on that network's device."""
        inference_copy = copy.copy(self)
        inference_copy._fast = FastEncoder(self.network, device, dtype)
        if graphs:
            inference_copy._fast, inference_copy.max_batch = (
                Replayed(inference_copy._fast, rows=REPLAYED_IMAGES),
                REPLAYED_IMAGES,
            )
        return inference_copy

    def moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Encode pixels [n, 3, h, w] in [-1, 1] to mean and log-variance [n, c, h / 16, w / 16] in float32."""
        if self._fast is not None:
            h = self._fast(pixels)
        else:
            h = self.network.quant_conv(self.network.encoder(pixels.to(self.network.dtype)))
        mean, logvar = h.float().chunk(2, dim=1)
        return mean, logvar.clamp(-30.0, 20.0)

    def decode_pixels(self, latents: Tensor) -> Tensor:
        """Decode raw latents [n, c, h, w] to pixels [n, 3, 16 h, 16 w] of about [-1, 1], not clamped."""
        return self.network.decoder(self.network.post_quant_conv(latents.to(self.network.dtype)))

    def _encode(self, frames: Tensor, noise: torch.Generator | Tensor | None) -> Tensor:
        batch, count = frames.shape[:2]
        parts = [self.moments(part * 2 - 1) for part in frames.flatten(0, 1).split(self.max_batch)]
        mean, logvar = (torch.cat(tensors).unflatten(0, (batch, count)) for tensors in zip(*parts, strict=True))
        if noise is None:
            return mean.to(frames.dtype)
        if isinstance(noise, torch.Generator):
            noise = torch.randn(mean.shape, generator=noise, device=noise.device)
        if noise.shape != mean.shape:
            raise ValueError(f"VAVAE: expected noise of shape {list(mean.shape)}, got {list(noise.shape)}")
        return (mean + torch.exp(0.5 * logvar) * noise.to(mean)).to(frames.dtype)

    def _decode(self, latents: Tensor) -> Tensor:
        parts = [self.decode_pixels(part).to(latents.dtype) for part in latents.flatten(0, 1).split(self.max_batch)]
        return torch.cat(parts).unflatten(0, latents.shape[:2]) / 2 + 0.5


def load_network(path: Path, config: VAVAEConfig, device: torch.device | str, dtype: torch.dtype) -> nn.Module:
    """Build the network with the weights of the published file, or of a folder in diffusers' format."""
    network = weight_files.instantiate_on_meta(lambda: build_network(config))
    if path.is_dir():
        state, path = weight_files.read_diffusers_folder(path, "AutoencoderKL")
        weight_files.load_strict(network, state, what="VA-VAE f16d32", path=path, device=device, dtype=dtype)
        return network
    levels = len(config.widths)
    weight_files.load_strict(
        network,
        weight_files.read_state(path),
        what=f"VA-VAE f16d32 ({WEIGHTS_FILE})",
        path=path,
        file_key=lambda key: published_key(key, levels),
        dropped=DROPPED_KEYS,
        device=device,
        dtype=dtype,
    )
    return network
