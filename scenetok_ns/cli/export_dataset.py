"""`scenetok export-dataset`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from scenetok_ns.cli.scene_views import ViewOptions, rendered_scene
from scenetok_ns.tools.atomic_files import atomic_folder, check_absent
from scenetok_ns.tools.errors import UsageError
from scenetok_ns.tools.printing import command, plain_console

SMALLEST = 16
"""Minimum width and height of the pictures in pixels."""


def export_dataset(
    output: Path,
    view: Annotated[ViewOptions, tyro.conf.arg(name="")] = ViewOptions(),  # noqa: B008  frozen
    size: int | None = None,
) -> None:
    """Render views around a scene from its tokens and write them as a Nerfstudio data set, on which other methods can
    train: `ns-train splatfacto --data OUTPUT`.

    If the scene has evaluation photographs, they become the evaluation views; none of them was encoded. Otherwise
    some of the rendered views do. The data set also has points on surfaces, for methods that start from points; the
    depth head finds them, or a comparison of the views.

    Args:
        output: Folder to create; it must not exist.
        view: See the options.
        size: Width and height of the pictures in pixels; default: the model's own. Pictures of other sizes are
            resized, for methods such as splatfacto, whose thresholds expect several hundred pixels.
    """
    if size is not None and size < SMALLEST:
        raise UsageError(f"--size must be at least {SMALLEST}, got {size}")
    check_absent(output)
    console = plain_console(stderr=True)
    rendered = rendered_scene(output, view, console, depth="with head")
    from scenetok_ns.rendering.dataset_export import write_dataset
    from scenetok_ns.rendering.views import RenderedViews
    from scenetok_ns.splats.points import surface_points

    held_out = rendered.held_out
    evaluation = held_out if rendered.photographs is None else RenderedViews(rendered.photographs, held_out.cameras)
    with console.status("finding points on surfaces"):
        points = surface_points(rendered.path.frames, rendered.path.cameras, rendered.maps)
    with atomic_folder(output) as folder:
        side = size or rendered.path.frames.shape[-1]
        write_dataset(folder, rendered.path.resized(side), evaluation.resized(side), points)
    kind = "rendered views" if rendered.photographs is None else "photographs"
    console.print(
        f"{output}: {len(rendered.path.frames)} rendered views to train on, {len(evaluation.frames)} {kind} to "
        f"evaluate on, {len(points.means):,} points. Train on it with\n"
        f"  {command('ns-train', 'splatfacto', '--data', output)}",
        soft_wrap=True,
    )
