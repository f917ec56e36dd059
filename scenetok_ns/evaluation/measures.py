"""Measure the views of a scene: a number for each view, and features for metrics over the whole set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from scenetok_ns.evaluation import weights as published
from scenetok_ns.evaluation.features import (
    I3D_FEATURES,
    I3DFeatures,
    InceptionFeatures,
    PublishedInceptionFeatures,
    clips_of,
    cut_to_bytes,
    standin_clip_features,
    standin_features,
)
from scenetok_ns.evaluation.options import EvaluationOptions
from scenetok_ns.evaluation.perceptual import Perceptual, lpips, stlpips
from scenetok_ns.evaluation.published_i3d import PublishedI3DFeatures
from scenetok_ns.evaluation.weights import MissingWeightsError
from scenetok_ns.models.metrics import Pictures, picture_metrics
from scenetok_ns.rendering.picture_files import to_bytes
from scenetok_ns.tools.digests import sha256_of

CHUNK = 16
"""Number of views that the metric networks get at a time, which bounds their memory."""
STANDIN = "stlpips_alex"
PUBLISHED_INCEPTION = "inception_published"
"""Name of the features by the published protocol of FID."""
PUBLISHED_I3D = "i3d_published"
"""Name of the features by the published protocol of FVD."""

Features = dict[str, Float[Tensor, "n d"]]


@dataclass(frozen=True, eq=False)
class Measured:
    """Measurements of one scene, all on the CPU."""

    views: dict[str, Float[Tensor, " v"]]
    """Metric -> value of each view."""
    pred: Features
    """Feature network -> features of the predicted pictures (or clips)."""
    target: Features


@dataclass
class Measures:
    """The networks of the requested metrics, if their weights are available."""

    options: EvaluationOptions
    perceptual: dict[str, Perceptual] = field(default_factory=dict)
    """Metric -> network."""
    inception: nn.Module | None = None
    i3d: nn.Module | None = None
    not_computed: dict[str, str] = field(default_factory=dict)
    """Metric -> reason why it is not computed, and what to do about it."""
    sources: dict[str, dict[str, str]] = field(default_factory=dict)
    """Network -> file name and SHA-256 of its weights."""

    @classmethod
    def load(cls, options: EvaluationOptions, device: torch.device | str) -> Measures:
        """Load the networks from their files. Missing files raise no error; they are recorded in `not_computed`."""
        found = cls(options)
        wanted = set(options.wanted)
        if "lpips" in wanted:
            name = f"lpips_{options.lpips_network}"
            with found._explained(name):
                trunk = published.lpips_file(options.lpips_network).find(options.lpips_weights, options.download)
                heads = published.lpips_heads(options.lpips_network)
                found.perceptual[name] = lpips(options.lpips_network, trunk, heads).to(device)
                found._note(name, trunk, heads)
        if wanted & {"fid", "kid"}:
            with found._explained(*sorted(wanted & {"fid", "kid"})):
                path = published.inception_file().find(options.inception_weights, options.download)
                features = PublishedInceptionFeatures if options.fid_protocol == "published" else InceptionFeatures
                found.inception = features(path).to(device)
                found._note("inception", path)
        if "fvd" in wanted:
            with found._explained("fvd"):
                as_published = options.fvd_protocol == "published"
                file = published.PUBLISHED_I3D_FILE if as_published else published.I3D_FILE
                path = file.find(options.i3d_weights, options.download)
                found.i3d = (PublishedI3DFeatures if as_published else I3DFeatures)(path).to(device)
                found._note("i3d", path)
        if "stlpips" in wanted:
            with found._explained(STANDIN):
                path = published.stlpips_file()
                found.perceptual[STANDIN] = stlpips(path).to(device)
                found._note(STANDIN, path)
        return found

    def check_requested(self) -> None:
        """Raise MissingWeightsError, with every missing file, if a requested metric cannot be computed."""
        requested = self.options.requested
        missing = {name: reason for name, reason in self.not_computed.items() if name.split("_")[0] in requested}
        if missing:
            reasons = "; ".join(f"{names}: {reason}" for names, reason in by_reason(missing))
            raise MissingWeightsError(f"cannot compute {reasons}; or choose other --metrics")

    @classmethod
    def without_networks(cls) -> Measures:
        """Create measures of PSNR and SSIM only."""
        return cls(EvaluationOptions(metrics=()))

    def _explained(self, *metrics: str) -> _Explained:
        return _Explained(self.not_computed, metrics)

    def _note(self, network: str, *paths: Path) -> None:
        self.sources[network] = {path.name: sha256_of(path) for path in paths}

    @torch.no_grad()
    def views(self, *, pred: Pictures, target: Pictures) -> dict[str, Float[Tensor, " v"]]:
        """Compute PSNR, SSIM and the perceptual distances of each view. Predictions are rounded to 8 bits first."""
        return _in_chunks(lambda p, t: self._compare(pred=p, target=t)[0], _as_stored(pred), target)

    @torch.no_grad()
    def measure(self, *, pred: Pictures, target: UInt8[Tensor, "v 3 height width"], frames: Sequence[int]) -> Measured:
        """Measure everything about a scene.

        Predictions are rounded to 8 bits as in image files, so measuring the files gives the same figures. Only the
        published protocols of FID and FVD get the pictures before rounding.

        Args:
            pred: Rendered views in [0, 1].
            target: The photographs.
            frames: Frame numbers of the views in the scene, which determine the clips.
        """
        clips = clips_of(frames, self.options.fvd_frames)
        published = self._published_features(pred=pred, target=target)
        if self.i3d is not None and self.options.fvd_protocol == "published":
            for side, floats in (("pred", pred), ("target", target.float() / 255)):
                published[f"{side}/{PUBLISHED_I3D}"] = self._clip_features(floats, clips)
        pred = _as_stored(pred)

        def chunk(p: Tensor, t: Tensor) -> dict[str, Tensor]:
            values, standins = self._compare(pred=p, target=t.float() / 255)
            found = {f"view/{name}": value for name, value in values.items()}
            for side, pictures in (("pred", to_bytes(p)), ("target", t)):
                if self.inception is not None and self.options.fid_protocol != "published":
                    found[f"{side}/inception"] = self.inception(pictures)
                if STANDIN in self.perceptual:
                    found[f"{side}/{STANDIN}"] = standins[side]
            return found

        found = _in_chunks(chunk, pred, target) | published
        for side, pictures in (("pred", to_bytes(pred)), ("target", target)):
            if STANDIN in self.perceptual:
                found[f"{side}/{STANDIN}_clips"] = standin_clip_features(found[f"{side}/{STANDIN}"], clips)
            if self.i3d is not None and self.options.fvd_protocol != "published":
                found[f"{side}/i3d"] = self._clip_features(pictures, clips)
        return Measured(*(_part(found, name) for name in ("view", "pred", "target")))

    def _clip_features(self, pictures: Tensor, clips: Sequence[range]) -> Float[Tensor, "m 400"]:
        """Logits of the clips of a scene. Without clips they are empty, so that the summary can give the reason."""
        assert self.i3d is not None
        parts = [self.i3d(pictures[list(clip)][None]).cpu() for clip in clips]
        return torch.cat(parts) if parts else torch.zeros(0, I3D_FEATURES)

    def _published_features(self, *, pred: Pictures, target: UInt8[Tensor, "v 3 height width"]) -> dict[str, Tensor]:
        """Features by the published protocol of FID, from pictures before rounding. Empty with the other protocol."""
        network = self.inception
        if network is None or self.options.fid_protocol != "published":
            return {}

        def chunk(p: Tensor, t: Tensor) -> dict[str, Tensor]:
            sides = {"pred": p, "target": t.float() / 255}
            return {f"{side}/{PUBLISHED_INCEPTION}": network(cut_to_bytes(floats)) for side, floats in sides.items()}

        return _in_chunks(chunk, pred, target)

    def _compare(self, *, pred: Pictures, target: Pictures) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Values of each view, and the stand-in's features of predictions and targets."""
        values, standins = picture_metrics(pred=pred, target=target), {}
        for name, network in self.perceptual.items():
            first, second = network.features(pred), network.features(target)
            values[name] = network.compare(first, second)
            if name == STANDIN:
                # Features over sets come from bytes. The truth consists of bytes, so its features can be reused.
                standins["pred"] = standin_features(network, to_bytes(pred))
                standins["target"] = second[-1].mean(dim=(2, 3))
        return values, standins

    def describe(self) -> dict[str, Any]:
        """Describe for the protocol how each metric is computed."""
        return {
            "psnr": "dB, mean over the pixels of a view, then over views; pictures rounded to 8 bits",
            "ssim": "torchmetrics, Gaussian window of 11 pixels, sigma 1.5",
            "ssim_skimage": "scikit-image's as pixelSplat and SceneTok publish it: inner windows, sample variances",
            "networks": self.sources,
            "set_metrics": f"{_INCEPTION[self.options.fid_protocol]}; {_I3D[self.options.fvd_protocol]}",
            "clip_frames": self.options.fvd_frames,
        }


