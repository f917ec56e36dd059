"""Open a capture in the viewer (`scenetok capture --open`): run folder, encoding, page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from scenetok_ns.cli.run_options import EMBEDDED, RunChanges
from scenetok_ns.cli.runs import load_run, write_run
from scenetok_ns.tools.errors import UsageError
from scenetok_ns.tools.printing import command
from scenetok_ns.tools.run_files import CONFIG

if TYPE_CHECKING:
    from rich.console import Console

    from scenetok_ns.plugin.pipeline import SceneTokPipeline
    from scenetok_ns.plugin.run_folder import DerivedRun, RunFolderConfig


def view_capture(capture: Path, run: Path | None, console: Console, device: str | None = None) -> None:
    """Encode a capture and display it in the viewer, until the process is interrupted.

    Creates a run folder inside the capture's folder, unless it exists.

    Args:
        capture: A folder with transforms.json.
        run: Run folder with the model, or a preset whose weights come with the package; None: scenetok-tiny.
        console: Console to print on.
        device: Name of the device. None: the GPU, or the CPU without one.
    """
    with console.status("loading Nerfstudio"):
        prepared = prepare_view(capture, run)
    pipeline = encoded(prepared, console, device)
    if not (prepared.config.get_base_dir() / CONFIG).is_file():
        write_run(prepared, prepared.config.get_base_dir(), console)
    console.print("starting the viewer; end it with Ctrl-C")
    try:
        start_viewer(prepared.config, pipeline)
    except KeyboardInterrupt:
        console.print("\nviewer closed")


def check_run(run: Path) -> None:
    """Raise an error in one line, before minutes of work, unless a run (or preset) can encode a capture."""
    from scenetok_ns.cli.change_run import only_content
    from scenetok_ns.plugin.run_folder import derive_run

    content = only_content(derive_run(run, run).config)
    if content is not None:
        looking = command("ns-viewer", "--load-config", run if run.name == CONFIG else run / CONFIG)
        raise UsageError(
            f"--run: expected a run that encodes captures, or a preset such as {EMBEDDED}; {run} {content}, which "
            f"{looking} displays"
        )


def prepare_view(capture: Path, run: Path | None) -> DerivedRun:
    """Derive a run that displays a capture, in a folder inside the capture. Nothing is written yet."""
    from scenetok_ns.plugin.run_folder import derive_run

    chosen = Path(EMBEDDED) if run is None else run
    name = chosen.parent.name if chosen.name == CONFIG else chosen.absolute().name
    derived = derive_run(chosen, capture / f"run-{name}")
    RunChanges(data=capture).apply(derived.config)
    return derived


def encoded(run: DerivedRun, console: Console, device: str | None = None) -> SceneTokPipeline:
    """Load a run and encode or generate its scene, so that the viewer's first picture need not wait for it."""
    pipeline = load_run(run, console, device)
    renderer, scenes = pipeline.model.renderer, pipeline.model.renderer.scenes
    shown = scenes.scene(scenes.active)
    making = "generating" if shown.anchors is not None else "encoding"
    with console.status(Text(f"{making} {shown.scene.key} from {len(shown.context)} photographs")):
        renderer.tokens_of(shown.number)
    return pipeline


def start_viewer(config: RunFolderConfig, pipeline: SceneTokPipeline) -> None:
    """Serve Nerfstudio's viewer as ns-viewer does after it has loaded a run. Does not return."""
    from nerfstudio.scripts.viewer.run_viewer import _start_viewer

    config.vis = "viewer"
    config.viewer.websocket_host = "127.0.0.1"  # runs of earlier versions have another address
    _start_viewer(config, pipeline, 0)
