"""SceneGen: predicts the velocity of noisy scene tokens from condition views and anchor poses (parity c05)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from scenetok_ns.models.autoencoders.registry import latent_space
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.networks.block_execution import run_block
from scenetok_ns.models.networks.dit import Context, Trunk
from scenetok_ns.models.networks.layers import KeyValues, PatchEmbed, check_shape, reset_to_defaults
from scenetok_ns.models.networks.pose_embedding import PoseEmbedding
from scenetok_ns.models.presets import Preset, SceneGeneratorConfig
from scenetok_ns.models.temporal import IMAGE_LAYOUT


class SceneGeneratorTrunk(Trunk):
    """The part of the generator whose linear layers are initialised with Xavier-uniform weights."""

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

    A sampler calls `velocity(tokens, t_net, context)` at each step. The context, `embed_condition` and then
    `cross_attention_kv`, is the same at all steps.
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
        """Build the network with random weights.

        Args:
            config: Sizes of the network.
            latent_channels: Number of channels of a condition view's latent.
            latent_size: Height and width of a condition view's latent.
            token_dim: Number of channels of a scene token.
            num_tokens: Number of tokens of a scene.
        """
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
        """Initialise weights for training from scratch: `Trunk.initialize`, framework defaults for pose embeddings."""
        reset_to_defaults(self)
        self.model.initialize()

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
        """Embed condition views and anchors as the sequence that the blocks attend to.

        Args:
            latents: Normalised latents of the condition views.
            cameras: Cameras of the condition views, relative to view 0.
            anchors: Poses from which the scene will be seen, relative to condition view 0. They always count.
            mask: True for condition views that count. The others become null tokens, pose included.
            pose_drop: Batch elements whose pose embedding becomes zero. None: chosen at random in training mode.
            anchor_drop: Batch elements whose anchor embedding becomes zero. None: chosen at random in training mode.

        Raises:
            ValueError: The shapes do not fit.
        """
        check_shape("SceneGenerator: latents", latents, (cameras.batch_size, cameras.num_views, *self.latent_shape))
        check_shape("SceneGenerator: mask", mask, tuple(latents.shape[:2]))
        views = self.model.c_embedder(latents.to(self.model.pos_embed.dtype))
        views = views + self.rounded_poses(run_block(self.pose_embed, cameras, pose_drop)).to(views.dtype)
        views = torch.where(mask[:, :, None, None], views, self.model.null_tokens.to(views.dtype))
        anchor = run_block(self.anchor_pose_embed, anchors, anchor_drop).mean(dim=2)
        return torch.cat([views.flatten(1, 2), self.rounded_poses(anchor).to(views.dtype)], dim=1)

    def cross_attention_kv(self, context: Float[Tensor, "b keys hidden"]) -> list[KeyValues]:
        """Return keys and values of every block. `velocity` accepts them instead of the context."""
        return self.model.keys_values(context)

    def velocity(
        self, tokens: Float[Tensor, "b N token"], t_net: Float[Tensor, "b N"], context: Context
    ) -> Float[Tensor, "b N token"]:
        """Predict the velocity, noise - data, of noisy scaled tokens.

        Args:
            tokens: Noisy tokens, scaled by `config.scale`.
            t_net: Network time of each token, 0 (data) to 999 (noise).
            context: Result of `embed_condition` or `cross_attention_kv`.

        Raises:
            ValueError: The shapes do not fit.
        """
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
        """Embed the condition and predict the velocity; arguments as in `embed_condition` and `velocity`."""
        context = self.embed_condition(latents, cameras, anchors, mask, pose_drop=pose_drop, anchor_drop=anchor_drop)
        return self.velocity(tokens, t_net, context)

    def rounded_poses(self, poses: Tensor) -> Tensor:
        """Round poses to bfloat16, as the released weights were trained, whatever the precision of the rest."""
        return poses.bfloat16().to(poses.dtype) if self._round_poses else poses
