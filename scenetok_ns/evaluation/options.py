"""Options of an evaluation: its metrics, its sweeps, and its report page.

Imports nothing heavy, because Nerfstudio loads configurations at every start, and help texts show them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from scenetok_ns.models.presets import Solver

Metric = Literal["lpips", "fid", "kid", "fvd", "stlpips"]
"""Names of metrics in addition to PSNR and SSIM, which need no weights."""
ContextOrder = Literal["index", "reversed", "shuffled"]
Value = int | str
FIGURES = "evaluation.json"
"""Name of the file with the figures in the folder of an evaluation."""
ALL_METRICS: tuple[Metric, ...] = ("lpips", "fid", "kid", "fvd", "stlpips")
MOST_PUBLISHED_FRAMES = 16
"""Maximum number of frames in a clip for which the published I3D returns a single vector of logits."""


@dataclass(frozen=True)
class EvaluationOptions:
    """Metrics, and the weights of their networks."""

    metrics: tuple[Metric, ...] | None = None
    """Metrics in addition to PSNR and SSIM. Default: those whose weights are there; the results list the others with
    the reason. stlpips needs no download: it gives ST-LPIPS for each view, and distances of its features over the set,
    a stand-in under its own names if the weights of Inception and I3D are missing."""
    lpips_network: Literal["vgg", "alex", "squeeze"] = "vgg"
    """Trunk of LPIPS, which is part of the metric's name in the results. Published figures use vgg."""
    lpips_weights: Path | None = None
    """torchvision's ImageNet weights of that network; None: the file in torch's hub folder."""
    inception_weights: Path | None = None
    """Inception weights for FID and KID (weights-inception-2015-12-05-6726825d.pth); None: the file in torch's hub
    folder."""
    i3d_weights: Path | None = None
    """I3D weights for FVD (i3d_torchscript.pt, or rgb_imagenet.pt with the published protocol); None: the file in
    torch's hub folder."""
    fid_protocol: Literal["clean", "published"] = "clean"
    """How FID prepares pictures. clean: rounded to 8 bits and resized as in TensorFlow 1, as FID is defined. published:
    truncated to 8 bits and resized with antialiasing, as the published code does with torchmetrics; the metric's name
    then ends in _published."""
    fvd_protocol: Literal["clean", "published"] = "clean"
    """Network of FVD. clean: StyleGAN-V's I3D, pictures rounded to 8 bits. published: pytorch-i3d as in the published
    code, pictures not rounded; the metric's name then ends in _published, and clips have at most 16 frames."""
    fvd_frames: int = 16
    """Number of frames in each clip of FVD; 16 is usual."""
    download: bool = False
    """Download missing weights to torch's hub folder, up to 620 MB with all metrics."""
    batch_scenes: int | None = None
    """Number of scenes rendered together; None: 4 on a GPU, 1 on a CPU."""

    @property
    def wanted(self) -> tuple[Metric, ...]:
        """Metrics to compute if their weights are there."""
        return ALL_METRICS if self.metrics is None else self.metrics

    @property
    def requested(self) -> frozenset[Metric]:
        """Metrics that must be computed: all of `metrics`, or those that another option is given for."""
        if self.metrics is not None:
            return frozenset(self.metrics)
        options: dict[Metric, bool] = {
            "lpips": self.lpips_weights is not None,
            "fid": self.inception_weights is not None or self.fid_protocol == "published",
            "fvd": self.i3d_weights is not None or self.fvd_protocol == "published",
        }
        return frozenset(name for name, given in options.items() if given)

    def __post_init__(self) -> None:
        least = 10 if "fvd" in self.wanted else 2  # I3D's convolutions need 10, a change between frames needs 2
        if self.fvd_frames < least:
            raise ValueError(f"--fvd-frames must be at least {least}, got {self.fvd_frames}")
        if "fvd" in self.wanted and self.fvd_protocol == "published" and self.fvd_frames > MOST_PUBLISHED_FRAMES:
            raise ValueError(
                f"--fvd-frames must be at most {MOST_PUBLISHED_FRAMES} with --fvd-protocol published, got "
                f"{self.fvd_frames}"
            )
        if self.batch_scenes is not None and self.batch_scenes < 1:
            raise ValueError(f"--batch-scenes must be at least 1, got {self.batch_scenes}")


@dataclass(frozen=True)
class SweepOptions:
    """Values to try; several options give every combination."""

    sweep_context: tuple[int, ...] = ()
    """Numbers of context views."""
    sweep_order: tuple[ContextOrder, ...] = ()
    """Orders of the context views. The middle view of an order is the reference."""
    sweep_tokens: tuple[int, ...] = ()
    """Numbers of scene tokens. The first tokens of a scene are kept."""
    sweep_steps: tuple[int, ...] = ()
    """Numbers of denoising steps."""
    sweep_solver: tuple[Solver, ...] = ()
    """Solvers for denoising."""

    def axes(self) -> dict[str, tuple[Value, ...]]:
        """Name -> values, for the options that have values."""
        values = {field.name.removeprefix("sweep_"): getattr(self, field.name) for field in fields(self)}
        return {name: given for name, given in values.items() if given}


@dataclass(frozen=True)
class ReportOptions:
    """Options of the report page."""

    max_scenes: int = 24
    """Maximum number of scenes with pictures; those with the lowest PSNR are displayed."""
    max_views: int = 8
    """Maximum number of views of each scene: half of them the worst ones, half spread over the path."""
    videos: bool = True
    """Add a video of all views of each scene; needs ffmpeg."""
