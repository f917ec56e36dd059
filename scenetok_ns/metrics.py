"""Picture metrics, one value a picture. Arguments are keywords, since not all metrics are symmetric."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

Pictures = Float[Tensor, "n 3 height width"]


def psnr(*, pred: Pictures, target: Pictures) -> Float[Tensor, "n"]:
    """Peak signal-to-noise ratio in dB of pictures in [0, 1]; equal pictures give 100 dB, not infinity."""
    error = (pred.float() - target.float()).square().mean(dim=(1, 2, 3))
    return -10.0 * torch.log10(error.clamp(min=1e-10))


def ssim(*, pred: Pictures, target: Pictures) -> Float[Tensor, "n"]:
    """Structural similarity of pictures in [0, 1] (Wang et al. 2004: Gaussian window of 11 pixels, sigma 1.5)."""
    # Imported here: it costs a second, and Nerfstudio loads our entry points at every start.
    from torchmetrics.functional.image import structural_similarity_index_measure

    values = structural_similarity_index_measure(
        preds=pred.float(), target=target.float(), data_range=1.0, reduction="none"
    )
    assert isinstance(values, Tensor)
    return values.reshape(len(pred))


def picture_metrics(*, pred: Pictures, target: Pictures) -> dict[str, Float[Tensor, "n"]]:
    """All metrics that need no weights, by the names under which they are reported."""
    return {"psnr": psnr(pred=pred, target=target), "ssim": ssim(pred=pred, target=target)}


def frechet_distance(first: Float[Tensor, "k d"], second: Float[Tensor, "m d"]) -> Float[Tensor, ""]:
    """Squared Frechet (2-Wasserstein) distance between the Gaussians fitted to two sets of features, in float64."""
    (mean_a, root_a, trace_a), (mean_b, root_b, trace_b) = (_gaussian(features) for features in (first, second))
    # The trace of the root of A B is the sum of the singular values of the product of their roots.
    shared = torch.linalg.svdvals(root_a @ root_b).sum()
    return (mean_a - mean_b).square().sum() + trace_a + trace_b - 2 * shared


def _gaussian(features: Float[Tensor, "k d"]) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, symmetric root of the covariance, and its trace."""
    values = features.double()
    covariance = torch.cov(values.T).reshape(values.shape[1], values.shape[1])
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    root = vectors * eigenvalues.clamp(min=0).sqrt() @ vectors.T
    return values.mean(dim=0), root, covariance.trace()