_INCEPTION = {
    "clean": "Inception: torch-fidelity's graph and TensorFlow 1 resizing, pictures rounded to 8 bits",
    "published": "Inception: torch-fidelity's graph and torchmetrics' antialiased resizing, pictures cut to 8 bits",
}
_I3D = {
    "clean": "I3D: StyleGAN-V's TorchScript file, bilinear resizing, pictures rounded to 8 bits",
    "published": "I3D: pytorch-i3d's rgb_imagenet.pt, bilinear resizing, pictures not rounded",
}


def by_reason(reasons: dict[str, str]) -> list[tuple[str, str]]:
    """Pairs (metrics, reason); metrics with the same reason are joined."""
    metrics: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        metrics.setdefault(reason, []).append(name)
    return [(", ".join(names), reason) for reason, names in metrics.items()]


class _Explained:
    """Turns MissingWeightsError into entries of `not_computed`."""

    def __init__(self, reasons: dict[str, str], metrics: Sequence[str]) -> None:
        self._reasons, self._metrics = reasons, metrics

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if not isinstance(error, MissingWeightsError):
            return False
        self._reasons.update(dict.fromkeys(self._metrics, str(error)))
        return True


def _as_stored(pictures: Pictures) -> Pictures:
    """Round pictures in [0, 1] to 8 bits, as after saving and loading them."""
    return to_bytes(pictures).float() / 255


def _in_chunks(
    function: Callable[[Tensor, Tensor], dict[str, Tensor]], pred: Tensor, target: Tensor
) -> dict[str, Tensor]:
    """Apply `function` to a few views at a time, and join the results on the CPU."""
    parts = [
        {name: value.float().cpu() for name, value in function(p, t).items()}
        for p, t in zip(pred.split(CHUNK), target.split(CHUNK), strict=True)
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _part(found: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.split("/", 1)[1]: value for name, value in found.items() if name.startswith(f"{prefix}/")}
