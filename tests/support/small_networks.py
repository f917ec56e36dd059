"""Networks of a few thousand weights, with random weights everywhere, and inputs that fit them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.networks.compressor import Compressor
from scenetok_ns.models.networks.denoiser import Denoiser
from scenetok_ns.models.networks.scene_generator import SceneGenerator
from scenetok_ns.models.presets import CameraConfig, CompressorConfig, DenoiserConfig, SceneGeneratorConfig
from scenetok_ns.models.temporal import TemporalLayout

LVSM = CameraConfig(rays="ray", normalize=False, embedding="lvsm", patch_size=4, input_size=16)
PATCHES = CameraConfig(
    rays="plucker", normalize=True, embedding="patch_embed", patch_size=4, input_size=16, dropout=0.5
)
VIDEO = TemporalLayout(4, 1)
CHUNKED = TemporalLayout(17, 5)

HIDDEN, HEADS, DEPTH = 48, 3, 2
Network = TypeVar("Network", bound=nn.Module)

NUM_TOKENS, TOKEN_DIM, CHANNELS = 6, 5, 3


def small_compressor() -> Compressor:
    config = CompressorConfig(
        hidden_size=HIDDEN,
        depth=DEPTH,
        num_heads=HEADS,
        patch_size=2,
        num_tokens=NUM_TOKENS,
        token_dim=TOKEN_DIM,
        camera=LVSM,
    )
    return Compressor(config, latent_channels=CHANNELS, latent_size=(8, 8))


def small_denoiser(
    layout: TemporalLayout = VIDEO, num_latents: int = 4, target_splits: int = 1, null_token: bool = True
) -> Denoiser:
    config = DenoiserConfig(
        hidden_size=HIDDEN,
        depth=DEPTH,
        num_heads=HEADS,
        patch_size=1,
        num_latents=num_latents,
        camera=LVSM,
        target_splits=target_splits,
        null_token=null_token,
    )
    return Denoiser(
        config,
        latent_channels=CHANNELS,
        latent_size=(4, 4),
        layout=layout,
        token_dim=TOKEN_DIM,
        num_tokens=NUM_TOKENS,
    )


def small_generator() -> SceneGenerator:
    config = SceneGeneratorConfig(
        hidden_size=HIDDEN, depth=DEPTH, num_heads=HEADS, patch_size=1, camera=PATCHES, scale=0.1
    )
    return SceneGenerator(
        config, latent_channels=CHANNELS, latent_size=(4, 4), token_dim=TOKEN_DIM, num_tokens=NUM_TOKENS
    )


def randomized(network: Network, seed: int = 0) -> Network:
    """Draw every parameter, including those that start at zero. Norms are around 1, so that attention is sharp."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            draw = torch.randn(parameter.shape, generator=generator) * 0.1
            parameter.copy_(draw + 1 if "norm" in name else draw)
    return network.eval()


def random_cameras(batch: int, views: int, seed: int = 0) -> CameraBatch:
    """Rigid poses around the origin, with focal lengths near 1 and principal points near the middle."""
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(batch, views, 3, 3, generator=generator)).Q
    rotation = rotation * torch.linalg.det(rotation)[..., None, None]
    c2w = torch.eye(4).repeat(batch, views, 1, 1)
    c2w[..., :3, :3] = rotation
    c2w[..., :3, 3] = torch.randn(batch, views, 3, generator=generator)
    intrinsics = torch.eye(3).repeat(batch, views, 1, 1)
    intrinsics[..., 0, 0], intrinsics[..., 1, 1] = (
        0.8 + 0.4 * torch.rand(2, batch, views, generator=generator)
    ).unbind()
    intrinsics[..., :2, 2] = 0.5 + 0.1 * torch.rand(batch, views, 2, generator=generator)
    return CameraBatch(c2w, intrinsics)


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def denoiser_inputs(batch: int = 2, latents: int = 4, layout: TemporalLayout = VIDEO):
    """Draw noisy latents, cameras, network times and tokens."""
    cameras = random_cameras(batch, layout.num_frames(latents))
    t_net = normal(batch, latents, seed=2).sigmoid() * 999
    return normal(batch, latents, CHANNELS, 4, 4), cameras, t_net, normal(batch, NUM_TOKENS, TOKEN_DIM, seed=3)


def generator_inputs(batch: int = 2, views: int = 2, anchors: int = 3):
    """Arguments of SceneGenerator.forward, with the last view of each element masked out."""
    mask = (torch.arange(views) < views - 1).expand(batch, views)
    return (
        normal(batch, NUM_TOKENS, TOKEN_DIM, seed=3),
        normal(batch, NUM_TOKENS, seed=2).sigmoid() * 999,
        normal(batch, views, CHANNELS, 4, 4),
        random_cameras(batch, views),
        random_cameras(batch, anchors, seed=5),
        mask,
    )


def compress(network: Compressor) -> Tensor:
    return network.gaussian_parameters(normal(2, 3, CHANNELS, 8, 8), random_cameras(2, 3))


def denoise(network: Denoiser) -> Tensor:
    latents, cameras, t_net, tokens = denoiser_inputs()
    return network(latents, cameras, t_net, network.project(tokens))


def generate(network: SceneGenerator) -> Tensor:
    return network(*generator_inputs())


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[..., Tensor]]] = {
    "compressor": (small_compressor, compress),
    "denoiser": (small_denoiser, denoise),
    "scene_generator": (small_generator, generate),
}
"""Functions that create each network and run it on fixed inputs."""
