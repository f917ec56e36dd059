"""Metrics of pictures, with one value per picture, and of depth. Picture metrics take keywords, to avoid mix-ups."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

Pictures = Float[Tensor, "n 3 height width"]


def psnr(
    *, pred: Float[Tensor, "*n 3 height width"], target: Float[Tensor, "*n 3 height width"]
) -> Float[Tensor, "*n"]:
    """Peak signal-to-noise ratio in dB of pictures in [0, 1]; equal pictures have 100 dB, not infinity."""
    error = (pred.float() - target.float()).square().mean(dim=(-3, -2, -1))
    return -10.0 * torch.log10(error.clamp(min=1e-10))


def ssim(*, pred: Pictures, target: Pictures) -> Float[Tensor, " n"]:
    """Structural similarity of pictures in [0, 1], by torchmetrics as in Nerfstudio: Gaussian, 11 pixels, sigma 1.5."""
    # Imported here because it takes a second, and Nerfstudio loads our entry points at every start.
    from torchmetrics.functional.image import structural_similarity_index_measure

    values = structural_similarity_index_measure(
        preds=pred.float(), target=target.float(), data_range=1.0, reduction="none"
    )
    assert isinstance(values, Tensor)
    return values.reshape(len(pred))


def ssim_skimage(*, pred: Pictures, target: Pictures) -> Float[Tensor, " n"]:
    """Structural similarity as pixelSplat, SceneTok and others report it: scikit-image's, with a Gaussian of 11 pixels.

    Differs from `ssim` in two ways: only windows that lie inside the picture count, and variances are those of a
    sample (n - 1). Pictures in [0, 1] must have at least 11 pixels on each side.
    """
    offsets = torch.arange(-5, 6, dtype=torch.float64)
    row = torch.exp(-(offsets**2) / (2 * 1.5**2))
    row = (row / row.sum()).to(pred.device)
    # Float64: a variance is a small difference of large numbers in flat regions.
    x, y = pred.double(), target.double()
    moments = torch.cat([x, y, x * x, y * y, x * y], dim=1)
    channels = moments.shape[1]
    for kernel in (row[:, None], row[None]):
        moments = F.conv2d(moments, kernel.expand(channels, 1, *kernel.shape), groups=channels)
    mean_x, mean_y, square_x, square_y, product = moments.chunk(5, dim=1)
    sample = 11**2 / (11**2 - 1)
    variances = sample * (square_x - mean_x**2 + square_y - mean_y**2)
    covariance = sample * (product - mean_x * mean_y)
    c1, c2 = 0.01**2, 0.03**2
    values = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    values = values / ((mean_x**2 + mean_y**2 + c1) * (variances + c2))
    return values.mean(dim=(1, 2, 3)).float()


def picture_metrics(*, pred: Pictures, target: Pictures) -> dict[str, Float[Tensor, " n"]]:
    """Compute all metrics that need no weights. Returns their values by the names under which they are reported."""
    return {
        "psnr": psnr(pred=pred, target=target),
        "ssim": ssim(pred=pred, target=target),
        "ssim_skimage": ssim_skimage(pred=pred, target=target),
    }


def depth_metrics(
    depth: Float[Tensor, "*n h w"], truth: Float[Tensor, "*n h w"], known: Bool[Tensor, "*n h w"]
) -> dict[str, float]:
    """Compare depth with the truth where it is known.

    Returns:
        abs_rel: Mean of |depth - truth| / truth. delta1: Fraction of the pixels whose depth is off by less than a
        factor of 1.25. Both are NaN if no pixel is known.
    """
    found, true = depth[known].float(), truth[known].float()
    ratio = torch.maximum(found / true, true / found)
    return {"abs_rel": float(((found - true).abs() / true).mean()), "delta1": float((ratio < 1.25).float().mean())}
