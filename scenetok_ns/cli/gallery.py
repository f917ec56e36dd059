"""`scenetok gallery`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import tyro

from scenetok_ns.cli.demo_rooms import write_rooms
from scenetok_ns.cli.run_options import EMBEDDED_GENERATOR, RunChanges
from scenetok_ns.cli.runs import load_run
from scenetok_ns.cli.viewing import start_viewer
from scenetok_ns.tools.atomic_files import write_atomically
from scenetok_ns.tools.errors import UsageError
from scenetok_ns.tools.printing import plain_console
from scenetok_ns.tools.run_files import CONFIG

ROOMS_TO_TRAIN = 1
"""Number of rooms in the training split, which a data set needs, though the gallery does not display it."""
MOST_ROOMS = 100


def gallery(
    captures: Annotated[tuple[Path, ...], tyro.conf.Positional] = (),
    output: Path = Path("gallery"),
    rooms: int = 4,
    run: Path = Path(EMBEDDED_GENERATOR),
    device: str | None = None,
) -> None:
    """Open the viewer on a page of pictures. A click opens an example room, a scene generator or one of your captures.

    The first call creates the rooms. Later calls open the same folder again, with everything that you made in it.

    Args:
        captures: Folders of scenetok capture or ns-process-data, or COLMAP models, to display beside the rooms.
        output: Folder of the gallery: example rooms, a run folder, and all that you make in the viewer.
        rooms: Number of example rooms that the first call creates.
        run: Run folder of a scenegen method (or its config.yml), or a preset whose weights come with the package.
        device: Device, such as cuda:1 or cpu. Default: the GPU, or the CPU without one.
    """
    if not 1 <= rooms <= MOST_ROOMS:
        raise UsageError(f"--rooms must be from 1 to {MOST_ROOMS}, got {rooms}")
    console = plain_console(stderr=True)
    with console.status("loading Nerfstudio"):
        from scenetok_ns.bridge.capture_kinds import find_dataparser
        from scenetok_ns.cli.change_run import check_generator
        from scenetok_ns.plugin.run_folder import derive_run
        from scenetok_ns.viewer.start_part import GALLERY

        named = _by_name(captures)
        for folder in named.values():
            find_dataparser(folder)
        opened = output / "run"
        derived = derive_run(run, opened)
        check_generator(derived.config, "scenetok gallery")
    data = output / "rooms"
    if not (data / "test" / "index.json").is_file():
        write_rooms(data, console, train=ROOMS_TO_TRAIN, test=rooms, depth=False)
    RunChanges(data=data).apply(derived.config)
    pipeline = load_run(derived, console, device)
    if not (opened / CONFIG).is_file():
        derived.write()
    listed = {name: str(folder) for name, folder in named.items()}
    write_atomically(opened / GALLERY, json.dumps(listed, indent=2).encode())
    console.print("starting the viewer; end it with Ctrl-C")
    try:
        start_viewer(derived.config, pipeline)
    except KeyboardInterrupt:
        console.print("\nviewer closed")


def _by_name(captures: tuple[Path, ...]) -> dict[str, Path]:
    """Captures by their names on the page. Captures of the same name get different numbers."""
    named: dict[str, Path] = {}
    for folder in captures:
        whole = folder.absolute()
        name, number = whole.name, 1
        while name in named:
            number += 1
            name = f"{whole.name} ({number})"
        named[name] = whole
    return named
