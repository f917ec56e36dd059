"""`scenetok report`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import tyro

from scenetok_ns.cli.evaluation_folder import default_folder
from scenetok_ns.cli.run_options import positive
from scenetok_ns.cli.scene_jobs import scene_progress
from scenetok_ns.evaluation.options import FIGURES, ReportOptions
from scenetok_ns.tools.atomic_files import write_atomically
from scenetok_ns.tools.ffmpeg import put_ffmpeg_on_path
from scenetok_ns.tools.own_files import begins_with, check_replaceable
from scenetok_ns.tools.printing import plain_console

PAGE = "report.html"
MARK = "<title>Evaluation</title>"
"""Text in the first lines of every page, by which a page is recognised."""


def report(
    run: Annotated[Path, tyro.conf.Positional],
    output: Path | None = None,
    variant: str | None = None,
    options: Annotated[ReportOptions, tyro.conf.arg(name="")] = ReportOptions(),  # noqa: B008  frozen
) -> None:
    """Write a page about an evaluation, with its figures, its sweep, and the pictures of the worst scenes: context
    views, photographs and renders.

    The page is one file that needs no other files and no network.

    Args:
        run: Folder that scenetok evaluate wrote, or the run (or preset) that it evaluated.
        output: Page to write (.html); default: report.html in that folder.
        variant: Name of the folder of the sweep variant whose pictures the page shows; default: the first.
        options: See the options.
    """
    from scenetok_ns.evaluation.report import page, read_figures

    positive("--max-scenes", options.max_scenes)
    positive("--max-views", options.max_views)
    console = plain_console()
    folder = run if (run / FIGURES).is_file() else default_folder(run)
    read_figures(folder)
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
