"""`scenetok export-splat`."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress
from rich.table import Table

from scenetok_ns.cli.scene_views import ViewOptions, rendered_scene
from scenetok_ns.tools.atomic_files import write_atomically
from scenetok_ns.tools.errors import UsageError
from scenetok_ns.tools.json_files import read_json
from scenetok_ns.tools.own_files import begins_with, check_replaceable
from scenetok_ns.tools.printing import plain_console

if TYPE_CHECKING:
    from scenetok_ns.rendering.views import RenderedScene
    from scenetok_ns.splats.gaussians import Gaussians
    from scenetok_ns.splats.rasterizer import Rasterize


def export_splat(
    output: Path,
    view: Annotated[ViewOptions, tyro.conf.arg(name="")] = ViewOptions(),  # noqa: B008  frozen
    iterations: int = 1000,
    gaussians: int = 60_000,
) -> None:
    """Render views around a scene from its tokens, fit 3D Gaussians to them, and write a PLY file, which SuperSplat,
    Nerfstudio's viewer and other programs show in real time.

    The Gaussians start on surfaces that the depth head finds, or that are found by comparing views if the model has no
    depth head. The command compares the splat with views that it was not fitted to. If there are photographs of these
    views, it also compares the model's renders and the splat with them. It prints the figures and writes them as JSON
    beside the PLY. Needs an NVIDIA GPU.

    Args:
        output: File to write (.ply).
        view: See the options.
        iterations: Number of steps of the fit.
        gaussians: Maximum number of Gaussians.
    """
    from scenetok_ns.splats.rasterizer import gsplat_rasterize, require_gsplat

    if output.suffix != ".ply":
        raise UsageError(f"--output: splat files end in .ply, got {output.name}")
    if iterations < 1 or gaussians < 2:
        raise UsageError(f"--iterations must be at least 1, --gaussians 2; got {iterations} and {gaussians}")
    check_replaceable(output, is_splat, "a splat of `scenetok export-splat`")
    figures_file = output.with_suffix(".json")
    check_replaceable(figures_file, is_splat_report, "the figures of a splat")
    console = plain_console(stderr=True)
    with console.status("preparing gsplat (its first use compiles for minutes)"):
        require_gsplat()
    begin = time.perf_counter()
    rendered = rendered_scene(output, view, console, depth="with head")
    render_seconds = time.perf_counter() - begin
    fit = Fit(iterations, gaussians)
    found = fit.run(rendered, gsplat_rasterize, console)
    from scenetok_ns.splats.gaussians import save_splat

    save_splat(found, output)
    figures = compare(found, rendered, gsplat_rasterize)
    report = {
        "scene": rendered.scene,
        "gaussians": len(found),
        "views": len(rendered.path.frames),
        "held_out_views": len(rendered.held_out.frames),
        "seconds": {"load_and_render": render_seconds, "fit": fit.seconds},
        **figures,
    }
    write_atomically(figures_file, json.dumps(report, indent=1).encode())
    console.print(table(figures, len(rendered.held_out.frames)))
    console.print(
        f"{output}: {len(found):,} Gaussians, {output.stat().st_size / 2**20:.1f} MiB; rendered in "
        f"{render_seconds:.0f} s, fitted in {fit.seconds:.0f} s. Drop it on SuperSplat, or any program for splats.",
        soft_wrap=True,
    )


def is_splat(path: Path) -> bool:
    """Whether a file is a PLY of Gaussians."""
    return begins_with(path, (b"ply\n", b"property float f_dc_0", b"property float rot_3"))


def is_splat_report(path: Path) -> bool:
    """Whether a file is the JSON that this command writes beside a PLY."""
    found = read_json(path)
    return isinstance(found, dict) and {"gaussians", "held_out_views"} <= found.keys()


@dataclass
class Fit:
    """Fits Gaussians to views, with a progress bar. `run` also sets `seconds`, the duration of the fit."""

    iterations: int
    gaussians: int
    seconds: float = 0.0

    def run(self, rendered: RenderedScene, rasterize: Rasterize, console: Console) -> Gaussians:
        from scenetok_ns.splats.fitting import FitOptions, Relocation, fit_gaussians
        from scenetok_ns.splats.points import gaussians_at, surface_points

        begin = time.perf_counter()
        views = rendered.path
        with console.status("finding points on surfaces"):
            points = surface_points(views.frames, views.cameras, rendered.maps)
            start = gaussians_at(points, self.gaussians // 2, SH_DEGREE)
        with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console) as progress:
            task = progress.add_task("fitting Gaussians", total=self.iterations)
            found = fit_gaussians(
                start,
                views.frames,
                views.cameras,
                FitOptions(self.iterations),
                rasterize,
                Relocation(self.gaussians, self.iterations),
                lambda done, total: progress.update(task, completed=done),
            )
        found = found.visible()
        self.seconds = time.perf_counter() - begin
        return found


SH_DEGREE = 0
"""Degree of the spherical harmonics. Colours do not change with the direction: higher degrees would only fit the
differences between windows, the groups of views that are rendered together."""

ROWS = (
    ("the splat, against the model's renders", "splat_against_renders"),
    ("the model's renders, against photographs", "renders_against_photographs"),
    ("the splat, against photographs", "splat_against_photographs"),
)
"""Rows of the printed table, and the keys of the comparisons in the JSON file."""


def compare(found: Gaussians, rendered: RenderedScene, rasterize: Rasterize) -> dict[str, dict[str, float]]:
    """Compare splat, renders and, if there are any, photographs on the held-out views.

    Returns:
        Name of the comparison (see `ROWS`) -> "psnr" (dB) and "ssim", means over the views.
    """
    from scenetok_ns.models.metrics import picture_metrics
    from scenetok_ns.splats.rasterizer import render_splat

    views, photographs = rendered.held_out, rendered.photographs
    drawn = render_splat(found, views.cameras, (views.frames.shape[-2], views.frames.shape[-1]), rasterize).rgb
    pairs = {"splat_against_renders": (drawn, views.frames)}
    if photographs is not None:
        pairs["renders_against_photographs"] = (views.frames, photographs)
        pairs["splat_against_photographs"] = (drawn, photographs)
    return {
        name: {metric: float(value.mean()) for metric, value in picture_metrics(pred=pred, target=target).items()}
        for name, (pred, target) in pairs.items()
    }


def table(figures: dict[str, dict[str, float]], count: int) -> Table:
    found = Table("", "PSNR (dB)", "SSIM", title=f"{count} views that the splat was not fitted to")
    for label, name in ROWS:
        if name in figures:
            found.add_row(label, f"{figures[name]['psnr']:.2f}", f"{figures[name]['ssim']:.3f}")
    return found
