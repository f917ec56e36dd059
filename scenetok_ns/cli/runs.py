"""Loading and writing runs with progress on the terminal, shared by commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from scenetok_ns.tools.devices import chosen_device
from scenetok_ns.tools.printing import command
from scenetok_ns.tools.run_files import CONFIG

if TYPE_CHECKING:
    from scenetok_ns.plugin.pipeline import SceneTokPipeline
    from scenetok_ns.plugin.run_folder import DerivedRun


def load_run(run: DerivedRun, console: Console, device: str | None = None) -> SceneTokPipeline:
    """Load a run on the named device; without a name, on the GPU, or on the CPU if there is no GPU.

    Raises UsageError for an unknown device, and FileNotFoundError for a run without data, before anything is loaded.
    """
    from scenetok_ns.cli.change_run import check_data  # imports Nerfstudio

    chosen_device(device)
    check_data(run.config)
    with console.status("loading the model"):
        return run.load(device)


def write_run(
    run: DerivedRun, output: Path, console: Console, fill: Callable[[Path], None] = lambda folder: None
) -> None:
    """Write a derived run to its folder `output`, and print how to open it.

    `fill` is called with the folder before it is complete, and can add files to it.
    """
    run.write(fill)
    viewer = command("ns-viewer", "--load-config", output / CONFIG)
    console.print(f"{output} is ready:\n  {viewer}", soft_wrap=True)
