"""Compare the depth of held-out demo rooms with the truth, by number of context views: the tables of docs/depth.md.

    python benchmarks/depth.py --rooms 4 --output depth.json
    python benchmarks/depth.py --preset scenetok-tiny --tokenizer RUN --depth-weights RUN/depth_head.safetensors

Each room is encoded from some views of its walk, and views all along the walk are rendered with their depth: by the
depth head of the networks, or, without one or with --no-head, by comparing the views. A pixel counts as seen if its
true point lies in a context view and is not hidden there. Disagreement is the median relative difference between the
depth of a view and the depth of the previous view warped into it.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import Tensor

from scenetok_ns.data.demo.scenes import render_depths, render_rooms, sample_rooms, sample_walks, scene_seed
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.depth_geometry import DepthMaps, disagreement, seen_from, unproject
from scenetok_ns.models.depth_weights import DepthSource
from scenetok_ns.models.metrics import depth_metrics
from scenetok_ns.models.presets import load_preset
from scenetok_ns.models.rendered_depth import depth_windows
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.training.tokenizer_weights import load_tokenizer

WALK = 48
VIEW_COUNTS = (1, 2, 4, 6, 12)
ERRORS = ("abs_rel", "delta1")
COLUMNS = (*ERRORS, "seen", *(f"seen_{e}" for e in ERRORS), *(f"unseen_{e}" for e in ERRORS), "disagreement", "seconds")
"""Figures of a row. `seen` is the fraction of seen pixels, `seconds` the time per frame."""


@dataclass
class Options:
    """Settings of the measurement."""

    preset: str = "scenetok-tiny"
    """Architecture."""
    tokenizer: Path | None = None
    """Run folder or checkpoint with the networks; default: those in the package."""
    depth_weights: Path | None = None
    """Weights of the depth head; default: those in the package."""
    head: bool = True
    """Use the depth head, if there is one."""
    rooms: int = 4
    """Number of held-out rooms."""
    frames: int = 24
    """Number of rendered views of each room, all along its walk."""
    view_counts: tuple[int, ...] = VIEW_COUNTS
    """Numbers of context views."""
    output: Path | None = None
    """JSON file for the figures."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"


def main(options: Options) -> None:
    model = load_model(options)
    by = "plane sweep" if model.depth_head() is None else "depth head"
    rows = []
    print(f"{options.rooms} rooms, depth by {by}")
    print(f"| views | {' | '.join(COLUMNS)} |")
    for count in options.view_counts:
        found = [measured(model, room, count, options.frames) for room in range(options.rooms)]
        row = {"views": count, "by": by, **{name: nan_mean([one[name] for one in found]) for name in found[0]}}
        rows.append(row)
        numbers = [f"{row[name]:.3f}" for name in COLUMNS]
        print(f"| {count} | {' | '.join(numbers)} |", flush=True)
    if options.output is not None:
        options.output.write_text(json.dumps(rows, indent=1))


def load_model(options: Options) -> SceneTok:
    """Load the networks and the depth head that the options name."""
    model = SceneTok.from_preset(load_preset(options.preset)).eval()
    model.load_embedded()
    if options.tokenizer is not None:
        load_tokenizer(model, options.tokenizer)
    if options.depth_weights is not None:
        model.depth = DepthSource(options.depth_weights)
    if not options.head:
        model.depth = DepthSource()
    return model.to(options.device)


@torch.no_grad()
def measured(model: SceneTok, number: int, count: int, frames: int) -> dict[str, float]:
    """Measure one room, encoded from `count` views."""
    rooms = sample_rooms([scene_seed(0, "test", number)], model.device)
    c2w = sample_walks(rooms, WALK)
    intrinsics = rooms.intrinsics[:, None].expand(1, WALK, 3, 3)
    walk, side = CameraBatch(c2w, intrinsics), model.preset.data.image_size
    shown = spread(count)
    context = walk.select(shown)
    images = render_rooms(rooms, context.c2w, context.intrinsics, side)[0]
    tokens = model.encode(images, context)
    targets = walk.select(torch.linspace(0, WALK - 1, frames).round().long().tolist())
    begin = time.perf_counter()
    windows = list(depth_windows(model, tokens, targets))
    seconds = (time.perf_counter() - begin) / frames
    parts = [window.maps for window in windows if window.maps is not None]
    maps = DepthMaps(*(torch.cat([values[0] for values in part]) for part in zip(*parts, strict=True)))
    truth = render_depths(rooms, targets.c2w, targets.intrinsics, side)[0][:, None]
    known = render_depths(rooms, context.c2w, context.intrinsics, side)[0][:, None]
    points = unproject(truth, targets)
    seen = torch.stack([seen_from(one, context, known) for one in points])[:, None]
    pairs = [disagreement(maps.depth, targets, first, first + 1) for first in range(frames - 1)]
    together = torch.cat([difference[counts] for difference, counts in pairs])
    return {
        **depth_metrics(maps.depth, truth, torch.ones_like(seen)),
        "seen": float(seen.float().mean()),
        **prefixed("seen", maps.depth, truth, seen),
        **prefixed("unseen", maps.depth, truth, ~seen),
        "disagreement": float(together.median()),
        "seconds": seconds,
    }


def prefixed(name: str, depth: Tensor, truth: Tensor, where: Tensor) -> dict[str, float]:
    return {f"{name}_{metric}": value for metric, value in depth_metrics(depth, truth, where).items()}


def spread(count: int) -> list[int]:
    """Context views spread evenly along the walk; a single one is in the middle."""
    places = torch.linspace(0, WALK - 1, count) if count > 1 else torch.tensor([WALK / 2])
    return places.round().long().tolist()


def nan_mean(values: list[float]) -> float:
    """Mean of the numbers among the values."""
    return float(torch.tensor(values).nanmean())


if __name__ == "__main__":
    main(tyro.cli(Options))
