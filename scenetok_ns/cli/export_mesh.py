"""`scenetok export-mesh`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from scenetok_ns.cli.scene_views import ViewOptions, rendered_scene
from scenetok_ns.tools.errors import UsageError
from scenetok_ns.tools.own_files import begins_with, check_replaceable
from scenetok_ns.tools.printing import plain_console

SUFFIXES = (".ply", ".glb")


def export_mesh(
    output: Path,
    view: Annotated[ViewOptions, tyro.conf.arg(name="")] = ViewOptions(),  # noqa: B008  frozen
    voxel: float | None = None,
    confidence: float = 0.3,
) -> None:
    """Render views around a scene with their depth, fuse them into a mesh with colours, and write it.

    Depth comes from the model's depth head. Without one, depth is found by comparing views, which takes longer and is
    less accurate. The mesh has the axes and units of the capture.

    Args:
        output: File to write (.ply or .glb).
        view: See the options.
        voxel: Size of the smallest details, in units of the capture; default: a fiftieth of the spread of the cameras.
        confidence: Minimum confidence of a pixel's depth, from 0 to 1; pixels below it are left out.
    """
    if output.suffix not in SUFFIXES:
        raise UsageError(f"--output: meshes end in {' or '.join(SUFFIXES)}, got {output.name}")
    if (voxel is not None and voxel <= 0) or not 0 <= confidence <= 1:
        raise UsageError(f"--voxel must be above 0, --confidence from 0 to 1; got {voxel} and {confidence}")
    check_replaceable(output, is_mesh, "a mesh")
    console = plain_console(stderr=True)
    rendered = rendered_scene(output, view, console, depth="always")
    from scenetok_ns.rendering.meshes import fuse_views, save_mesh

    assert rendered.maps is not None
    size = rendered.unit / 50 if voxel is None else voxel
    with console.status("fusing views"):
        mesh = fuse_views(rendered.path, rendered.maps, size, least_confidence=confidence, farthest=rendered.unit * 20)
    save_mesh(mesh, output)
    console.print(
        f"{output}: {len(mesh.triangles):,} triangles from {len(rendered.path.frames)} views, details of {size:.3g} "
        f"units; depth by {rendered.depth_by}.",
        soft_wrap=True,
    )


def is_mesh(path: Path) -> bool:
    """Whether a file is a binary mesh of the kinds that this command writes."""
    if path.suffix == ".glb":
        return begins_with(path, (b"glTF",), 4)
    return begins_with(path, (b"ply\n", b"element face "))
