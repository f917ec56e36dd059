"""`scenetok report`."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from scenetok_ns.cli.evaluation_folder import default_folder
from scenetok_ns.cli.run_options import positive
from scenetok_ns.cli.scene_jobs import scene_progress
from scenetok_ns.data.errors import DataError
from scenetok_ns.evaluation.options import FIGURES, ReportOptions
from scenetok_ns.models.presets import preset_names
from scenetok_ns.tools.atomic_files import write_atomically
from scenetok_ns.tools.errors import UsageError
from scenetok_ns.tools.ffmpeg import put_ffmpeg_on_path
from scenetok_ns.tools.own_files import begins_with, check_replaceable
from scenetok_ns.tools.printing import plain_console
from scenetok_ns.tools.suggestions import did_you_mean_path

if TYPE_CHECKING:
    from rich.console import Console

PAGE = "report.html"
MARK = "<title>Evaluation</title>"
"""Text in the first lines of every page, by which a page is recognised."""
MOST_NAMED = 5
"""Maximum number of evaluations that a message names."""


def report(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional],
    output: Path | None = None,
    variant: str | None = None,
    options: Annotated[ReportOptions, tyro.conf.arg(name="")] = ReportOptions(),  # noqa: B008  frozen
) -> None:
    """Write a page about an evaluation, with its figures, its sweep, and the pictures of the worst scenes: context
    views, photographs and renders.

    The page is one file that needs no other files and no network. For several runs, it prints one table instead,
    with a column for each evaluation.

    Args:
        runs: One or more folders that scenetok evaluate or scenetok score wrote, or runs (or presets) that were
            evaluated.
        output: Page to write (.html); default: report.html in that folder. With several runs: also write the table to
            this file (.csv).
        variant: Name of the folder of the sweep variant whose pictures the page shows; default: the first.
        options: See the options.
    """
    from scenetok_ns.evaluation.report import page

    positive("--max-scenes", options.max_scenes)
    positive("--max-views", options.max_views)
    console = plain_console()
    if not runs:
        raise UsageError("expected at least one evaluation: scenetok report RUN")
    if len(runs) > 1:
        if variant is not None or options != ReportOptions():
            raise UsageError("several runs give a table: --variant and the options of pages only work with one run")
        print_table(runs, output, console)
        return
    if output is not None and output.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--output: one run gives a page, so expected an .html file, got {output}")
    folder = evaluation_folder(runs[0])
    path = output or folder / PAGE
    check_replaceable(path, lambda file: begins_with(file, (MARK.encode(),)), "a page of `scenetok report`")
    if options.videos and put_ffmpeg_on_path() is None:
        console.print("no videos: there is no ffmpeg (pip install imageio-ffmpeg)", style="yellow")
        options = replace(options, videos=False)
    with scene_progress(console) as progress:
        task = progress.add_task("reading pictures", total=None)
        text = page(folder, variant, options, lambda key: progress.advance(task))
    write_atomically(path, text.encode())
    console.print(f"{path}: {len(text) / 1e6:.1f} MB", soft_wrap=True, highlight=False)


def evaluation_folder(run: Path) -> Path:
    """Folder with the figures of a run; `run` may also be that folder. Raises DataError if there are none."""
    if run.name == FIGURES:
        run = run.parent
    for folder in (run, default_folder(run)):
        if (folder / FIGURES).is_file():
            return folder
    if inside := sorted(path.parent.name for path in run.glob(f"*/{FIGURES}")):
        more = ", ..." if len(inside) > MOST_NAMED else ""
        raise DataError(
            f"{run} is not an evaluation; it holds {', '.join(inside[:MOST_NAMED])}{more}: name one of them"
        )
    if run.exists():
        raise DataError(f"{run} holds no figures ({FIGURES}); make them with scenetok evaluate")
    meant = "" if str(run) in preset_names() else did_you_mean_path(run, preset_names())
    raise DataError(f"there is no evaluation of {run}{meant}; make it with scenetok evaluate")


def short_names(runs: tuple[Path, ...]) -> list[str]:
    """Names for columns: paths without the folders that all of them are in; whole paths, if two names were equal."""
    shared = Path(os.path.commonpath([run.absolute() for run in runs]))
    names = [str(run) if run.absolute() == shared else str(run.absolute().relative_to(shared)) for run in runs]
    return names if len(set(names)) == len(names) else [str(run) for run in runs]


def print_table(runs: tuple[Path, ...], output: Path | None, console: Console) -> None:
    """Print one table of several evaluations, and write it to `output`."""
    from scenetok_ns.cli.evaluation_figures import figures_table, print_few_samples
    from scenetok_ns.evaluation.report import other_views, read_figures
    from scenetok_ns.evaluation.sweeps import compare, write_csv

    if output is not None and output.suffix.lower() != ".csv":
        raise UsageError(f"--output: several runs give a table, so expected a .csv file, got {output}")
    places = [run.absolute() for run in runs]
    if repeated := [run for run, place in zip(runs, places, strict=True) if places.count(place) > 1]:
        raise UsageError(f"{repeated[0]} is given twice; give different evaluations")
    if output is not None:
        check_replaceable(output, lambda file: begins_with(file, (b"method,seeds,",)), "a table of `scenetok report`")
    found = dict(zip(short_names(runs), (read_figures(evaluation_folder(run)) for run in runs), strict=True))
    rows = compare(found)
    console.print(figures_table(rows))
    print_few_samples(found.values(), console)
    first, *others = found
    for name in others:
        if (scene := other_views(found[first], found[name])) is not None:
            console.print(
                f"note: {name} has other views than {first} (first in scene {scene}); compare figures of equal views "
                "only, such as with one --index",
                style="yellow",
                soft_wrap=True,
            )
    if output is not None:
        write_csv(rows, output)
        console.print(str(output), soft_wrap=True, highlight=False)
