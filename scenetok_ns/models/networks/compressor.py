"""Compressor of context views and their cameras to a distribution over scene tokens (parity c02).

The paper calls it the multi-view compressor.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from scenetok_ns.models.autoencoders.registry import latent_space
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.networks.block_execution import Part, run_block
from scenetok_ns.models.networks.layers import (
    CrossAttention,
    PatchEmbed,
    RMSNorm,
    SelfAttention,
    SwiGLU,
    activate,
    adaln,
    check_shape,
    modulate,
    modulations,
    reset_to_defaults,
)
from scenetok_ns.models.networks.pose_embedding import PoseEmbedding
from scenetok_ns.models.ops.rope import GridRotary, RotaryTable
from scenetok_ns.models.presets import CompressorConfig, Preset
from scenetok_ns.models.temporal import IMAGE_LAYOUT

NORM_EPS = torch.finfo(torch.float32).eps
"""Epsilon of the compressor's norms: the framework's default for float32, whatever precision they run in."""

TOKEN_STD = 5.0
"""Standard deviation of the learned scene tokens at initialisation."""

LOGVAR_RANGE = (-30.0, 20.0)


@dataclass(frozen=True)
class TokenDistribution:
    """A diagonal Gaussian over scene tokens, in float32."""

    mean: Float[Tensor, "b N dim"]
    logvar: Float[Tensor, "b N dim"]

    @classmethod
    def from_parameters(cls, parameters: Float[Tensor, "b N 2*dim"]) -> TokenDistribution:
        """Split parameters into mean and log-variance along the last axis, and clamp the latter to LOGVAR_RANGE."""
        mean, logvar = parameters.float().chunk(2, dim=-1)
        return cls(mean, logvar.clamp(*LOGVAR_RANGE))

    @property
    def std(self) -> Float[Tensor, "b N dim"]:
        return torch.exp(0.5 * self.logvar)

    def sample(self, noise: Float[Tensor, "b N dim"]) -> Float[Tensor, "b N dim"]:
        """Return mean + std * noise for the caller's standard normal `noise`."""
        return self.mean + self.std * noise

    def kl(self) -> Float[Tensor, " b"]:
        """Return the KL divergence from the standard normal in nats, summed over tokens and channels."""
        return 0.5 * (self.mean.square() + self.logvar.exp() - 1.0 - self.logvar).sum(dim=(1, 2))


class CompressorBlock(Part):
    """One block: views attend to views, tokens to tokens, and tokens to views; then both go through feed-forwards."""

    repeated = True

    def __init__(self, hidden_size: int, num_heads: int, mlp_ratio: float, *, last: bool) -> None:
        super().__init__()
        self.attn1 = SelfAttention(hidden_size, num_heads)
        self.attn2 = SelfAttention(hidden_size, num_heads)
        self.attn3 = CrossAttention(hidden_size, num_heads)
        self.norm1 = RMSNorm(hidden_size, NORM_EPS)
        self.norm2 = RMSNorm(hidden_size, NORM_EPS)
        self.norm4 = RMSNorm(hidden_size, NORM_EPS)
        self.mlp2 = SwiGLU(hidden_size, mlp_ratio)
        # Nothing reads the views after the last block, so it has no feed-forward for them. Its adaLN keeps its full
        # width: half of it is unused, as in the released weights.
        self.norm3 = None if last else RMSNorm(hidden_size, NORM_EPS)
        self.mlp1 = None if last else SwiGLU(hidden_size, mlp_ratio)
        self.adaLN_modulation = adaln(hidden_size, 6)

    def forward(
        self,
        tokens: Float[Tensor, "b N hidden"],
        views: Float[Tensor, "b n hidden"],
        activated: Float[Tensor, "b n hidden"],
        rotary: RotaryTable,
    ) -> tuple[Float[Tensor, "b N hidden"], Float[Tensor, "b n hidden"]]:
        """Return tokens and views after one block.

        Args:
            tokens: Scene tokens.
            views: Tokens of all views' patches.
            activated: Result of `layers.activate` for the pose embedding of each patch.
            rotary: Rotation by the position of each patch in its view.
        """
        shift1, scale1, gate1, shift2, scale2, gate2 = modulations(self.adaLN_modulation, activated, 6)
        views = views + gate1 * self.attn1(modulate(self.norm1(views), shift1, scale1), rotary)
        tokens = tokens + self.attn2(self.norm2(tokens))
        # There is no norm on either side, and only the keys have a position for the rotation.
        tokens = tokens + self.attn3(tokens, self.attn3.keys_values(views, rotary))
        if self.norm3 is not None and self.mlp1 is not None:
            views = views + gate2 * self.mlp1(modulate(self.norm3(views), shift2, scale2))
        return tokens + self.mlp2(self.norm4(tokens)), views


