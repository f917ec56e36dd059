"""What an evaluation measures. Imports nothing heavy: Nerfstudio loads configurations at every start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Metric = Literal["lpips", "fid", "kid", "fvd", "stlpips"]
"""Beside PSNR and SSIM, which need no weights."""
ALL_METRICS: tuple[Metric, ...] = ("lpips", "fid", "kid", "fvd", "stlpips")
MOST_PUBLISHED_FRAMES = 16
"""Frames of a clip of which the published I3D gives a single vector of logits."""


@dataclass(frozen=True)
class EvaluationOptions:
    """Metrics whose network's weights are not at hand are left out, and named in the results with why."""

    metrics: tuple[Metric, ...] = ALL_METRICS
    """Beside PSNR and SSIM. stlpips needs no download: ST-LPIPS for each view, and distances of its features over the
    set that stand in, under their own names, where Inception and I3D are not at hand."""
    lpips_network: Literal["vgg", "alex", "squeeze"] = "vgg"
    """Trunk of LPIPS; it is part of the metric's name in the results. Published figures are with vgg."""
    lpips_weights: Path | None = None
    """torchvision's ImageNet weights of that network; None: the file in torch's hub folder."""
    inception_weights: Path | None = None
    """Inception of FID and KID (weights-inception-2015-12-05-6726825d.pth); None: the file in torch's hub folder."""
    i3d_weights: Path | None = None
    """I3D of FVD (i3d_torchscript.pt; rgb_imagenet.pt by the published protocol); None: the file in torch's hub
    folder."""
    fid_protocol: Literal["clean", "published"] = "clean"
    """How FID prepares pictures. clean: as defined, rounded to 8 bits, resized as TensorFlow 1 does. published: as the
    published code does with torchmetrics, cut to 8 bits, resized with antialiasing; the metric's name then says so."""
    fvd_protocol: Literal["clean", "published"] = "clean"
    """Network of FVD. clean: StyleGAN-V's I3D, pictures rounded to 8 bits. published: pytorch-i3d as in the published
    code, pictures not rounded; the metric's name then says so, and clips have at most 16 frames."""
    fvd_frames: int = 16
    """Frames of a clip of FVD: 16 by custom."""
    download: bool = False
    """Download missing weights to torch's hub folder, up to 620 MB with all metrics."""
    batch_scenes: int | None = None
    """Scenes rendered together; None: 4 on a GPU, 1 on a CPU."""

    def __post_init__(self) -> None:
        least = 10 if "fvd" in self.metrics else 2  # what I3D's convolutions need, and a change between frames
        if self.fvd_frames < least:
            raise ValueError(f"--fvd-frames must be at least {least}, got {self.fvd_frames}")
        if "fvd" in self.metrics and self.fvd_protocol == "published" and self.fvd_frames > MOST_PUBLISHED_FRAMES:
            raise ValueError(
                f"--fvd-frames must be at most {MOST_PUBLISHED_FRAMES} with --fvd-protocol published, got "
                f"{self.fvd_frames}"
            )
        if self.batch_scenes is not None and self.batch_scenes < 1:
            raise ValueError(f"--batch-scenes must be at least 1, got {self.batch_scenes}")
