"""`scenetok import`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from scenetok_ns.cli.run_options import RunChanges
from scenetok_ns.models.autoencoders.registry import build_autoencoder, weights_file
from scenetok_ns.models.presets import AutoencoderConfig, Preset, load_preset
from scenetok_ns.models.released_checkpoints import CheckpointError, released_state
from scenetok_ns.tools.digests import remembered_sha256
from scenetok_ns.tools.printing import command, description_column, plain_console
from scenetok_ns.tools.run_files import FIRST_CHECKPOINT, run_state, save_tensors, size_of, write_run_folder

Bar = Callable[[str, int], Callable[[int], None]]


def import_checkpoint(
    preset: str,
    checkpoint: Path,
    output: Path,
    data: Path | None = None,
    tokenizer: Path | None = None,
    vavae: Path | None = None,
    video_dcae: Path | None = None,
    wan: Path | None = None,
) -> None:
    """Create a run folder from a released checkpoint; ns-viewer, ns-render and ns-eval open it like a run of ns-train.

    Args:
        preset: Preset of the checkpoint: its name, or a preset file of your own (.yaml).
        checkpoint: Released .ckpt file.
        output: Run folder to create; it must not exist.
        data: Data set to show and evaluate, in the form that the preset's method expects. `scenetok open` can change
            it later.
        tokenizer: For scenegen presets: the released file that holds compressor and denoiser, where `checkpoint` holds
            the generator alone.
        vavae: Published weights of VA-VAE. Autoencoder weights stay where they are; the run remembers path and SHA-256.
        video_dcae: Published weights of Video DC-AE.
        wan: Published weights of the Wan 2.2 VAE.
    """
    described = load_preset(preset)
    weights = autoencoder_files(described, {"vavae": vavae, "video_dcae": video_dcae, "wan": wan})
    check_places(output, data)
    make_run(preset, checkpoint, tokenizer, weights, output, data)


def check_places(output: Path, data: Path | None) -> None:
    """Raise OSError if the run folder exists or the data does not, before work of minutes begins."""
    if output.exists():
        raise FileExistsError(f"{output} exists; choose another --output, or remove it")
    if data is not None and not data.exists():
        raise FileNotFoundError(f"no data at {data}")


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
        tokenizer: The released file of compressor and denoiser, where `checkpoint` holds the generator alone.
        weights: "context" and "target" -> weights of that autoencoder; None where it has none.
        output: The run folder.
        data: Data set for the run to show.
    """
    console, described = plain_console(stderr=True), load_preset(preset)
    with progress_bars(console) as bar:
        # The tensors are gone when the checkpoint is written, and Nerfstudio is imported after that.
        write_run_folder(
            output,
            lambda folder: write_checkpoint(folder, described, checkpoint, tokenizer, console, bar),
            lambda: imported_config(preset, described, output, data, weights, bar),
        )
    viewer = command("ns-viewer", "--load-config", output / "config.yml")
    console.print(f"{output}: {described.description}\n  {viewer}", soft_wrap=True)


def autoencoder_files(preset: Preset, given: dict[str, Path | None]) -> dict[str, Path | None]:
    """Role ("context", "target") -> absolute path of the weights; None where the autoencoder has none.

    Raises CheckpointError for files that are missing, or given though the preset does not use them.
    """

    def file_of(config: AutoencoderConfig) -> Path | None:
        published = weights_file(config)
        if published is None:
            return None
        option, path = f"--{config.name.replace('_', '-')}", given[config.name]
        if path is None:
            raise CheckpointError(f"preset {preset.name} needs the weights of {config.name}: {option} .../{published}")
        if not path.is_file():
            raise CheckpointError(f"{option}: there is no file {path}")
        return path.absolute()

    files = {"context": file_of(preset.context_autoencoder), "target": file_of(preset.target_autoencoder)}
    used = {preset.context_autoencoder.name, preset.target_autoencoder.name}
    for name, path in given.items():
        if path is not None and name not in used:
            raise CheckpointError(f"preset {preset.name} does not use {name}: leave out {path}")
    return files


def write_checkpoint(
    folder: Path, preset: Preset, checkpoint: Path, tokenizer: Path | None, console: Console, bar: Bar
) -> None:
    """Copy the released tensors into a checkpoint of our pipeline, and print which are left out.

    Raises CheckpointError for a file that does not fit the preset.
    """
    released = released_state(preset, checkpoint, tokenizer)
    for reason in sorted(set(released.dropped.values())):
        keys = [key for key, why in released.dropped.items() if why == reason]
        console.print(f"left out {keys[0]}{f' and {len(keys) - 1} more' if keys[1:] else ''}: {reason}")
    state = run_state(released.tensors, preset.name)
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
            # Names and shapes only, on no device: a file of another autoencoder is refused here, not by the first tool.
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
