"""`scenetok capture`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

from scenetok_ns.tools.printing import command, description_column, plain_console

if TYPE_CHECKING:
    from rich.console import Console

    from scenetok_ns.data.capture.capture_folder import Capture

LABELS = {
    "pictures": "reading pictures",
    "video": "choosing frames",
    "features": "finding features",
    "matches": "matching pairs",
    "cameras": "finding cameras",
}
"""Label of the progress bar of each stage."""


def capture(
    source: Annotated[Path, tyro.conf.Positional],
    output: Path | None = None,
    frames: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    separate_lenses: bool = False,
    open: bool = False,
    run: Path | None = None,
    device: str | None = None,
) -> None:
    """Find the cameras of photographs or of a video with pycolmap, and write a capture that every Nerfstudio method
    reads: pictures, transforms.json, a COLMAP model in sparse/0, a sheet of thumbnails.

    With --open, also encodes the capture and displays the scene in the viewer. Run the same command again to
    continue after an interrupt, or to open a finished capture.

    Args:
        source: A folder of photographs of one place, or a video.
        output: Folder to create. Default: the source's name with -capture, in the current folder.
        frames: Number of frames to take from a video. Default: two per second, but between 30 and 120.
        seed: Random seed of matching and mapping.
        threads: Number of threads. Default: all cores.
        separate_lenses: Estimate the lens of every picture separately; for pictures that were cropped or zoomed.
        open: Encode the capture and open it in the viewer.
        run: With --open: run folder with the model (or its config.yml), or a preset whose weights come with the
            package. Default: scenetok-tiny.
        device: With --open: device, such as cuda:1 or cpu. Default: the GPU, or the CPU without one.
    """
    from scenetok_ns.data.capture.capture_folder import CaptureOptions, make_capture
    from scenetok_ns.data.capture.improvement import REFINING_TIME, encoding_command, needs_fitting, refining_command
    from scenetok_ns.data.capture.photographs import CaptureError
    from scenetok_ns.data.capture.pose_estimation import EstimationOptions

    if run is not None and not open:
        raise CaptureError("--run only works with --open")
    if device is not None and not open:
        raise CaptureError("--device only works with --open")
    for option, value in (("--frames", frames), ("--threads", threads)):
        if value is not None and value < 1:
            raise CaptureError(f"{option} must be at least 1, got {value}")
    if (source / "capture.json").is_file() or (source / "transforms.json").is_file():
        encoding = command("scenetok", "encode", "--data", source, "--output", "scene.safetensors")
        raise CaptureError(f"{source} is a capture with cameras already; the next step is `{encoding}`")
    console = plain_console(stderr=True)
    if run is not None:
        from scenetok_ns.cli.viewing import check_run

        with console.status("loading Nerfstudio"):
            check_run(run)
    folder = output or Path(f"{source.absolute().stem if source.is_file() else source.absolute().name}-capture")
    options = CaptureOptions(frames, EstimationOptions(seed, threads or -1, separate_lenses))
    try:
        with _Stages(console) as stages:
            made = make_capture(source, folder, options, stages)
    except KeyboardInterrupt:
        again = command("scenetok", "capture", source, *(("--output", output) if output else ()))
        console.print(f"interrupted; the same command continues where it stopped:\n  {again}", soft_wrap=True)
        raise
    print_capture(made, console)
    if open:
        from scenetok_ns.cli.viewing import view_capture

        view_capture(folder, run, console, device)
    else:
        opening = command("scenetok", "capture", source, "--output", folder, "--open")
        fitting = f"Encode it, and fit its tokens to the photographs:\n  {encoding_command(folder)}"
        steps = [f"Look at it:\n  {opening}", fitting]
        if not needs_fitting(made.registered):
            steps.append(f"Refine it, for better pictures ({REFINING_TIME}):\n  {refining_command(folder)}")
        console.print("\n".join(steps), soft_wrap=True)


def print_capture(made: Capture, console: Console) -> None:
    """Print the results and warnings of a capture, one line each."""
    console.print(f"{made.folder} {'is ready' if made.is_new else 'already exists; using it'}", soft_wrap=True)
    for note in made.notes:
        console.print(f"  {note}", soft_wrap=True, highlight=False)
    for warning in made.warnings:
        console.print(f"  note: {warning}", soft_wrap=True, highlight=False, style="yellow")


class _Stages:
    """Progress bars: one for each stage, which appears when the stage begins."""

    def __init__(self, console: Console) -> None:
        columns = (description_column(), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console)
        self._tasks: dict[str, object] = {}

    def __enter__(self) -> _Stages:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(LABELS[stage], total=total)
        self._progress.update(self._tasks[stage], completed=done, total=total)  # type: ignore[arg-type]
