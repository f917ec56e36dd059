"""Picture losses: pixels, edges and local contrast."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Pictures = Float[Tensor, "b 3 h w"]
CONTRAST_WINDOW = 8
"""Side, in pixels of each scale, of the squares in which contrast is compared."""
SCALES = (1, 2, 4)


def codec_loss(decoded: Pictures, images: Pictures) -> Float[Tensor, ""]:
    """Sum of the absolute error, twice the squared error, and the absolute error of edges (differences of neighbours),
    for images in [-1, 1]."""
    edges = sum(F.l1_loss(decoded.diff(dim=d), images.diff(dim=d)) for d in (-1, -2))
    return F.l1_loss(decoded, images) + 2 * F.mse_loss(decoded, images) + edges


def contrast_loss(decoded: Pictures, images: Pictures) -> Float[Tensor, ""]:
    """Absolute difference of local contrast (`local_contrast`), averaged over `SCALES`.

    It rewards as much contrast as the true picture has in a small square, without regard to the exact place. The error
    of pixels alone is smallest for edges that are softer than the true ones.
    """
    total = decoded.new_zeros(())
    for scale in SCALES:
        first, second = (local_contrast(F.avg_pool2d(x, scale) if scale > 1 else x) for x in (decoded, images))
        total = total + F.l1_loss(first, second)
    return total / len(SCALES)


def local_contrast(images: Pictures) -> Float[Tensor, "b 2 h2 w2"]:
    """Root mean square of the differences of neighbours along rows and along columns, in overlapping squares."""
    gray = images.mean(dim=1, keepdim=True)
    across = F.pad(gray.diff(dim=-1), (0, 1)).square()
    down = F.pad(gray.diff(dim=-2), (0, 0, 0, 1)).square()
    side = min(CONTRAST_WINDOW, images.shape[-1] // 2)
    energy = F.avg_pool2d(torch.cat([across, down], dim=1), side, stride=side // 2)
    return (energy + 1e-4).sqrt()
