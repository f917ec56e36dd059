"""The loss of a training batch: noise from seed, rank and step, latents of its clips, and the networks of a preset."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float
from nerfstudio.utils import comms
from torch import Tensor

from scenetok_ns.data.training_batches import Clips, TrainingBatch
from scenetok_ns.models.autoencoders.registry import latent_space
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.flow.draws import draw_scenegen, draw_scenetok
from scenetok_ns.models.flow.losses import (
    LatentViews,
    LossOutput,
    kl_weight,
    scenegen_loss,
    scenetok_loss,
    token_flow_loss,
)
from scenetok_ns.models.networks.compressor import TokenDistribution
from scenetok_ns.models.quirks import network_cameras
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.tools.seeds import mix


class TrainingLoss:
    """`prepare(step)`, then call it with the step's batch; a recorded pass is replayed after `prepare` alone.

    `seed` is that of the noise. `draws_latents`: draw the context latents of an autoencoder that samples. Dropout of
    the condition's pose is as the networks' mode says.
    """

    def __init__(self, scenetok: SceneTok, seed: int = 0, *, draws_latents: bool = False) -> None:
        self.seed, self._draws_latents = seed, draws_latents
        self._scenetok, self.preset = scenetok, scenetok.preset

    def prepare(self, step: int) -> None:
        """Seed the noise of a step, and set what else changes with its number; waits for nothing."""
        self.generator.manual_seed(mix(self.seed, comms.get_rank(), step))
        self._kl_weight.fill_(kl_weight(step, self.preset.training))

    def __call__(self, batch: TrainingBatch) -> LossOutput:
        if self.preset.scene_generator is None:
            return self._scenetok_loss(batch)
        return self._scenegen_loss(batch)

    @cached_property
    def generator(self) -> torch.Generator:
        """Generator of the noise in training."""
        return torch.Generator(self._scenetok.device)

    @cached_property
    def _kl_weight(self) -> Float[Tensor, ""]:
        return torch.zeros((), device=self._scenetok.device)

    def _scenetok_loss(self, batch: TrainingBatch) -> LossOutput:
        config, splits = self.preset.training, self.preset.data.views.target_splits
        context = self.latents(batch.context, clips=1, role="context")
        target = self.latents(batch.target, splits, role="target")
        draws = draw_scenetok(
            self.generator,
            config,
            num_context=context.latents.shape[1],
            tokens=self._token_shape(batch),
            latents=tuple(target.latents.shape),  # type: ignore[arg-type]
            splits=splits,
            device=self._scenetok.device,
        )
        networks = self._scenetok.compressor, self._scenetok.denoiser
        return scenetok_loss(*networks, context, target, draws, config, batch.step, weight=self._kl_weight)

    def _scenegen_loss(self, batch: TrainingBatch) -> LossOutput:
        assert self.preset.scene_generator is not None
        condition = self.latents(batch.condition, clips=1, role="context")
        draws = draw_scenegen(
            self.generator,
            self.preset.training,
            num_condition=condition.latents.shape[1],
            tokens=self._token_shape(batch),
            pose_dropout=self.preset.scene_generator.camera.dropout if self._scenetok.training else 0.0,
            device=self._scenetok.device,
        )
        network, stored = self._scenetok.scene_generator, batch.sample.tokens
        if stored is None:
            context = self.latents(batch.context, clips=1, role="context")
            return scenegen_loss(self._scenetok.compressor, network, condition, context, draws)
        anchors = network_cameras(CameraBatch(batch.context.c2w, batch.context.intrinsics), "context", self.preset)
        return token_flow_loss(TokenDistribution(stored.mean, stored.logvar), network, condition, anchors, draws)

    def _token_shape(self, batch: TrainingBatch) -> tuple[int, int, int]:
        return len(batch.scenes), self.preset.compressor.num_tokens, self.preset.compressor.token_dim

    @torch.no_grad()
    def latents(self, clips_of_batch: Clips, clips: int, role: Literal["context", "target"]) -> LatentViews:
        """Latents of images; a sequence of several clips is encoded clip by clip. Stored latents are normalised."""
        cameras = network_cameras(CameraBatch(clips_of_batch.c2w, clips_of_batch.intrinsics), role, self.preset)
        if clips_of_batch.images is None:
            assert clips_of_batch.latents is not None
            config = self.preset.context_autoencoder if role == "context" else self.preset.target_autoencoder
            return LatentViews(latent_space(config).normalize(clips_of_batch.latents.float()), cameras)
        images = clips_of_batch.images.float() / 255
        b = len(images)
        if role == "context":
            noise = self.generator if self._draws_latents else None
            latents = self._scenetok.context_autoencoder.encode(images, noise=noise)
        else:
            parts = images.unflatten(1, (clips, -1)).flatten(0, 1)
            latents = self._scenetok.target_autoencoder.encode(parts).unflatten(0, (b, clips)).flatten(1, 2)
        return LatentViews(latents, cameras)
