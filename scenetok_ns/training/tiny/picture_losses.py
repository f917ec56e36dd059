"""Picture losses beside the error of pixels: edges, local contrast, a discriminator."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Pictures = Float[Tensor, "b 3 h w"]
CONTRAST_WINDOW = 8
"""Side, in pixels of each scale, of the squares in which contrast is compared."""
SCALES = (1, 2, 4)


def codec_loss(decoded: Pictures, images: Pictures) -> Float[Tensor, ""]:
    """Absolute and square error, and absolute error of neighbour differences (edges), of images in [-1, 1]."""
    edges = sum(F.l1_loss(decoded.diff(dim=d), images.diff(dim=d)) for d in (-1, -2))
    return F.l1_loss(decoded, images) + 2 * F.mse_loss(decoded, images) + edges


def contrast_loss(decoded: Pictures, images: Pictures) -> Float[Tensor, ""]:
    """Difference of the root mean squares of neighbour differences in small squares, over some scales.

    It asks for as much contrast as the truth has there, wherever exactly: the error of pixels alone is smallest for
    edges that are softer than true ones.
    """
    total = decoded.new_zeros(())
    for scale in SCALES:
        first, second = (local_contrast(F.avg_pool2d(x, scale) if scale > 1 else x) for x in (decoded, images))
        total = total + F.l1_loss(first, second)
    return total / len(SCALES)


def local_contrast(images: Pictures) -> Float[Tensor, "b 2 h2 w2"]:
    """Root mean square of the differences along rows and along columns, in overlapping squares."""
    gray = images.mean(dim=1, keepdim=True)
    across = F.pad(gray.diff(dim=-1), (0, 1)).square()
    down = F.pad(gray.diff(dim=-2), (0, 0, 0, 1)).square()
    side = min(CONTRAST_WINDOW, images.shape[-1] // 2)
    energy = F.avg_pool2d(torch.cat([across, down], dim=1), side, stride=side // 2)
    return (energy + 1e-4).sqrt()


class PatchCritic(nn.Module):
    """Scores of overlapping patches of a picture: higher where they look like true ones."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        widths = (3, width, 2 * width, 4 * width)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers)
        self.score = nn.Conv2d(widths[-1], 1, 3, padding=1)

    def forward(self, images: Pictures) -> tuple[Float[Tensor, "b 1 h w"], list[Tensor]]:
        """Scores, and the features that led to them."""
        features = []
        for layer in self.layers:
            images = layer(images)
            if isinstance(layer, nn.LeakyReLU):
                features.append(images)
        return self.score(images), features


def critic_losses(
    critic: PatchCritic, decoded: Pictures, images: Pictures, noise: Pictures, penalty: float = 1.0
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    """Loss of the picture's maker, its difference in the critic's features, and the loss of the critic itself.

    Pairs are compared (relativistic, Jolicoeur-Martineau 2018). `noise`: a small disturbance; the critic must not
    answer to it, which stands for a penalty on its gradient without a second backward pass.
    """
    frozen = {name: value.detach() for name, value in critic.named_parameters()}
    fake, fake_features = torch.func.functional_call(critic, frozen, (decoded,))
    with torch.no_grad():
        real, real_features = torch.func.functional_call(critic, frozen, (images,))
    maker = F.softplus(real - fake).mean()
    matching = sum(F.l1_loss(a, b) for a, b in zip(fake_features, real_features, strict=True)) / len(real_features)
    both = torch.cat([images, decoded.detach()])
    scores = critic(torch.cat([both, both + torch.cat([noise, noise])]))[0]
    plain, moved = scores.chunk(2)
    of_real, of_fake = plain.chunk(2)
    steep = (moved - plain).square().mean() / noise.square().mean()
    judge = F.softplus(of_fake - of_real).mean() + penalty * steep / images[0].numel()
    assert isinstance(matching, Tensor)
    return maker, matching, judge
