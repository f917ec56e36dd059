"""Run folders from released files, which `scenetok import` and `scenetok download` write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from scenetok_ns.cli.run_options import RunChanges
from scenetok_ns.models.autoencoders.registry import build_autoencoder
from scenetok_ns.models.lightning_files import record_names
from scenetok_ns.models.presets import Preset, load_preset
from scenetok_ns.models.released_checkpoints import check_content, released_state
from scenetok_ns.models.weight_files import listed
from scenetok_ns.tools.digests import remembered_sha256
from scenetok_ns.tools.printing import command, description_column, plain_console
from scenetok_ns.tools.run_files import FIRST_CHECKPOINT, run_state, save_tensors, size_of, write_run_folder
from scenetok_ns.tools.suggestions import did_you_mean_path

Bar = Callable[[str, int], Callable[[int], None]]


def check_places(output: Path, data: Path | None) -> None:
    """Raise OSError if the run folder exists or the data does not, before minutes of work begin."""
    if output.exists():
        raise FileExistsError(f"{output} exists; choose another --output, or remove it")
    if data is not None and not data.exists():
        raise FileNotFoundError(f"no data at {data}{did_you_mean_path(data)}")


def make_run(
    preset: str,
    checkpoint: Path,
    tokenizer: Path | None,
    weights: dict[str, Path | None],
    output: Path,
    data: Path | None,
) -> None:
    """Write the run folder of a released checkpoint, whole or not at all, and print how to open it.

    Args:
        preset: A preset's name, or a preset file of your own (.yaml).
        checkpoint: The released file.
        tokenizer: The released file of compressor and denoiser, if `checkpoint` holds only the generator.
        weights: "context" and "target" -> weights of that autoencoder; None if it has none.
        output: The run folder.
        data: Data set for the run to show.
    """
    console, described = plain_console(stderr=True), load_preset(preset)
    files = [checkpoint] if tokenizer is None else [checkpoint, tokenizer]
    with progress_bars(console) as bar:
        # Nerfstudio is imported only after the checkpoint is written and its tensors are freed.
        made: list[Any] = []

        def config() -> Any:
            made.append(imported_config(preset, described, output, data, weights, bar))
            return made[0]

        write_run_folder(output, lambda folder: write_checkpoint(folder, described, files, console, bar), config)
    viewer = command("ns-viewer", "--load-config", output / "config.yml")
    console.print(f"{output}: {described.description}\n  {viewer}", soft_wrap=True)
    shown = made[0].pipeline.datamanager.dataparser.data
    if data is None and not shown.exists():
        opening = command("scenetok", "new-run", output, "--data", "DATA", "--output", "RUN2")
        console.print(f"It displays {shown}, which is not there: put a data set there, or\n  {opening}", soft_wrap=True)


def write_checkpoint(folder: Path, preset: Preset, files: list[Path], console: Console, bar: Bar) -> None:
    """Copy the released tensors into a checkpoint of our pipeline, and print which keys and records are left out.

    Raises CheckpointError for a file that is damaged or does not fit the preset.
    """
    released = released_state(preset, *files)
    for reason in sorted(set(released.dropped.values())):
        keys = [key for key, why in released.dropped.items() if why == reason]
        console.print(f"left out {listed(keys)}: {reason}", soft_wrap=True)
    for path in files:
        if names := record_names(path):
            console.print(f"left out records of {path.name} of the kinds {listed(names)}", soft_wrap=True)
    state = run_state(released.tensors, preset.name)
    total = sum(path.stat().st_size for path in files) + size_of(state)
    check_content(files, released.tensors, bar("checking checksums and numbers", total))
    progress = bar(f"copying {len(released.tensors)} tensors", size_of(state))
    save_tensors(folder / FIRST_CHECKPOINT, state, progress=progress)


def imported_config(
    preset_name: str, preset: Preset, output: Path, data: Path | None, weights: dict[str, Path | None], bar: Bar
) -> Any:
    """Configuration of the preset's method for the imported run."""
    from scenetok_ns.plugin.methods import method_config
    from scenetok_ns.plugin.run_folder import run_config

    config = run_config(method_config(preset.method), output)
    model = config.pipeline.model
    model.preset = str(Path(preset_name).absolute()) if preset_name.endswith(".yaml") else preset_name
    configs = {"context": preset.context_autoencoder, "target": preset.target_autoencoder}
    for role, path in weights.items():
        if path is not None:
            # Checks only names and shapes: a file of another autoencoder fails here, not later in the viewer.
            build_autoencoder(configs[role], path, device="meta")
        digest = None if path is None else remembered_sha256(path, bar(f"SHA-256 of {path.name}", path.stat().st_size))
        setattr(model, f"{role}_weights", path)
        setattr(model, f"{role}_weights_sha256", digest)
    RunChanges(data=data).apply(config)
    return config


def byte_progress(console: Console) -> Progress:
    """Bars for bytes, with speed and remaining time."""
    columns = (description_column(), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)


@contextmanager
def progress_bars(console: Console) -> Iterator[Bar]:
    """Bars that count bytes: bar(text, total) -> function to call with the number of bytes done."""
    with byte_progress(console) as progress:

        def bar(text: str, total: int) -> Callable[[int], None]:
            task = progress.add_task(text, total=total)
            return lambda count: progress.advance(task, count)

        yield bar
