"""Denoiser: predicts the velocity of noisy target latents from scene tokens and target cameras (parity c03, c04).

The paper calls it the rendering decoder.
"""

from __future__ import annotations

from functools import cache

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from scenetok_ns.models.autoencoders.registry import latent_space
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.networks.block_execution import run_block
from scenetok_ns.models.networks.dit import Context, Trunk
from scenetok_ns.models.networks.layers import KeyValues, PatchEmbed, check_shape, reset_to_defaults
from scenetok_ns.models.networks.pose_embedding import PoseEmbedding
from scenetok_ns.models.ops.rope import RotaryTable, angles_3d, rotary_table
from scenetok_ns.models.presets import DenoiserConfig, Preset
from scenetok_ns.models.temporal import TemporalLayout


class DenoiserTrunk(Trunk):
    """The part of the denoiser whose linear layers are initialised with Xavier-uniform weights."""

    def __init__(self, config: DenoiserConfig, latent_channels: int) -> None:
        features = latent_channels * config.patch_size**2
        super().__init__(config.hidden_size, config.depth, config.num_heads, config.mlp_ratio, features)
        self.x_embedder = PatchEmbed(latent_channels, config.hidden_size, config.patch_size)


class Denoiser(nn.Module):
    """Rectified-flow transformer over a window of latents that attends to the scene tokens.

    A sampler calls `velocity(latents, poses, t_net, context)` at each step. Before that, it calls `embed_poses` once
    per window, and `project` and `cross_attention_kv` once per scene.
    """

    def __init__(
        self,
        config: DenoiserConfig,
        *,
        latent_channels: int,
        latent_size: tuple[int, int],
        layout: TemporalLayout,
        token_dim: int,
        num_tokens: int,
    ) -> None:
        """Build the network with random weights.

        Args:
            config: Sizes of the network.
            latent_channels: Number of channels of the target autoencoder's latents.
            latent_size: Height and width of these latents.
            layout: Temporal layout of the target autoencoder.
            token_dim: Number of channels of a scene token.
            num_tokens: Number of tokens of a scene.
        """
        super().__init__()
        self.config, self.num_tokens = config, num_tokens
        self.latent_shape = (latent_channels, *latent_size)
        self.pose_embed = PoseEmbedding(
            config.camera, config.hidden_size, layout, channels_last=config.camera_channels_last
        )
        self.grid = self.pose_embed.check_grid(latent_size, config.patch_size)
        self.model = DenoiserTrunk(config, latent_channels)
        self.cnd_proj = nn.Linear(token_dim, config.hidden_size)
        if config.null_token:
            self.null_tokens = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self._round_poses = True
        self.initialize()

    @classmethod
    def from_preset(cls, preset: Preset) -> Denoiser:
        space = latent_space(preset.target_autoencoder)
        return cls(
            preset.denoiser,
            latent_channels=space.channels,
            latent_size=space.latent_size((preset.data.image_size, preset.data.image_size)),
            layout=space.layout,
            token_dim=preset.compressor.token_dim,
            num_tokens=preset.compressor.num_tokens,
        )

    @torch.no_grad()
    def initialize(self) -> None:
        """Initialise weights for training from scratch: `Trunk.initialize`, framework defaults outside the trunk."""
        reset_to_defaults(self)
        self.model.initialize()
        if self.config.null_token:
            nn.init.zeros_(self.null_tokens)

    def project(self, tokens: Float[Tensor, "b N token"]) -> Float[Tensor, "b N hidden"]:
        """Project scene tokens to the state that the blocks attend to."""
        check_shape("Denoiser.project: tokens", tokens, (None, None, self.cnd_proj.in_features))
        return self.cnd_proj(tokens.to(self.cnd_proj.weight.dtype))

    def null_state(self, batch_size: int) -> Float[Tensor, "b N hidden"]:
        """Return the state of the unconditional branch. It is learned, not projected from tokens.

        Raises:
            ValueError: The model has no null token.
        """
        if not self.config.null_token:
            raise ValueError("Denoiser: this model has no null token, so guidance is impossible; set guidance to 1")
        return self.null_tokens.expand(batch_size, self.num_tokens, -1)

    def cross_attention_kv(self, state: Float[Tensor, "b N hidden"]) -> list[KeyValues]:
        """Return keys and values of every block. `velocity` and `forward` accept them instead of the state."""
        return self.model.keys_values(state)

    def embed_poses(self, cameras: CameraBatch) -> Float[Tensor, "b l n hidden"]:
        """Embed the cameras of a window's frames, in whole chunks, relative to one context view."""
        return self.rounded_poses(run_block(self.pose_embed, cameras))

    def velocity(
        self,
        latents: Float[Tensor, "b l c h w"],
        poses: Float[Tensor, "b l n hidden"],
        t_net: Float[Tensor, "b l"],
        context: Context,
    ) -> Float[Tensor, "b l c h w"]:
        """Predict the velocity, noise - data, of noisy latents.

        Args:
            latents: Noisy latents of a window.
            poses: Result of `embed_poses`.
            t_net: Network time of each latent, 0 (data) to 999 (noise).
            context: Result of `project` or `cross_attention_kv`.

        Returns:
            Velocities in the dtype of the latents.

        Raises:
            ValueError: The shapes do not fit, or the window is longer than the rotary table.
        """
        patches = self.model(
            *self._inputs(latents, poses, t_net), context, self.rotary(latents.shape[1], latents.device)
        )
        return self._maps(patches, latents)

    def velocity_and_features(
        self,
        latents: Float[Tensor, "b l c h w"],
        poses: Float[Tensor, "b l n hidden"],
        t_net: Float[Tensor, "b l"],
        context: Context,
    ) -> tuple[Float[Tensor, "b l c h w"], Float[Tensor, "b l n hidden"]]:
        """Return the result of `velocity`, and the features before the output projection, for the depth head."""
        rotary = self.rotary(latents.shape[1], latents.device)
        patches, features = self.model.forward_with_features(*self._inputs(latents, poses, t_net), context, rotary)
        return self._maps(patches, latents), features.unflatten(1, poses.shape[1:3])

    def velocity_causal(
        self,
        latents: Float[Tensor, "b l c h w"],
        poses: Float[Tensor, "b l n hidden"],
        t_net: Float[Tensor, "b l"],
        context: Context,
        chunk: int,
        past: tuple[Float[Tensor, "b l c h w"], Float[Tensor, "b l"]] | None = None,
    ) -> Float[Tensor, "b l c h w"]:
        """Predict the velocity of a window whose chunks see themselves and earlier chunks, in one pass.

        It equals a stream of `forward_after` calls over the window.

        Args:
            latents: Noisy latents of a window.
            poses: Result of `embed_poses`.
            t_net: Network time of each latent.
            context: Result of `project` or `cross_attention_kv`.
            chunk: Latents of a chunk of the temporal layout.
            past: In a step before the last: latents and times of the last step, as which earlier chunks are seen.
                None: they are seen as `latents` at `t_net`.
        """
        chunks, tokens, rotary = (
            latents.shape[1] // chunk,
            chunk * self.positions,
            self.rotary(latents.shape[1], latents.device),
        )
        if past is not None:
            latents = torch.cat([past[0].to(latents.dtype), latents], dim=1)
            poses, t_net = poses.repeat(1, 2, 1, 1), torch.cat([past[1], t_net], dim=1)
            rotary = torch.cat([rotary[0]] * 2), torch.cat([rotary[1]] * 2)
        mask = causal_mask(chunks, tokens, past is not None, latents.device)
        patches = self.model(*self._inputs(latents, poses, t_net), context, rotary, mask)
        return self._maps(patches, latents)[:, -chunks * chunk :]

    def forward_after(
        self,
        latents: Float[Tensor, "b l c h w"],
        poses: Float[Tensor, "b l n hidden"],
        t_net: Float[Tensor, "b l"],
        context: list[KeyValues],
        rotary: RotaryTable,
        past: list[KeyValues],
    ) -> tuple[Float[Tensor, "b l c h w"], list[KeyValues]]:
        """Predict the velocity of latents that see earlier latents only through their keys and values.

        Args:
            latents: Latents of a chunk.
            poses, t_net: As in `velocity`, of this chunk.
            context: Result of `cross_attention_kv`.
            rotary: Rows of `rotary` at the places of these latents in the window.
            past: For every block, the rotated keys and the values of the earlier latents.

        Returns:
            Velocities, and for every block the keys (not yet rotated) and the values of these latents.
        """
        patches, kept = self.model.forward_after(*self._inputs(latents, poses, t_net), context, rotary, past)
        return self._maps(patches, latents), kept

    @property
    def positions(self) -> int:
        """Tokens of one latent."""
        return self.grid[0] * self.grid[1]

    def _inputs(self, latents: Tensor, poses: Tensor, t_net: Tensor) -> tuple[Tensor, Tensor]:
        """Embed latents, times and poses as tokens and their conditions."""
        b, num_latents = latents.shape[:2]
        check_shape("Denoiser: latents", latents, (b, num_latents, *self.latent_shape))
        check_shape("Denoiser: t_net", t_net, (b, num_latents))
        check_shape("Denoiser: poses", poses, (b, num_latents, self.grid[0] * self.grid[1], self.config.hidden_size))
        x = self.model.x_embedder(latents.to(self.cnd_proj.weight.dtype)).flatten(1, 2)
        times = self.model.t_embedder(t_net)[:, :, None]
        return x, (times + poses.to(times.dtype)).flatten(1, 2)

    def _maps(self, patches: Float[Tensor, "b n out"], latents: Tensor) -> Float[Tensor, "b l c h w"]:
        h, w = self.grid
        p = self.config.patch_size
        maps = rearrange(patches, "b (l h w) (p q c) -> b l c (h p) (w q)", h=h, w=w, p=p, q=p)
        return maps.to(latents.dtype)

    def forward(
        self, latents: Float[Tensor, "b l c h w"], cameras: CameraBatch, t_net: Float[Tensor, "b l"], state: Context
    ) -> Float[Tensor, "b l c h w"]:
        """Embed the cameras and predict the velocity; arguments and errors as in `velocity`."""
        return self.velocity(latents, self.embed_poses(cameras), t_net, state)

    def rotary(self, num_latents: int, device: torch.device | str | None = None) -> RotaryTable:
        """Return the rotary table of a window, whose `target_splits` equal parts each have positions from 0."""
        splits = self.config.target_splits
        if num_latents > self.config.num_latents or num_latents % splits:
            raise ValueError(
                f"Denoiser: expected at most {self.config.num_latents} latents in {splits} equal parts, "
                f"got {num_latents}; denoise in windows"
            )
        return rotary_table(angles_3d(self.model.head_dim, num_latents // splits, self.grid, device), splits)

    def rounded_poses(self, poses: Tensor) -> Tensor:
        """Round poses to bfloat16, as the released weights were trained, whatever the precision of the rest."""
        return poses.bfloat16().to(poses.dtype) if self._round_poses else poses


@cache
def causal_mask(chunks: int, tokens: int, doubled: bool, device: torch.device) -> Bool[Tensor, "n n"]:
    """Return the mask of `Denoiser.velocity_causal`; rows are queries, columns are keys.

    It is created once for each device, because a recorded step cannot copy from CPU memory.

    Args:
        chunks: Number of chunks.
        tokens: Tokens of a chunk.
        doubled: First come the chunks as later chunks see them, then the chunks whose velocity is wanted.
        device: Device of the mask.
    """
    index = torch.arange(chunks)
    earlier, same = index[None] < index[:, None], index[None] == index[:, None]
    mask = earlier | same
    if doubled:
        mask = torch.cat([torch.cat([mask, torch.zeros_like(mask)], dim=1), torch.cat([earlier, same], dim=1)])
    return mask.repeat_interleave(tokens, dim=0).repeat_interleave(tokens, dim=1).to(device)
