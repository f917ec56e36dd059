"""Run several evaluations of a sweep: every combination of the values, each with one or more seeds."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO, StringIO
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from scenetok_ns.evaluation.baselines import BASELINES
from scenetok_ns.evaluation.options import ContextOrder, Value
from scenetok_ns.evaluation.scene_evaluation import EvaluationConditions
from scenetok_ns.models.presets import changed
from scenetok_ns.tools.atomic_files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from scenetok_ns.rendering.scene_renderer import SceneRenderer

TABLE, PLOT = "sweep.csv", "sweep.png"
COUNTS = ("num_scenes", "num_views", "num_skipped_scenes", "num_rays_per_sec", "seconds")
"""Results that are not metrics."""


@dataclass(frozen=True)
class Variant:
    """One evaluation of a sweep."""

    axes: dict[str, Value]
    seed: int
    scene_seed: int | None = None
    """Seed of generated scenes; None: `seed`."""
    label: str | None = None
    """Name of the folder; None: composed of the values."""

    @property
    def name(self) -> str:
        """Name of the variant's folder."""
        if self.label is not None:
            return self.label
        return "-".join([*(f"{axis}={value}" for axis, value in self.axes.items()), f"seed={self.seed}"])

    @property
    def conditions(self) -> EvaluationConditions:
        tokens = self.axes.get("tokens")
        order: ContextOrder = self.axes.get("order", "index")  # type: ignore[assignment]
        return EvaluationConditions(order, None if tokens is None else int(tokens))

    def apply(self, renderer: SceneRenderer) -> SceneRenderer:
        """Return a renderer of the same networks with this variant's seeds, sampler and number of views."""
        before, scenes = renderer.settings, renderer.scenes
        settings = replace(
            before,
            seed=self.seed,
            scene_seed=self.seed if self.scene_seed is None else self.scene_seed,
            sampler=changed(before.sampler, steps=self.axes.get("steps"), solver=self.axes.get("solver")),
        )
        if "context" in self.axes:
            scenes = scenes.with_views(num_context=int(self.axes["context"]))
        return replace(renderer, settings=settings, scenes=scenes)


def variants(
    axes: dict[str, tuple[Value, ...]], first_seed: int, seeds: int, first_scene_seed: int | None = None
) -> list[Variant]:
    """Create a variant for every combination of the values and each of the seeds.

    Seeds of generated scenes count up together with them, from `first_scene_seed`; None: they equal the render seeds.
    """
    scenes = first_seed if first_scene_seed is None else first_scene_seed
    combinations = itertools.product(*axes.values())
    chosen = [dict(zip(axes, values, strict=True)) for values in combinations]
    return [Variant(axes, first_seed + n, scenes + n) for axes in chosen for n in range(seeds)]


@dataclass(frozen=True)
class Row:
    """Mean and spread over the seeds of each metric, for one combination of a sweep."""

    axes: dict[str, Value]
    seeds: int
    means: dict[str, float]
    spreads: dict[str, float]
    """Sample standard deviation; 0 for one seed."""


def table(results: Sequence[tuple[Variant, dict[str, float]]]) -> list[Row]:
    """Compute the rows of a sweep in the order of the variants. A row lacks metrics that one of its variants lacks."""
    groups: dict[tuple[Value, ...], list[tuple[Variant, dict[str, float]]]] = {}
    for variant, figures in results:
        groups.setdefault(tuple(variant.axes.values()), []).append((variant, figures))
    rows = []
    for group in groups.values():
        names = [name for name in group[0][1] if all(name in figures for _, figures in group)]
        columns = {name: [figures[name] for _, figures in group] for name in names}
        spreads = {name: stdev(values) if len(values) > 1 else 0.0 for name, values in columns.items()}
        rows.append(Row(group[0][0].axes, len(group), {n: mean(v) for n, v in columns.items()}, spreads))
    return rows


