"""I3D of the published FVD: the Kinetics-400 network of Carreira and Zisserman (2017), from pytorch-i3d's weight file.

Modules have the names of the weight file, so no key has to be renamed. A test compares the network with recorded logits
of pytorch-i3d's own network with random weights.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from scenetok_ns.evaluation.options import MOST_PUBLISHED_FRAMES
from scenetok_ns.evaluation.weights import MissingWeightsError

SIZE, CLASSES = 224, 400
CLIP_FRAMES = range(9, MOST_PUBLISHED_FRAMES + 1)
"""Numbers of frames in a clip for which the network returns one vector of logits. Longer clips give several."""

WIDTHS = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
"""Inception block -> widths of its six convolutions: b0, b1a, b1b, b2a, b2b, b3b."""
POOLED = {"Conv3d_2c_3x3": ((1, 3, 3), (1, 2, 2)), "Mixed_3c": ((3, 3, 3), (2, 2, 2)), "Mixed_4f": ((2, 2, 2),) * 2}
"""Layer -> window and stride of the pooling after it."""


def padded(x: Tensor, window: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    """Pad a video with zeros like TensorFlow's SAME: if the number is odd, the extra one is at the end."""
    sizes = []
    for length, size, step in zip(x.shape[2:], window, stride, strict=True):
        total = max(size - (length % step or step), 0)
        sizes.append((total // 2, total - total // 2))
    return F.pad(x, [side for pair in reversed(sizes) for side in pair])


class Unit(nn.Module):
    """Convolution, normalisation with fixed statistics, ReLU."""

    def __init__(self, width_in: int, width: int, window: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.window, self.stride = (window,) * 3, (stride,) * 3
        self.conv3d = nn.Conv3d(width_in, width, window, stride, bias=False)
        self.bn = nn.BatchNorm3d(width, eps=1e-3)

    def forward(self, x: Float[Tensor, "n c f h w"]) -> Float[Tensor, "n d f2 h2 w2"]:
        return F.relu(self.bn(self.conv3d(padded(x, self.window, self.stride))))


class Mixed(nn.Module):
    """Inception block of four branches: a pointwise convolution, two 3 x 3 x 3 convolutions, and a pooling."""

    def __init__(self, width_in: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        point, reduce1, wide1, reduce2, wide2, pool = widths
        self.b0 = Unit(width_in, point)
        self.b1a, self.b1b = Unit(width_in, reduce1), Unit(reduce1, wide1, 3)
        self.b2a, self.b2b = Unit(width_in, reduce2), Unit(reduce2, wide2, 3)
        self.b3b = Unit(width_in, pool)

    def forward(self, x: Float[Tensor, "n c f h w"]) -> Float[Tensor, "n d f h w"]:
        pooled = F.max_pool3d(padded(x, (3, 3, 3), (1, 1, 1)), 3, 1)
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)], dim=1)


class Logits(nn.Module):
    """Pointwise convolution, named as in the weight file."""

    def __init__(self, width_in: int) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(width_in, CLASSES, 1)


class I3D(nn.Module):
    """I3D: videos in [-1, 1] -> logits. Call `eval` before inference, so that normalisation uses fixed statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = Unit(3, 64, 7, 2)
        self.Conv3d_2b_1x1 = Unit(64, 64)
        self.Conv3d_2c_3x3 = Unit(64, 192, 3)
        outputs = [192, *(a + b + c + d for a, _, b, _, c, d in WIDTHS.values())]
        for (name, widths), (width_in, _) in zip(WIDTHS.items(), pairwise(outputs), strict=True):
            self.add_module(name, Mixed(width_in, widths))
        self.logits = Logits(outputs[-1])

    def features(self, video: Float[Tensor, "n 3 f h w"]) -> Float[Tensor, "n 1024 f8 h32 w32"]:
        """Output of the last Inception block, an eighth of the frames and a thirty-second of the pixels."""
        x = self.Conv3d_1a_7x7(video)
        x = F.max_pool3d(padded(x, (1, 3, 3), (1, 2, 2)), (1, 3, 3), (1, 2, 2))
        for name in ("Conv3d_2b_1x1", "Conv3d_2c_3x3", *WIDTHS):
            x = self.get_submodule(name)(x)
            if name in POOLED:
                window, stride = POOLED[name]
                x = F.max_pool3d(padded(x, window, stride), window, stride)
        return x

    def forward(self, video: Float[Tensor, "n 3 f 224 224"]) -> Float[Tensor, "n 400 t"]:
        """Logits of each of the ceil(f / 8) - 1 pairs of neighbouring feature frames."""
        pooled = F.avg_pool3d(self.features(video), (2, 7, 7), 1)
        return self.logits.conv3d(pooled)[..., 0, 0]


def load_i3d(path: Path) -> I3D:
    """Load the network with the weights of rgb_imagenet.pt, on the CPU. Raises MissingWeightsError for another file."""
    network = I3D().eval()
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        # The file is from before PyTorch counted batches. Inference does not read these counters.
        counters = {key: value for key, value in network.state_dict().items() if key.endswith("num_batches_tracked")}
        network.load_state_dict({**counters, **state})
    except Exception as error:  # torch raises various errors for damaged files
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
        raise MissingWeightsError(f"{path} is not pytorch-i3d's rgb_imagenet.pt ({reason})") from error
    return network


class PublishedI3DFeatures(nn.Module):
    """The 400 logits of the published FVD.

    Frames are resized to 224 x 224 pixels (bilinear, not antialiased) without rounding, and scaled to [-1, 1].
    """

    def __init__(self, weights: Path) -> None:
        super().__init__()
        self.network = load_i3d(weights)

    def forward(self, clips: Float[Tensor, "n frames 3 height width"]) -> Float[Tensor, "n 400"]:
        """Logits of clips in [0, 1]. Raises ValueError for clips with a number of frames outside CLIP_FRAMES."""
        n, frames = clips.shape[:2]
        if frames not in CLIP_FRAMES:
            raise ValueError(
                f"the published FVD takes clips of {CLIP_FRAMES[0]} to {CLIP_FRAMES[-1]} frames, got {frames}"
            )
        resized = F.interpolate(clips.flatten(0, 1) * 255, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
        video = (2 * resized / 255 - 1).unflatten(0, (n, frames)).transpose(1, 2)
        return self.network(video)[..., 0]
