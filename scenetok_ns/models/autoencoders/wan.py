"""Wan 2.2 VAE (48 channels), which encodes 17 frames to 5 latents, through diffusers' AutoencoderKLWan.

Published as `Wan2.2_VAE.pth` (https://huggingface.co/Wan-AI/Wan2.2-TI2V-5B). The converter in diffusers' single-file
loader is for Wan 2.1 and does not fit it. Checked against recorded runs (parity case `wan22vae`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scenetok_ns.models.autoencoders import weights as weight_files
from scenetok_ns.models.autoencoders.base import Autoencoder, LatentSpace, to_channels_last
from scenetok_ns.models.autoencoders.wan_fast import speed_up
from scenetok_ns.models.ops.graphs import Replayed
from scenetok_ns.models.presets import AutoencoderConfig
from scenetok_ns.models.temporal import TemporalLayout

WEIGHTS_FILE = "Wan2.2_VAE.pth"

# fmt: off
LATENT_MEAN = (
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891,
    0.1570, -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502,
    -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230, -0.0313, -0.1649, 0.0117, 0.0723,
    -0.2839, -0.2083, -0.0520, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
)
LATENT_STD = (
    0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901,
    0.6885, 0.6165, 0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
    0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944,
    0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
)
# fmt: on
"""Channel statistics of raw latents, as published with Wan 2.2."""


@dataclass(frozen=True)
class WanConfig:
    """Sizes of the network; the defaults are the published ones."""

    encoder_width: int = 160
    decoder_width: int = 256
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    blocks_per_level: int = 2
    """Number of residual blocks in an encoder level; a decoder level has one more."""
    latent_channels: int = 48
    temporal_downsample: tuple[bool, ...] = (False, True, True)


def wan_latent_space(config: AutoencoderConfig) -> LatentSpace:
    return LatentSpace(TemporalLayout(17, 5, 4), 16, 48, LATENT_MEAN, tuple(std / config.scale for std in LATENT_STD))


def build_network(config: WanConfig) -> nn.Module:
    """Build the network with random weights. Needs diffusers."""
    try:
        from diffusers import AutoencoderKLWan
    except ImportError as error:
        raise ImportError("Wan 2.2 VAE needs diffusers: pip install 'scenetok-ns[autoencoders]'") from error
    network: Any = AutoencoderKLWan(
        base_dim=config.encoder_width,
        decoder_base_dim=config.decoder_width,
        z_dim=config.latent_channels,
        dim_mult=list(config.multipliers),
        num_res_blocks=config.blocks_per_level,
        temperal_downsample=list(config.temporal_downsample),
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_temporal=4,
        scale_factor_spatial=16,
        latents_mean=list(LATENT_MEAN),
        latents_std=list(LATENT_STD),
    )
    return network


def key_rules(levels: int, blocks_per_level: int) -> tuple[tuple[str, str], ...]:
    """Replacements of fragments of diffusers' keys by fragments of the published keys, applied in this order.

    The published file numbers a level's resampling after its residual blocks.
    """
    down, up = blocks_per_level, blocks_per_level + 1
    return (
        *((f"down_blocks.{i}.resnets.", f"downsamples.{i}.downsamples.") for i in range(levels)),
        *((f"down_blocks.{i}.downsampler.", f"downsamples.{i}.downsamples.{down}.") for i in range(levels)),
        *((f"up_blocks.{i}.resnets.", f"upsamples.{i}.upsamples.") for i in range(levels)),
        *((f"up_blocks.{i}.upsampler.", f"upsamples.{i}.upsamples.{up}.") for i in range(levels)),
        ("mid_block.resnets.0.", "middle.0."),
        ("mid_block.attentions.0.", "middle.1."),
        ("mid_block.resnets.1.", "middle.2."),
        (".norm1.", ".residual.0."),
        (".conv1.", ".residual.2."),
        (".norm2.", ".residual.3."),
        (".conv2.", ".residual.6."),
        (".conv_shortcut.", ".shortcut."),
        (".norm_out.", ".head.0."),
        (".conv_out.", ".head.2."),
        (".conv_in.", ".conv1."),  # must follow the rule for a block's conv1, which would match it
        ("post_quant_conv.", "conv2."),
        ("quant_conv.", "conv1."),
    )


def published_key(key: str, levels: int = 4, blocks_per_level: int = 2) -> str:
    """Name in the published file of a parameter of diffusers' class (`key` is its name there)."""
    for ours, theirs in key_rules(levels, blocks_per_level):
        key = key.replace(ours, theirs)
    return key


