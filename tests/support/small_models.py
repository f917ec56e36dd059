"""A whole model with a few thousand random weights, in any temporal layout, and photographs for it."""

from __future__ import annotations

from dataclasses import replace

import torch
from support.oracle import LAYOUTS, SAMPLERS, path

from scenetok_ns.models.autoencoders.registry import build_autoencoder, latent_space
from scenetok_ns.models.autoencoders.vavae import VAVAE, VAVAEConfig, build_network
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.presets import AutoencoderConfig, Preset, load_preset
from scenetok_ns.models.scenetok import SceneTok


def small_preset(layout: str = "4:1") -> Preset:
    """The tiny preset in one of the layouts, shrunk to one block of width 24 and pictures of 16 pixels."""
    tiny = load_preset("scenetok-tiny")
    camera = replace(tiny.denoiser.camera, rays="ray", embedding="lvsm", patch_size=8, input_size=16, dropout=0.0)
    frames, latents = LAYOUTS[layout].frames_per_chunk, LAYOUTS[layout].latents_per_chunk
    small = {"hidden_size": 24, "depth": 1, "num_heads": 2, "patch_size": 1, "camera": camera}
    return replace(
        tiny,
        data=replace(tiny.data, image_size=16, camera_spread=None),  # paths of the tests are short
        context_autoencoder=AutoencoderConfig("pixel", spatial_factor=8),
        target_autoencoder=AutoencoderConfig(
            "pixel", spatial_factor=8, frames_per_chunk=frames, latents_per_chunk=latents
        ),
        compressor=replace(tiny.compressor, **small, num_tokens=6, token_dim=4),
        denoiser=replace(tiny.denoiser, **small, num_latents=SAMPLERS[layout].window, target_splits=1),
        sampler=replace(SAMPLERS[layout], steps=2),
    )


def small_model(layout: str = "4:1") -> SceneTok:
    torch.manual_seed(0)
    model = SceneTok.from_preset(small_preset(layout)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def views(count: int) -> tuple[torch.Tensor, CameraBatch]:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0)), path(count)


def vavae_model() -> SceneTok:
    """The small model with a small VA-VAE of random weights, for context views of 16 pixels."""
    torch.manual_seed(0)
    preset = small_preset()
    camera = replace(preset.compressor.camera, patch_size=16)
    preset = replace(
        preset,
        context_autoencoder=AutoencoderConfig("vavae"),
        compressor=replace(preset.compressor, camera=camera),
    )
    network = build_network(VAVAEConfig((32,) * 5, 1)).eval()
    autoencoder = VAVAE(latent_space(preset.context_autoencoder), network)
    model = SceneTok(preset, autoencoder, build_autoencoder(preset.target_autoencoder)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model
