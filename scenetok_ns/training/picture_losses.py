"""Picture losses: pixels, edges, local contrast, and patterns that repeat over a picture."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Pictures = Float[Tensor, "b 3 h w"]
CONTRAST_WINDOW = 8
"""Side, in pixels of each scale, of the squares in which contrast is compared."""
SCALES = (1, 2, 4)
CELL = 16
"""Side, in pixels, of the cells in which `grid_loss` looks for a repeated pattern: two latents of the bundled codec."""
LATENT = 8
"""Side, in pixels, of what a latent of the bundled codec shows."""
PATCH, PEAK = 32, 2.0
"""Side in pixels of the squares in which `stripe_loss` looks for patterns; how far a wave must stand out to count."""
PLAIN = 0.005
"""Size of waves, as `_amplitudes` returns it, below which `stripe_loss` counts all true squares as equally plain."""
DETAIL = 5
"""Side, in pixels, of the mean that is subtracted from a picture to leave its detail. Odd."""


def codec_loss(decoded: Pictures, images: Pictures) -> Float[Tensor, ""]:
    """Sum of the absolute error, twice the squared error, and the absolute error of edges (differences of neighbours),
    for images in [-1, 1]."""
    edges = sum(F.l1_loss(decoded.diff(dim=d), images.diff(dim=d)) for d in (-1, -2))
    return F.l1_loss(decoded, images) + 2 * F.mse_loss(decoded, images) + edges


def pixel_loss(decoded: Pictures, images: Pictures) -> Float[Tensor, ""]:
    """Absolute error, plus 4 times the squared error at full and at half size, for images in [-1, 1].

    Unlike `codec_loss`, it has no term of edges: where a prediction is uncertain, the expected absolute error of an
    edge is smallest without the edge, so that term makes predictions soft.
    """
    halves = F.mse_loss(F.avg_pool2d(decoded, 2), F.avg_pool2d(images, 2))
    return F.l1_loss(decoded, images) + 4 * F.mse_loss(decoded, images) + 4 * halves


def grid_loss(decoded: Pictures, weight: Float[Tensor, " b"]) -> Float[Tensor, ""]:
    """Strength of a pattern that repeats in every cell of `CELL` x `CELL` pixels: 0 if there is none.

    A decoder that is rewarded for contrast draws the same dots into all latents' cells, which shows on plain surfaces.
    The mean of detail over all cells of a batch has to vanish in every pixel of the cell, and its mean size must be
    equal in all of them. Both are relative to the mean size of detail.

    Args:
        decoded: Images; height and width at least `CELL`. Rows and columns beyond whole cells are left out.
        weight: Weight of each image in the means. Sum above 0.
    """
    gray = decoded.mean(dim=1, keepdim=True)
    margin = (DETAIL // 2,) * 4
    detail = (gray - F.avg_pool2d(F.pad(gray, margin, mode="reflect"), DETAIL, stride=1))[:, 0]
    rows, columns = (side // CELL for side in detail.shape[1:])
    detail = detail[:, : rows * CELL, : columns * CELL].unflatten(2, (columns, CELL)).unflatten(1, (rows, CELL))
    share = weight / weight.sum()
    mean, size = ((x.mean(dim=(1, 3)) * share[:, None, None]).sum(dim=0) for x in (detail, detail.abs()))
    typical = size.mean().detach() + 1e-3
    return (mean / typical).square().mean() + (size / typical - size.mean() / typical).square().mean()


def stripe_loss(decoded: Pictures, images: Pictures) -> Float[Tensor, ""]:
    """Strength of patterns in each picture that repeat with the latents, every `LATENT` pixels: 0 if there are none.

    In overlapping squares of `PATCH` pixels, the amplitude of every wave with a whole number of periods in a latent is
    compared with those of its neighbours in frequency. What exceeds both `PEAK` times their mean and the amplitude of
    the true square counts, relative to the detail of the true square, so mostly on plain surfaces, where a pattern is
    seen. `grid_loss` sees only what is in the same place in all pictures.

    Args:
        decoded: Images; height and width at least `PATCH`.
        images: True images.
    """
    squares = torch.cat([_squares(decoded), _squares(images)])
    size = _amplitudes(squares)  # [squares, waves, itself and its neighbours]
    made, true = size.chunk(2)
    usual = PEAK * made[..., 1:].mean(dim=-1)
    excess = (made[..., 0] - torch.maximum(usual, true[..., 0])).clamp_min(0)
    return (excess / (true.mean(dim=(1, 2))[:, None] + PLAIN)).mean()


def _squares(images: Pictures) -> Float[Tensor, "n pixels"]:
    """Overlapping squares of the grey pictures, weighted by a Hann window."""
    window = torch.hann_window(PATCH, periodic=False, device=images.device)
    squares = images.mean(dim=1).unfold(1, PATCH, PATCH // 2).unfold(2, PATCH, PATCH // 2).flatten(0, 2)
    centred = squares - squares.mean(dim=(1, 2), keepdim=True)
    return (centred * window * window[:, None]).flatten(1)


def _amplitudes(squares: Float[Tensor, "n pixels"]) -> Float[Tensor, "n waves near"]:
    """Sizes of all waves with whole numbers of periods in a latent, each followed by those of its 8 neighbours.

    A sine of amplitude 1 has size 3.75 (7.5 at half a wave per pixel).
    Frequencies of neighbours differ by two periods in a square: less would be the same wave, widened by the window.
    """
    half, device = LATENT // 2, squares.device
    # All on the device: a recorded step cannot copy a table from the host.
    count = torch.arange(1, half + 1, device=device)
    down, across = torch.meshgrid(torch.arange(1 - half, half + 1, device=device), count, indexing="ij")
    down, across = torch.cat([count, down.flatten()]), torch.cat([torch.zeros_like(count), across.flatten()])
    step = torch.arange(3, device=device)
    step = torch.where(step == 2, -1, step) * 2
    down = (PATCH // LATENT * down[:, None, None] + step[:, None]).expand(-1, 3, 3).flatten()
    across = (PATCH // LATENT * across[:, None, None] + step).expand(-1, 3, 3).flatten()
    place = torch.arange(PATCH, device=device) / PATCH
    phase = 2 * torch.pi * (place[:, None, None] * down + place[None, :, None] * across).flatten(0, 1)
    real, imaginary = (squares @ wave / PATCH for wave in (phase.cos(), phase.sin()))
    return (real.square() + imaginary.square() + 1e-8).sqrt().unflatten(1, (-1, 9))


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
