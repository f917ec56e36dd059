"""Compute the figures over all scenes of an evaluation from its records, in one pass."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from scenetok_ns.data.scenes import DataError
from scenetok_ns.evaluation.distributions import FeatureSample, Moments, frechet_of_moments, kernel_distance
from scenetok_ns.evaluation.measures import PUBLISHED_I3D, PUBLISHED_INCEPTION, STANDIN
from scenetok_ns.evaluation.records import EvaluationFolder, SceneRecord

FRECHET = {
    "inception": "fid",
    PUBLISHED_INCEPTION: "fid_published",
    "i3d": "fvd",
    PUBLISHED_I3D: "fvd_published",
    STANDIN: f"frechet_{STANDIN}",
    f"{STANDIN}_clips": f"frechet_{STANDIN}_clips",
}
"""Feature network -> metric. Only published networks give metrics with published names."""
KERNEL = {"inception": "kid", STANDIN: f"kernel_{STANDIN}"}
PUBLISHED = ("fid", "fid_published", "kid", "fvd", "fvd_published")
"""Metrics that get a letter for the task: rfid for reconstruction, gfid for generation."""


@dataclass
class Summary:
    """Figures of an evaluation."""

    results: dict[str, float]
    per_scene: dict[str, dict[str, Any]]
    """Scene -> frame numbers, values of each view, seconds."""
    samples: dict[str, int]
    """Metric over the set -> number of pictures (or clips) on each side."""
    not_computed: dict[str, str] = field(default_factory=dict)
    """Metric over the set -> reason why it is not computed."""
    few_samples: dict[str, int] = field(default_factory=dict)
    """Frechet distance with fewer samples than features -> number of features."""


@dataclass
class _SetMetric:
    pred: Moments = field(default_factory=Moments)
    target: Moments = field(default_factory=Moments)
    kept_pred: FeatureSample = field(default_factory=FeatureSample)
    kept_target: FeatureSample = field(default_factory=FeatureSample)


def summarise(
    folder: EvaluationFolder, keys: Sequence[str], *, generation: bool, wanted: Sequence[str], image_size: int
) -> Summary:
    """Compute the figures over the scenes of `keys` that have a record.

    Args:
        folder: Folder of the evaluation.
        keys: Scenes.
        generation: Whether the scenes were generated, not reconstructed; it determines the names of metrics.
        wanted: Requested metrics. Features of one network may serve two metrics, one of which may not be requested.
        image_size: Side of the views in pixels.

    Raises:
        DataError: No scene has a record, or a figure is not finite.
    """
    values: dict[str, list[Tensor]] = {}
    sets: dict[str, _SetMetric] = {}
    per_scene: dict[str, dict[str, Any]] = {}
    seconds = 0.0
    for record in folder.records(keys):
        _add_features(sets, record)
        for name, numbers in record.measured.views.items():
            values.setdefault(name, []).append(numbers)
        seconds += record.seconds
        views = {name: numbers.tolist() for name, numbers in record.measured.views.items()}
        per_scene[record.key] = {
            "context": record.context, "frames": record.frames, "seconds": record.seconds, "views": views,
        }  # fmt: skip
    if not per_scene:
        skipped = folder.skipped(keys)
        reasons = "; ".join(f"{key}: {reason}" for key, reason in list(skipped.items())[:3])
        raise DataError(f"no evaluation scene is usable; {len(skipped)} skipped: {reasons}")
    num_views = sum(len(scene["frames"]) for scene in per_scene.values())
    results = _over_views(values)
    results |= {
        "num_scenes": float(len(per_scene)),
        "num_views": float(num_views),
        "num_skipped_scenes": float(len(folder.skipped(keys))),
    }
    if seconds > 0:  # the time is unknown for pictures of other programs
        results |= {
            "seconds": seconds,
            "fps": num_views / seconds,
            "num_rays_per_sec": num_views / seconds * image_size**2,
        }
    summary = Summary(results, per_scene, {})
    for network, metric in sets.items():
        _over_set(summary, network, metric, "g" if generation else "r", wanted)
    _check_finite(summary)
    return summary


def _check_finite(summary: Summary) -> None:
    """Raise DataError if a figure is not finite: JSON cannot represent it, and nobody should average it."""
    wrong = [name for name, value in summary.results.items() if not math.isfinite(value)]
    if not wrong:
        return
    scenes = [
        key
        for key, scene in summary.per_scene.items()
        if any(not math.isfinite(value) for numbers in scene["views"].values() for value in numbers)
    ]
    where = f" of scene {', '.join(scenes[:3])}" if scenes else ""
    raise DataError(
        f"the figures {', '.join(wrong[:3])}{where} are not finite numbers: check the photographs, and the weights of "
        "the run; nothing was written"
    )


def _over_views(values: dict[str, list[Tensor]]) -> dict[str, float]:
    results = {}
    for name, parts in values.items():
        numbers = torch.cat(parts).double()
        results[name] = float(numbers.mean())
        # The standard deviation of a single value would be NaN, which JSON cannot represent.
        results[f"{name}_std"] = float(numbers.std()) if len(numbers) > 1 else 0.0
    return results


def _add_features(sets: dict[str, _SetMetric], record: SceneRecord) -> None:
    for network, pred in record.measured.pred.items():
        target = record.measured.target[network]
        metric = sets.setdefault(network, _SetMetric())
        metric.pred.add(pred)
        metric.target.add(target)
        if network in KERNEL:
            names = [f"{record.key}/{frame}" for frame in record.frames]
            metric.kept_pred.add(pred, names)
            metric.kept_target.add(target, names)


def _over_set(summary: Summary, network: str, metric: _SetMetric, letter: str, wanted: Sequence[str]) -> None:
    names = {kind: table.get(network) for kind, table in (("frechet", FRECHET), ("kernel", KERNEL))}
    for kind, name in names.items():
        if name is None or (name in PUBLISHED and name.removesuffix("_published") not in wanted):
            continue
        full = letter + name if name in PUBLISHED else name
        summary.samples[full] = metric.pred.count
        if metric.pred.count < 2:
            what = "clips of neighbouring frames" if name.startswith("fvd") or name.endswith("_clips") else "views"
            summary.not_computed[full] = f"needs at least 2 {what}, there are {metric.pred.count}"
        elif kind == "frechet":
            summary.results[full] = frechet_of_moments(metric.pred, metric.target)
            assert metric.pred.mean is not None
            if metric.pred.count < len(metric.pred.mean):
                summary.few_samples[full] = len(metric.pred.mean)
        else:
            assert metric.kept_pred.features is not None and metric.kept_target.features is not None
            mean, deviation = kernel_distance(metric.kept_pred.features, metric.kept_target.features)
            summary.results |= {full: mean, f"{full}_std": deviation}


def few_sample_notes(figures: Mapping[str, Any]) -> list[str]:
    """Return a note for each Frechet distance with fewer samples than features.

    Args:
        figures: Figures of an evaluation, as JSON holds them.
    """
    return [
        f"{name} is unreliable: {figures['samples'][name]} samples are fewer than its {features} features, which makes "
        "it too high; compare it only with the same number of samples"
        for name, features in figures.get("few_samples", {}).items()
    ]
