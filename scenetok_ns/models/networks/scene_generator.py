"""Condition views and anchor poses -> velocity of noisy scene tokens (paper: SceneGen; parity c05)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from scenetok_ns.models.autoencoders.registry import latent_space
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.networks.block_execution import Checkpointing, run_block
from scenetok_ns.models.networks.dit import Context, Trunk
from scenetok_ns.models.networks.layers import KeyValues, PatchEmbed, check_shape, reset_to_defaults
from scenetok_ns.models.networks.pose_embedding import PoseEmbedding
from scenetok_ns.models.presets import Preset, SceneGeneratorConfig
from scenetok_ns.models.temporal import IMAGE_LAYOUT


class SceneGeneratorTrunk(Trunk):
    """The part of the generator whose linear layers start from Xavier-uniform."""

    def __init__(self, config: SceneGeneratorConfig, latent_channels: int, token_dim: int, num_tokens: int) -> None:
        hidden = config.hidden_size
        super().__init__(hidden, config.depth, config.num_heads, config.mlp_ratio, token_dim)
        self.x_embedder = nn.Linear(token_dim, hidden)
        self.c_embedder = PatchEmbed(latent_channels, hidden, config.patch_size)
        self.pos_embed = nn.Parameter(torch.empty(1, num_tokens, hidden))
        self.null_tokens = nn.Parameter(torch.empty(1, 1, hidden))

    @torch.no_grad()
    def initialize(self) -> None:
        super().initialize()
        nn.init.zeros_(self.pos_embed)
        nn.init.zeros_(self.null_tokens)


class SceneGenerator(nn.Module):
    """Rectified-flow transformer over scene tokens that attends to condition views and anchor poses.

    A step of a sampler is `velocity(tokens, t_net, context)`. The context, and its keys and values, are the same at
    all steps: `embed_condition`, then `cross_attention_kv`.
    """

    def __init__(
        self,
        config: SceneGeneratorConfig,
        *,
        latent_channels: int,
        latent_size: tuple[int, int],
        token_dim: int,
        num_tokens: int,
    ) -> None:
        """`latent_channels`, `latent_size` (height, width): of the autoencoder of the condition views."""
        super().__init__()
        self.config = config
        self.latent_shape = (latent_channels, *latent_size)
        self.token_shape = (num_tokens, token_dim)
        self.pose_embed = PoseEmbedding(config.camera, config.hidden_size, IMAGE_LAYOUT)
        self.anchor_pose_embed = PoseEmbedding(config.camera, config.hidden_size, IMAGE_LAYOUT)
        self.pose_embed.check_grid(latent_size, config.patch_size)
        self.model = SceneGeneratorTrunk(config, latent_channels, token_dim, num_tokens)
        self._round_poses = True
        self.initialize()

    @classmethod
    def from_preset(cls, preset: Preset) -> SceneGenerator:
        if preset.scene_generator is None:
            raise ValueError(f"preset {preset.name} has no scene generator; choose a scenegen preset")
        space = latent_space(preset.context_autoencoder)
        return cls(
            preset.scene_generator,
            latent_channels=space.channels,
            latent_size=space.latent_size((preset.data.image_size, preset.data.image_size)),
            token_dim=preset.compressor.token_dim,
            num_tokens=preset.compressor.num_tokens,
        )

    @torch.no_grad()
    def initialize(self) -> None:
        """Weights for training from scratch: see `Trunk.initialize`; framework defaults for the pose embeddings."""
        reset_to_defaults(self)
        self.model.initialize()

    def set_gradient_checkpointing(self, checkpointing: Checkpointing) -> None:
        """Trade time for memory in training: what of each block is computed again in the backward pass."""
        self.model.checkpointing = checkpointing

    def compilable(self) -> list[nn.Module]:
        """Modules for `compile_for_training`."""
        return [self.pose_embed, self.anchor_pose_embed, *self.model.compilable()]

    def embed_condition(
        self,
        latents: Float[Tensor, "b v c h w"],
        cameras: CameraBatch,
        anchors: CameraBatch,
        mask: Bool[Tensor, "b v"],
        *,
        pose_drop: Bool[Tensor, " b"] | None = None,
        anchor_drop: Bool[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b keys hidden"]:
        """Normalised condition latents, where they and the anchors are (relative to view 0) -> what is attended to.

        `mask` is true for the views that count. The others become null tokens, pose and all; anchors always count.
        `pose_drop`, `anchor_drop`: elements whose embedding is zeroed; None: drawn in training mode.
        """
        check_shape("SceneGenerator: latents", latents, (cameras.batch_size, cameras.num_views, *self.latent_shape))
        check_shape("SceneGenerator: mask", mask, tuple(latents.shape[:2]))
        views = self.model.c_embedder(latents.to(self.model.pos_embed.dtype))
        views = views + self.rounded_poses(run_block(self.pose_embed, "none", cameras, pose_drop)).to(views.dtype)
        views = torch.where(mask[:, :, None, None], views, self.model.null_tokens.to(views.dtype))
        anchor = self.rounded_poses(run_block(self.anchor_pose_embed, "none", anchors, anchor_drop).mean(dim=2)).to(
            views.dtype
        )
        return torch.cat([views.flatten(1, 2), anchor], dim=1)

    def cross_attention_kv(self, context: Float[Tensor, "b keys hidden"]) -> list[KeyValues]:
        """Keys and values of every block; `velocity` takes them in place of the context."""
        return self.model.keys_values(context)

    def velocity(
        self, tokens: Float[Tensor, "b N token"], t_net: Float[Tensor, "b N"], context: Context
    ) -> Float[Tensor, "b N token"]:
        """One prediction from what `embed_condition` or `cross_attention_kv` gave."""
        check_shape("SceneGenerator: tokens", tokens, (None, *self.token_shape))
        check_shape("SceneGenerator: t_net", t_net, tuple(tokens.shape[:2]))
        x = self.model.x_embedder(tokens.to(self.model.pos_embed.dtype)) + self.model.pos_embed
        return self.model(x, self.model.t_embedder(t_net), context).to(tokens.dtype)

    def forward(
        self,
        tokens: Float[Tensor, "b N token"],
        t_net: Float[Tensor, "b N"],
        latents: Float[Tensor, "b v c h w"],
        cameras: CameraBatch,
        anchors: CameraBatch,
        mask: Bool[Tensor, "b v"],
        *,
        pose_drop: Bool[Tensor, " b"] | None = None,
        anchor_drop: Bool[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b N token"]:
        """Velocity (noise - data) of scaled noisy tokens at network times `t_net`, one for each token."""
        context = self.embed_condition(latents, cameras, anchors, mask, pose_drop=pose_drop, anchor_drop=anchor_drop)
        return self.velocity(tokens, t_net, context)

    def rounded_poses(self, poses: Tensor) -> Tensor:
        """The released weights were trained with this rounding, whatever the precision of the rest."""
        return poses.bfloat16().to(poses.dtype) if self._round_poses else poses