def compare(evaluations: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """Compute the rows of a table over several evaluations.

    Args:
        evaluations: Name -> content of its evaluation.json.

    Returns:
        A row, with the axis "method", for each evaluation, and for each combination of a sweep.
    """
    rows = []
    for name, figures in evaluations.items():
        of_one = [{"axes": {}, "seed": 0, "results": figures["results"]}]
        variants = figures.get("variants", of_one)
        found = table([(Variant(one["axes"], one["seed"]), one["results"]) for one in variants])
        for row in found:
            values = [f"{axis}={value}" for axis, value in row.axes.items()]
            rows.append(replace(row, axes={"method": ", ".join([name, *values])}))
    return rows


def shown_metrics(rows: Sequence[Row]) -> list[str]:
    """Metrics that get a column and a plot: all but spreads over views, counts and baselines."""
    hidden = ("_std", *(f"_{name}" for name in BASELINES))
    names = dict.fromkeys(name for row in rows for name in row.means)
    return [name for name in names if name not in COUNTS and not name.endswith(hidden)]


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Write a CSV file with axes, number of seeds, and each metric with its spread over the seeds."""
    metrics = list(dict.fromkeys(name for row in rows for name in row.means if not name.endswith("_std")))
    text = StringIO()
    spread = [name for name in metrics if name not in COUNTS]
    columns = [*rows[0].axes, "seeds"]
    for name in metrics:
        columns += [name, f"{name}_over_seeds"] if name in spread else [name]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        values = {name: row.means.get(name) for name in metrics}
        spreads = {f"{name}_over_seeds": row.spreads.get(name) for name in spread}
        writer.writerow({**row.axes, "seeds": row.seeds, **values, **spreads})
    write_atomically(path, text.getvalue().encode())


def plot(rows: Sequence[Row], path: Path) -> None:
    """Plot each metric over the first axis in a panel, with a line for each combination of the other axes.

    Error bars are the spread over the seeds.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    metrics = shown_metrics(rows)
    columns = min(3, len(metrics))
    lines = -(-len(metrics) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.2 * lines + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    for panel, metric in zip(panels, metrics, strict=False):
        _draw(panel, rows, metric)
    for panel in panels[len(metrics) :]:
        panel.set_axis_off()
    handles, labels = panels[0].get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False)
    data = BytesIO()
    figure.savefig(data, format="png", dpi=120)
    write_atomically(path, data.getvalue())


def _draw(panel: Axes, rows: Sequence[Row], metric: str) -> None:
    first, *rest = rows[0].axes
    numeric = all(isinstance(row.axes[first], int) for row in rows)
    for others in dict.fromkeys(tuple(row.axes[axis] for axis in rest) for row in rows):
        line = [row for row in rows if tuple(row.axes[axis] for axis in rest) == others and metric in row.means]
        if numeric:
            line = sorted(line, key=lambda row: row.axes[first])
        x = [row.axes[first] if numeric else str(row.axes[first]) for row in line]
        y, spread = [row.means[metric] for row in line], [row.spreads[metric] for row in line]
        label = ", ".join(f"{axis} {value}" for axis, value in zip(rest, others, strict=True))
        style = "o-" if numeric else "o"  # no line between values without an order
        panel.errorbar(x, y, yerr=spread if any(spread) else None, fmt=style, capsize=3, label=label, markersize=4)
    panel.set_title(_titled(metric), fontsize=10)
    panel.set_xlabel({"context": "context views", "tokens": "scene tokens"}.get(first, first))
    if numeric:
        panel.set_xticks(sorted({row.axes[first] for row in rows}))
    panel.grid(alpha=0.3)


def _titled(metric: str) -> str:
    if metric == "fps":
        return "frames / s (higher is better)"
    up = metric.startswith(("psnr", "ssim"))
    return f"{metric}{' (dB)' if metric == 'psnr' else ''} ({'higher' if up else 'lower'} is better)"
