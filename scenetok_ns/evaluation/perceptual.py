"""LPIPS (Zhang et al. 2018) and ST-LPIPS (Ghildyal and Liu 2022): distances between features of a trained network.

Both compare features of unit length layer by layer: squared differences are weighted by a linear head, averaged over
the picture and summed over the layers. They differ in trunk and heads. LPIPS uses torchvision's classification networks
and the heads of its version 0.1. ST-LPIPS uses an AlexNet with blurred downsampling. A package contains all its
weights, so it needs no download.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from scenetok_ns.evaluation.weights import MissingWeightsError
from scenetok_ns.models.metrics import Pictures

Network = Literal["vgg", "alex", "squeeze"]
TAPS: dict[str, tuple[int, ...]] = {
    "vgg": (3, 8, 15, 22, 29),
    "alex": (1, 4, 7, 9, 11),
    "squeeze": (1, 4, 7, 9, 10, 11, 12),
}
"""Layers of torchvision's `features` whose outputs are compared, as in the authors' package."""

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""ImageNet's normalisation for pictures in [-1, 1]."""


class Perceptual(nn.Module):
    """A frozen trunk with its heads. The outputs of `layers` at the indices `taps` are compared."""

    shift: Tensor
    scale: Tensor

    def __init__(self, layers: nn.Sequential, taps: tuple[int, ...], heads: list[Float[Tensor, "1 c 1 1"]]) -> None:
        super().__init__()
        self.layers = layers[: taps[-1] + 1]
        self.taps = taps
        self.heads = nn.ParameterList(nn.Parameter(head, requires_grad=False) for head in heads)
        self.register_buffer("shift", torch.tensor(SHIFT)[:, None, None])
        self.register_buffer("scale", torch.tensor(SCALE)[:, None, None])
        self.requires_grad_(False).eval()

    def features(self, pictures: Pictures) -> list[Float[Tensor, "n c h w"]]:
        """The outputs at the taps, for pictures in [0, 1]."""
        x = (2 * pictures.float() - 1 - self.shift) / self.scale
        found = []
        for place, layer in enumerate(self.layers):
            x = layer(x)
            if place in self.taps:
                found.append(x.clone())  # the following ReLUs work in place
        return found

    def compare(
        self, first: list[Float[Tensor, "n c h w"]], second: list[Float[Tensor, "n c h w"]]
    ) -> Float[Tensor, " n"]:
        """Compute the distance between pictures from their features. It is symmetric."""
        total = first[0].new_zeros(len(first[0]))
        for head, a, b in zip(self.heads, first, second, strict=True):
            total = total + F.conv2d((_unit(a) - _unit(b)).square(), head).mean(dim=(1, 2, 3))
        return total

    def forward(self, pred: Pictures, target: Pictures) -> Float[Tensor, " n"]:
        return self.compare(self.features(pred), self.features(target))


def _unit(features: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Scale the features at every position to length one."""
    return features / (features.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)


def lpips(network: Network, trunk: Path, heads: Path) -> Perceptual:
    """Create LPIPS from torchvision's weights of the network (a whole classifier) and the file with its heads."""
    return lpips_of(network, _load(trunk), _load(heads))


def lpips_of(network: Network, trunk: Mapping[str, Tensor], heads: Mapping[str, Tensor]) -> Perceptual:
    from torchvision import models

    kind = {"vgg": models.vgg16, "alex": models.alexnet, "squeeze": models.squeezenet1_1}[network]
    # The meta device skips the initialisation of the classifier, which is most of the network and is not used.
    with torch.device("meta"):
        layers = kind(weights=None).features
    prefix = "features."
    own = {key.removeprefix(prefix): value for key, value in trunk.items() if key.startswith(prefix)}
    layers.load_state_dict(own, strict=True, assign=True)
    return Perceptual(layers, TAPS[network], [heads[f"lin{i}.model.1.weight"] for i in range(len(TAPS[network]))])


class Blur(nn.Module):
    """Downsampling by two with a fixed binomial filter, after padding by two reflected pixels on each side."""

    kernel: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0])
        kernel = row[:, None] * row / 16
        self.register_buffer("kernel", kernel.expand(channels, 1, 3, 3).contiguous())

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h2 w2"]:
        return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), self.kernel, stride=2, groups=x.shape[1])


STLPIPS_TAPS = (2, 6, 10, 12, 14)


def stlpips(weights: Path) -> Perceptual:
    """Create ST-LPIPS with AlexNet from the file that holds trunk and heads."""
    state = _load(weights)
    layers = nn.Sequential(
        *(nn.Conv2d(3, 64, 11, padding=2), Blur(64), nn.ReLU()),
        *(nn.MaxPool2d(3, stride=1), Blur(64), nn.Conv2d(64, 192, 5, padding=2), nn.ReLU()),
        *(nn.MaxPool2d(3, stride=1), Blur(192), nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
    )
    own = {}
    for key, value in state.items():
        if key.startswith("net.slice"):
            place, name = key.split(".")[2:]
            own[f"{place}.{'kernel' if name == 'filt' else name}"] = value
    layers.load_state_dict(own, strict=True)
    return Perceptual(layers, STLPIPS_TAPS, [state[f"lin{i}.model.1.weight"] for i in range(len(STLPIPS_TAPS))])


def _load(path: Path) -> dict[str, Tensor]:
    """Load a file of weights. Raises MissingWeightsError, in one line, if torch cannot read it."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises various errors for damaged files
        raise MissingWeightsError(f"{path} cannot be read ({type(error).__name__}); get the file again") from error
