"""splatfacto that learns from rendered views as well: their weights, and depth, enter its loss."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from jaxtyping import Float
from nerfstudio.models.splatfacto import SplatfactoModel, SplatfactoModelConfig
from torch import Tensor, nn

LPIPS_WEIGHTS = "alexnet-owt-7be5be79.pth"
"""File in the cache of torch.hub that the metric LPIPS needs."""
SOLID = 0.5
"""Accumulation from which a pixel's depth is compared."""


@dataclass
class SplatModelConfig(SplatfactoModelConfig):
    """splatfacto with settings for small pictures and few steps."""

    _target: type = field(default_factory=lambda: SplatModel)
    num_downscales: int = 0
    """at the beginning, resolution is 1/2^d, where d is this number"""
    cull_alpha_thresh: float = 0.02
    """threshold of opacity for culling gaussians. One can set it to a lower value (e.g. 0.005) for higher quality."""
    stop_split_at: int = 1500
    """stop splitting at this step"""
    stop_screen_size_at: int = 0
    """stop culling/splitting at this step WRT screen size of gaussians"""
    sh_degree_interval: int = 3000
    """every n intervals turn on another sh degree"""
    output_depth_during_training: bool = True
    """If True, output depth during training. Otherwise, only output depth during evaluation."""
    depth_weight: float = 0.05
    """Weight of the difference between the logarithms of rendered depth and the tokenizer's depth; 0: none."""


class SplatModel(SplatfactoModel):
    """Batches may have "weight" and "depth", [h, w, 1] each; see `SplatDataManager`."""

    config: SplatModelConfig

    def populate_modules(self) -> None:
        """Build the Gaussians. Nothing is downloaded: LPIPS is measured only if its weights are in torch's cache."""
        self.has_lpips = (Path(torch.hub.get_dir()) / "checkpoints" / LPIPS_WEIGHTS).is_file()
        if self.has_lpips:
            super().populate_modules()
            return
        with mock.patch("torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity", _NoMetric):
            super().populate_modules()

    def get_loss_dict(
        self, outputs: dict[str, Any], batch: dict[str, Any], metrics_dict: dict[str, Any] | None = None
    ) -> dict[str, Tensor]:
        """splatfacto's losses. A pixel of weight w is compared with w times its truth and 1 - w times itself."""
        if "weight" in batch:
            weight = batch["weight"].to(self.device)
            own = outputs["rgb"].detach().permute(2, 0, 1)[None]
            own = F.interpolate(own, size=weight.shape[:2])[0].permute(1, 2, 0)  # where training begins coarser
            batch = {**batch, "image": weight * batch["image"].to(self.device) + (1 - weight) * own}
        losses: dict[str, Tensor] = super().get_loss_dict(outputs, batch, metrics_dict)
        if "depth" in batch and outputs["depth"] is not None and self.config.depth_weight:
            losses["depth_loss"] = self.config.depth_weight * self._depth_loss(outputs, batch)
        return losses

    def _depth_loss(self, outputs: dict[str, Any], batch: dict[str, Any]) -> Float[Tensor, ""]:
        found, alpha = outputs["depth"], outputs["accumulation"].detach()
        size = found.shape[:2]
        truth, weight = (
            F.interpolate(maps.to(found).permute(2, 0, 1)[None], size=size)[0].permute(1, 2, 0)
            for maps in (batch["depth"], batch.get("weight", torch.ones_like(batch["depth"])))
        )
        weight = weight * ((truth > 0) & (alpha > SOLID))
        apart = (found.clamp(min=1e-6).log() - truth.clamp(min=1e-6).log()).abs()
        return (weight * apart).sum() / weight.sum().clamp(min=1.0)

    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Tensor]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Metrics of splatfacto, without LPIPS if its weights are missing."""
        metrics, images = super().get_image_metrics_and_images(outputs, batch)
        if not self.has_lpips:
            metrics = {name: value for name, value in metrics.items() if "lpips" not in name}
        return metrics, images


class _NoMetric(nn.Module):
    """Takes the place of a metric whose weights are not there."""

    def __init__(self, normalize: bool = True) -> None:
        super().__init__()

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return first.new_full((), float("nan"))
