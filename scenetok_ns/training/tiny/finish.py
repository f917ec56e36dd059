"""The last stage of the embedded tokenizer: few-step predictions that look like pictures.

In addition to the loss of the stage before, one frame of each element is predicted from pure noise in one step,
decoded, and compared with the truth. By default the denoiser and the decoder are trained together; the compressor is
frozen, so that tokens do not change.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from scenetok_ns.evaluation.perceptual import Perceptual, stlpips
from scenetok_ns.models.flow.rectified_flow import interpolate, network_time, velocity_target
from scenetok_ns.models.networks.compressor import Compressor
from scenetok_ns.models.networks.denoiser import Denoiser
from scenetok_ns.tools.errors import UsageError
from scenetok_ns.training.picture_losses import PATCH, codec_loss, contrast_loss, grid_loss, pixel_loss, stripe_loss
from scenetok_ns.training.tiny.evaluation import edge_contrast
from scenetok_ns.training.tiny.optimizer import Group, TinyOptimizer
from scenetok_ns.training.tiny.run import TinyRun, averaged_copy
from scenetok_ns.training.tiny.tokenizer import KL_WEIGHT, Kind, TokenizerTask, orthogonal_matrices

VIEWS_AND_TOKENS_OF_FINISH = (((12, 256), 50), ((12, 64), 10), ((4, 256), 25), ((1, 256), 15))
CLEAN_DECODED = 0.25
"""Share of batch elements whose true latents are decoded instead, so that the decoder does not forget them."""


Trained = Literal["decoder", "denoiser", "all"]
"""Networks that the finish trains: the decoder alone (depth heads and generators stay valid), the denoiser too (only
generators stay valid), or all but the encoder (neither does)."""


@dataclass
class FinishWeights:
    """Weights of the terms."""

    picture: float = 0.5
    """Loss of pixels; for decoded true latents also of edges."""
    contrast: float = 1.0
    """Loss of local contrast."""
    grid: float = 1.0
    """Penalty on patterns that repeat with the grid of latents (`grid_loss`); 0: off."""
    stripes: float = 1.0
    """Penalty on patterns in each picture that repeat with the latents (`stripe_loss`); 0: off."""
    perceptual: float = 0.0
    """ST-LPIPS; needs --perceptual-weights."""


def check_finish(weights: FinishWeights, perceptual: Path | None, image_size: int) -> None:
    """Raise UsageError for terms that cannot be computed."""
    if weights.perceptual and perceptual is None:
        raise UsageError("--finish.perceptual needs --perceptual-weights: the file of the ST-LPIPS package")
    if weights.stripes and image_size < PATCH:
        raise UsageError(
            f"--finish.stripes needs pictures of at least {PATCH} x {PATCH} pixels, but the preset has {image_size} x "
            f"{image_size}; give --finish.stripes 0"
        )


class FinishTask(TokenizerTask):
    """Trains the networks that `trains` names; the others are frozen."""

    name, file_name = "finish", "weights.safetensors"

    def __init__(
        self, run: TinyRun, weights: FinishWeights, perceptual: Path | None, trains: Trained = "denoiser"
    ) -> None:
        super().__init__(run, regression=0.0)
        self.weights = weights
        self.trains = trains
        self.compressor.requires_grad_(trains == "all")
        self.denoiser.requires_grad_(trains != "decoder")
        self.perceptual: Perceptual | None = None
        check_finish(weights, perceptual, run.preset.data.image_size)
        if perceptual is not None and weights.perceptual:
            self.perceptual = stlpips(perceptual).to(run.device)
        self.trained = nn.ModuleDict({"denoiser": self.denoiser, "decoder": run.codec.decoder})
        if trains == "all":
            self.trained["compressor"] = self.compressor
        self.averaged = averaged_copy(self.trained)

    def loss(self, kind: Hashable) -> Float[Tensor, ""]:
        assert isinstance(kind, Kind)
        run, generator = self.run, self.run.generator
        context, target = self.draw_views(kind.views)
        latents = target.latents.float()
        batch, count = latents.shape[:2]
        with run.autocast():
            with torch.set_grad_enabled(self.trains == "all"):
                distribution = self.compressor(context.latents, context.cameras)
            tokens = distribution.mean
            if self.trains == "all":
                tokens = distribution.sample(torch.randn(tokens.shape, generator=generator, device=run.device))
            state = self.denoiser.project(tokens[:, : kind.tokens])
            time = self.draw_times(batch, "mixed")
            noise = torch.randn(latents.shape, generator=generator, device=run.device)
            noisy = interpolate(latents, noise, time)
            velocity = self.denoiser(noisy, target.cameras, network_time(time), state).float()
        error = (velocity - velocity_target(latents, noise)).square().mean(dim=(2, 3, 4))
        weight = (time > 0).float()
        flow = (error * weight).sum() / weight.sum()
        if self.trains == "all":
            flow = flow + KL_WEIGHT * distribution.kl().mean()

        # The last frame is at pure noise, or at a level; the clean estimate counts as a picture where it is pure.
        place = count // 2 + torch.randint(count // 2, (batch,), generator=generator, device=run.device)
        rows = torch.arange(batch, device=run.device)
        level = time[rows, place]
        estimate = (noisy - time[:, :, None, None, None] * velocity)[rows, place]
        true_latents = latents[rows, place]
        swap = torch.rand((batch,), generator=generator, device=run.device) < CLEAN_DECODED
        predicted = ~swap & (level == 1)
        shown = torch.where(predicted[:, None, None, None], estimate, true_latents)
        scenes, views = self.drawn
        images = self.pool.images(scenes, views.gather(1, place[:, None]))[:, 0].float() / 127.5 - 1
        with run.autocast():
            decoded = run.codec.decode(shown).float()
        return flow + self.picture_terms(decoded, images, predicted)

    def picture_terms(self, decoded: Tensor, images: Tensor, predicted: Bool[Tensor, " b"]) -> Float[Tensor, ""]:
        """predicted: Whether an image is decoded from a prediction; the others are decoded from true latents."""
        weights = self.weights
        # The loss of true latents is a mean over all elements in which predictions count as exact, and the other way
        # round: both keep the shapes of the batch, as recorded steps need.
        own = predicted[:, None, None, None]
        total = weights.picture * pixel_loss(torch.where(own, decoded, images), images)
        total = total + weights.picture * codec_loss(torch.where(own, images, decoded), images)
        total = total + weights.contrast * contrast_loss(decoded, images)
        if weights.grid:
            total = total + weights.grid * grid_loss(decoded, predicted.float() + 1e-3)
        if weights.stripes:
            total = total + weights.stripes * stripe_loss(decoded, images)
        if self.perceptual is not None:
            with self.run.autocast():
                distance = self.perceptual(decoded / 2 + 0.5, images / 2 + 0.5)
            total = total + weights.perceptual * distance.mean()
        return total

    def optimizer(self) -> TinyOptimizer:
        run = self.run
        run.codec.decoder.requires_grad_(True)
        groups = [Group(list(run.codec.decoder.parameters()))]
        parameters = [
            p for network in (self.denoiser, self.compressor) for p in network.parameters() if p.requires_grad
        ]
        if parameters:
            groups.append(Group(parameters, orthogonal=orthogonal_matrices(run, self.compressor, self.denoiser)))
        return TinyOptimizer(groups, run.options.learning_rate)

    def kinds(self, along: float) -> Sequence[tuple[Hashable, float]]:
        most = self.preset.compressor.num_tokens
        return [(Kind("mixed", n, min(k, most)), weight) for (n, k), weight in VIEWS_AND_TOKENS_OF_FINISH]

    @torch.no_grad()
    def held_out(self) -> dict[str, float]:
        with self.averaged_decoder():
            if self.trains == "all":
                return super().held_out() | self.looks()
            self.averaged["compressor"] = self.compressor
            found = super().held_out() | self.looks()
            del self.averaged["compressor"]
        return found

    def looks(self) -> dict[str, float]:
        """Edge contrast relative to the truth, `grid_loss` and `stripe_loss` of the window rendered from 12 views."""
        denoiser = self.averaged["denoiser"]
        assert isinstance(denoiser, Denoiser)
        compressor = self.averaged["compressor"]
        assert isinstance(compressor, Compressor)
        tokens, target, truth = self.held_out_tokens(compressor, 12)
        made = self.run.decode(self.one_step(denoiser, tokens, target))
        pictures = made.flatten(0, 1) * 2 - 1
        grid = grid_loss(pictures, torch.ones(len(pictures), device=pictures.device))
        stripes = torch.stack([stripe_loss(a * 2 - 1, b * 2 - 1) for a, b in zip(made, truth, strict=True)]).mean()
        return {"edges": edge_contrast(made) / edge_contrast(truth), "grid": float(grid), "stripes": float(stripes)}

    def averaged_decoder(self) -> _Swapped:
        return _Swapped(self.run.codec, self.averaged["decoder"])

    def modules(self) -> dict[str, nn.Module]:
        compressor = self.averaged["compressor"] if self.trains == "all" else self.compressor
        return {"codec": self.run.codec, "compressor": compressor, "denoiser": self.averaged["denoiser"]}

    def save(self, folder: Path) -> None:
        with self.averaged_decoder():
            super().save(folder)


class _Swapped:
    """The codec, temporarily with another decoder."""

    def __init__(self, codec: nn.Module, decoder: nn.Module) -> None:
        self.codec, self.decoder = codec, decoder

    def __enter__(self) -> None:
        self.own = self.codec.decoder
        self.codec.decoder = self.decoder

    def __exit__(self, *error: object) -> None:
        self.codec.decoder = self.own