class Compressor(nn.Module):
    """Perceiver over the tokens of all context views. The views have no order."""

    def __init__(self, config: CompressorConfig, *, latent_channels: int, latent_size: tuple[int, int]) -> None:
        """Build the network with random weights.

        Args:
            config: Sizes of the network.
            latent_channels: Number of channels of one view's latent.
            latent_size: Height and width of one view's latent.
        """
        super().__init__()
        hidden = config.hidden_size
        self.latent_shape = (latent_channels, *latent_size)
        self.pose_embed = PoseEmbedding(config.camera, hidden, IMAGE_LAYOUT)
        grid = self.pose_embed.check_grid(latent_size, config.patch_size)
        self.feat_rope = GridRotary(hidden // config.num_heads, grid)
        self.scene_tokens = nn.Parameter(torch.empty(1, config.num_tokens, hidden))
        self.y_embed = PatchEmbed(latent_channels, hidden, config.patch_size)
        self.aggregate = nn.ModuleList(
            CompressorBlock(hidden, config.num_heads, config.mlp_ratio, last=index == config.depth - 1)
            for index in range(config.depth)
        )
        self.out_proj = nn.Sequential(nn.Linear(hidden, 2 * config.token_dim))
        self.initialize()

    @classmethod
    def from_preset(cls, preset: Preset) -> Compressor:
        space = latent_space(preset.context_autoencoder)
        if space.layout != IMAGE_LAYOUT:
            raise ValueError(f"preset {preset.name}: the context autoencoder must make one latent of each image")
        size = preset.data.image_size
        return cls(preset.compressor, latent_channels=space.channels, latent_size=space.latent_size((size, size)))

    @torch.no_grad()
    def initialize(self) -> None:
        """Initialise weights for training from scratch: framework defaults, and large scene tokens."""
        reset_to_defaults(self)
        nn.init.normal_(self.scene_tokens, std=TOKEN_STD)

    def gaussian_parameters(
        self, latents: Float[Tensor, "b v c h w"], cameras: CameraBatch
    ) -> Float[Tensor, "b N 2*dim"]:
        """Return mean and unclamped log-variance, joined along the last axis: the output of the last layer.

        Args:
            latents: Normalised latents of the context views.
            cameras: Their cameras, relative to one of them.

        Raises:
            ValueError: The shapes of latents and cameras do not fit each other or the network.
        """
        check_shape("Compressor: latents", latents, (cameras.batch_size, cameras.num_views, *self.latent_shape))
        dtype = self.scene_tokens.dtype
        views = self.y_embed(latents.to(dtype)).flatten(1, 2)
        pose = run_block(self.pose_embed, cameras).flatten(1, 2).to(dtype)
        # Contiguous, so that all blocks get tokens in the same memory layout.
        tokens = self.scene_tokens.expand(len(latents), -1, -1).contiguous()
        rotary = self.feat_rope(cameras.num_views)
        activated = activate(pose)
        for block in self.aggregate:
            tokens, views = run_block(block, tokens, views, activated, rotary)
        return self.out_proj(tokens)

    def forward(self, latents: Float[Tensor, "b v c h w"], cameras: CameraBatch) -> TokenDistribution:
        """Return the Gaussian over scene tokens; arguments and errors as in `gaussian_parameters`."""
        return TokenDistribution.from_parameters(self.gaussian_parameters(latents, cameras))