class WanVAE(Autoencoder):
    """Autoencoder of chunks of 17 frames, with 5 latents of 1/16 the height and width and 48 channels.

    Inside a chunk the network is causal: the first latent is the first frame, and each further latent adds 4 frames and
    depends on those before it. Chunks are independent, so running them one after the other (which bounds memory) gives
    exactly the same as running them together. Latents are the means of the encoder's Gaussians, so noise is ignored.
    """

    def __init__(self, space: LatentSpace, network: nn.Module, max_batch: int = 1) -> None:
        """Wrap a network. `max_batch` is the maximum number of chunks per pass."""
        super().__init__(space)
        self.network: Any = network
        self.max_batch = max_batch
        self._fast: Callable[[Tensor], Tensor] | None = None
        """Decoder of copies from `for_inference`, which then replaces the network's."""

    def for_inference(
        self, device: torch.device, dtype: torch.dtype, *, graphs: bool = False, low_vram: bool = False
    ) -> WanVAE:
        """Return a copy that decodes faster, in the best memory layout. It encodes with this autoencoder's network."""
        inference_copy = copy.copy(self)
        network = copy.deepcopy(self.network, {id(self.network.encoder): None})
        nn.Module.to(network, device, dtype)  # diffusers' own `to` warns about dtypes
        if device.type == "cuda":
            to_channels_last(network)
        speed_up(network.decoder)
        run = partial(_run_decoder, network)
        inference_copy._fast = Replayed(run) if graphs else run
        return inference_copy

    def encode_video(self, video: Tensor) -> Tensor:
        """Encode a video [b, f, 3, h, w] in [-1, 1], f = 4 n + 1, to raw means in one causal run, exactly as published.

        Frames beyond the last 4 n + 1 are dropped without a warning, as in the published code. `encode_raw` raises an
        error for such clips.
        """
        moments = self.network.encode(video.transpose(1, 2).to(self.network.dtype)).latent_dist
        return moments.mean.transpose(1, 2)

    def decode_video(self, latents: Tensor) -> Tensor:
        """Decode raw latents [b, l, 48, h, w] to 4 l - 3 frames in [-1, 1] in one causal run, exactly as published."""
        run = self._fast or partial(_run_decoder, self.network)
        return run(latents.transpose(1, 2)).transpose(1, 2)

    def _encode(self, frames: Tensor, noise: torch.Generator | Tensor | None) -> Tensor:
        return self._by_chunk(frames * 2 - 1, self.space.layout.frames_per_chunk, self.encode_video)

    def _decode(self, latents: Tensor) -> Tensor:
        return self._by_chunk(latents, self.space.layout.latents_per_chunk, self.decode_video) / 2 + 0.5

    def _decode_pieces(self, pieces: Iterable[Tensor], num_frames: int | None) -> Iterator[Tensor]:
        """Decode chunk by chunk. Chunks are causal, so of the last one only the latents that are needed are decoded."""
        layout, given = self.space.layout, 0
        for piece in pieces:
            for chunk in piece.split(layout.latents_per_chunk, dim=1):
                wanted = layout.frames_per_chunk if num_frames is None else num_frames - given
                if wanted <= 0:
                    continue
                latents = min(layout.latents_per_chunk, 1 + -(-(wanted - 1) // layout.frames_per_latent))
                raw = self.space.denormalize(chunk[:, :latents])
                parts = [self.decode_video(part).to(piece.dtype) for part in raw.split(self.max_batch)]
                given += layout.frames_per_chunk
                yield (torch.cat(parts) / 2 + 0.5).clamp(0, 1)

    def _by_chunk(self, x: Tensor, length: int, run: Callable[[Tensor], Tensor]) -> Tensor:
        chunks = x.unflatten(1, (-1, length)).flatten(0, 1)
        done = torch.cat([run(part).to(x.dtype) for part in chunks.split(self.max_batch)])
        return done.unflatten(0, (x.shape[0], -1)).flatten(1, 2)


def _run_decoder(network: Any, latents: Tensor) -> Tensor:
    """Decode raw latents [b, c, l, h, w] to pixels."""
    decoded: Tensor = network.decode(latents.to(network.dtype), return_dict=False)[0]
    return decoded


def load_network(path: Path, config: WanConfig, device: torch.device | str, dtype: torch.dtype) -> nn.Module:
    """Build the network with the weights of the published file, or of a folder in diffusers' format."""
    network = weight_files.instantiate_on_meta(lambda: build_network(config))
    if path.is_dir():
        state, path = weight_files.read_diffusers_folder(path, "AutoencoderKLWan")
        weight_files.load_strict(network, state, what="the Wan 2.2 VAE", path=path, device=device, dtype=dtype)
        return network
    levels, blocks = len(config.multipliers), config.blocks_per_level
    weight_files.load_strict(
        network,
        weight_files.read_state(path),
        what=f"the Wan 2.2 VAE ({WEIGHTS_FILE})",
        path=path,
        file_key=lambda key: published_key(key, levels, blocks),
        device=device,
        dtype=dtype,
    )
    return network
