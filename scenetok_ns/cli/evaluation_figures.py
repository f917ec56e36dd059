"""Figures of an evaluation as files and on the terminal, for the commands that measure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from scenetok_ns.evaluation.options import FIGURES
from scenetok_ns.tools.printing import command, plain_console

if TYPE_CHECKING:
    from scenetok_ns.evaluation.sweeps import Row, Variant


def write_figures(folder: Path, run: Path, found: list[tuple[Variant, dict[str, Any]]], console: Console) -> None:
    """Write evaluation.json, for several variants a table, and for a sweep a plot; then print the figures."""
    from scenetok_ns.evaluation import sweeps
    from scenetok_ns.tools.atomic_files import write_atomically

    rows = sweeps.table([(variant, figures["results"]) for variant, figures in found])
    content = {
        "run": str(run),
        **found[0][1],
        "variants": [
            {"folder": variant.name, "axes": variant.axes, "seed": variant.seed, "results": figures["results"]}
            for variant, figures in found
        ],
    }
    if len(found) > 1:
        sweeps.write_csv(rows, folder / sweeps.TABLE)
        content["table"] = [vars(row) for row in rows]
    if rows[0].axes:
        sweeps.plot(rows, folder / sweeps.PLOT)
    write_atomically(folder / FIGURES, json.dumps(content, indent=1, allow_nan=False).encode())
    plain_console().print(figures_table(rows))
    first = found[0][1]
    print_missing(
        {name: first["not_computed"][name] for name in first["samples"] if name in first["not_computed"]}, console
    )
    print_few_samples((figures for _, figures in found), console)
    if skipped := first["skipped"]:
        console.print(f"{len(skipped)} scenes skipped; reasons are in {folder / FIGURES}", soft_wrap=True)
    console.print(f"{folder / FIGURES}\n  {command('scenetok', 'report', folder)}", soft_wrap=True)


def print_missing(reasons: dict[str, str], console: Console) -> None:
    """Print a line for each reason, with the metrics that are not computed because of it."""
    from scenetok_ns.evaluation.measures import by_reason

    for names, reason in by_reason(reasons):
        console.print(f"{names} not computed: {reason}", soft_wrap=True, style="yellow", highlight=False)


def print_few_samples(figures: Iterable[dict[str, Any]], console: Console) -> None:
    """Print a note for each Frechet distance that has too few samples; equal notes of several evaluations once."""
    from scenetok_ns.evaluation.summary import few_sample_notes

    for note in dict.fromkeys(note for one in figures for note in few_sample_notes(one)):
        console.print(note, soft_wrap=True, style="yellow", highlight=False)


def figures_table(rows: list[Row]) -> Table:
    """Return a table of the figures, with the spread over the seeds if there are several.

    A sweep has a row for each combination of settings. A single combination, or a comparison of methods, has a row
    for each metric.
    """
    from scenetok_ns.evaluation.sweeps import shown_metrics

    counts = {(row.means.get("num_views", 0.0), row.means.get("num_scenes", 0.0), row.seeds) for row in rows}
    title = None  # of evaluations that have different ones
    if len(counts) == 1:
        views, scenes, seeds = counts.pop()
        title = f"{views:.0f} views of {scenes:.0f} scenes" + (f", {seeds} seeds" if seeds > 1 else "")
    table = Table(title=title)
    metrics = shown_metrics(rows)

    def cell(row: Row, name: str) -> str:
        spread = f" ± {row.spreads[name]:.2g}" if row.seeds > 1 and name in row.means else ""
        return f"{row.means[name]:.4g}{spread}" if name in row.means else ""

    if len(rows) == 1:
        table.add_column("metric")
        table.add_column("value", justify="right")
        for name in metrics:
            table.add_row(name, cell(rows[0], name))
        return table
    if list(rows[0].axes) == ["method"]:  # few columns with long names: a row for each metric
        table.add_column("metric")
        for row in rows:
            table.add_column(str(row.axes["method"]), justify="right", overflow="fold")
        for name in metrics:
            table.add_row(name, *(cell(row, name) for row in rows))
        return table
    for column in [*rows[0].axes, *metrics]:
        table.add_column(column, justify="right", overflow="fold")
    for row in rows:
        table.add_row(*map(str, row.axes.values()), *(cell(row, name) for name in metrics))
    return table
