"""Networks for metrics over a whole set: Inception for pictures, I3D for clips, and a stand-in for both."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from scenetok_ns.evaluation.perceptual import Perceptual
from scenetok_ns.evaluation.weights import MissingWeightsError

Bytes = UInt8[Tensor, "n 3 height width"]
Clips = UInt8[Tensor, "n frames 3 height width"]

I3D_SIZE, I3D_FEATURES = 224, 400


def cut_to_bytes(pictures: Float[Tensor, "*n height width"]) -> UInt8[Tensor, "*n height width"]:
    """Convert pictures in [0, 1] to bytes as the published code does for FID: truncated, not rounded."""
    return (pictures.float().clamp(0, 1) * 255).to(torch.uint8)


class InceptionFeatures(nn.Module):
    """The 2048 features of FID and KID: torch-fidelity's network, with the resizing of the original TensorFlow code."""

    def __init__(self, weights: Path) -> None:
        super().__init__()
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        # The library unpickles the file without restrictions, so the restricted reader checks it first.
        torch.load(weights, map_location="cpu", weights_only=True)
        self.network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(weights))

    def forward(self, pictures: Bytes) -> Float[Tensor, "n 2048"]:
        return self.network(pictures)[0]


class PublishedInceptionFeatures(nn.Module):
    """The same network as the published code uses it, with torchmetrics' antialiased resizing."""

    def __init__(self, weights: Path) -> None:
        super().__init__()
        from torchmetrics.image.fid import NoTrainInceptionV3

        torch.load(weights, map_location="cpu", weights_only=True)  # for the same reason as above
        self.network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(weights))

    def forward(self, pictures: Bytes) -> Float[Tensor, "n 2048"]:
        return self.network(pictures)


class I3DFeatures(nn.Module):
    """The 400 logits of FVD, from the TorchScript file that most FVD implementations use.

    Frames are resized to 224 x 224 pixels (bilinear, not antialiased) and scaled to [-1, 1] here, as fvd-comparison
    does; the network's own preprocessing is off.
    """

    def __init__(self, weights: Path) -> None:
        super().__init__()
        try:
            self.network = torch.jit.load(weights, map_location="cpu").eval()
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise MissingWeightsError(f"{weights} is not the TorchScript file i3d_torchscript.pt ({reason})") from error

    def forward(self, clips: Clips) -> Float[Tensor, "n 400"]:
        n, frames = clips.shape[:2]
        resized = F.interpolate(
            clips.flatten(0, 1).float(), size=(I3D_SIZE, I3D_SIZE), mode="bilinear", align_corners=False
        )
        video = (resized / 127.5 - 1).unflatten(0, (n, frames)).transpose(1, 2).contiguous()
        features = self.network(video, rescale=False, resize=False, return_features=True)
        if features.shape != (n, I3D_FEATURES):
            raise MissingWeightsError(
                f"the I3D file gives features {list(features.shape)} for {n} clips, expected [{n}, {I3D_FEATURES}]; "
                "i3d_torchscript.pt is the file of FVD"
            )
        return features.float()


def standin_features(network: Perceptual, pictures: Bytes) -> Float[Tensor, "n 256"]:
    """Average the last layer of a perceptual network over each picture. This does not belong to a published metric."""
    return network.features(pictures.float() / 255)[-1].mean(dim=(2, 3))


def standin_clip_features(frames: Float[Tensor, "n d"], clips: Sequence[range]) -> Float[Tensor, "m d2"]:
    """Features of each clip: the mean of its frames' features, and the mean absolute change from frame to frame."""
    parts = [frames[list(clip)] for clip in clips]
    means = [torch.cat([part.mean(dim=0), part.diff(dim=0).abs().mean(dim=0)]) for part in parts]
    return torch.stack(means) if means else frames.new_zeros(0, 2 * frames.shape[1])


def clips_of(frames: Sequence[int], length: int) -> list[range]:
    """Split views into consecutive clips of `length` neighbouring frames.

    `frames` are the frame numbers of the views. Neighbours are those with the smallest distance that occurs. A larger
    gap ends a run, and the rest of a run that is too short for a clip is not used.

    Returns:
        Ranges of indices into `frames`.
    """
    leaps = [after - before for before, after in pairwise(frames)]
    stride = min((leap for leap in leaps if leap > 0), default=1)
    clips, start = [], 0
    for place in range(len(frames)):
        if place > start and leaps[place - 1] != stride:
            start = place
        if place + 1 - start == length:
            clips.append(range(start, place + 1))
            start = place + 1
    return clips
