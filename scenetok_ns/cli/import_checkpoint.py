"""`scenetok import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from scenetok_ns.models.errors import CheckpointError
from scenetok_ns.models.presets import AutoencoderConfig, Preset, load_preset, preset_names
from scenetok_ns.models.released_files import files_of, find_released


def import_checkpoint(
    output: Path,
    preset: str | None = None,
    checkpoint: Path | None = None,
    folder: Annotated[Path | None, tyro.conf.arg(name="from")] = None,
    data: Path | None = None,
    tokenizer: Path | None = None,
    vavae: Path | None = None,
    video_dcae: Path | None = None,
    wan: Path | None = None,
) -> None:
    """Create a run folder from a released checkpoint; ns-viewer, ns-render and ns-eval open it like a run of ns-train.

    Files that are not given are looked for by their published names: in the folder --from, beside the checkpoint, and
    where `scenetok download` puts them.

    Args:
        output: Run folder to create; it must not exist.
        preset: Preset of the checkpoint: a preset's name, or a preset file of your own (.yaml). Default: recognised
            by the checkpoint's name or tensors.
        checkpoint: Released .ckpt file.
        folder: Folder with the released files.
        data: Data set to display and evaluate, in the format that the preset's method expects. `scenetok new-run` can
            change it later.
        tokenizer: For scenegen presets: the released file with compressor and denoiser, if the checkpoint holds only
            the generator.
        vavae: Published weights of VA-VAE. Autoencoder weights stay where they are; the run stores their path and
            SHA-256.
        video_dcae: Published weights of Video DC-AE.
        wan: Published weights of the Wan 2.2 VAE.
    """
    from scenetok_ns.cli.imported_runs import check_places, make_run

    if folder is not None and not folder.is_dir():
        raise FileNotFoundError(f"--from: there is no folder {folder}")
    check_places(output, data)
    name = chosen_preset(preset, checkpoint, folder)
    described = load_preset(name)
    places = search_places(folder, checkpoint)
    file = checkpoint or found_checkpoint(described, places)
    if tokenizer is None and described.tokenizer_checkpoint is not None and needs_tokenizer(file):
        tokenizer = find_released(described.tokenizer_checkpoint, places)
    weights = autoencoder_files(described, {"vavae": vavae, "video_dcae": video_dcae, "wan": wan}, places)
    make_run(name, file, tokenizer, weights, output, data)


def search_places(folder: Path | None, checkpoint: Path | None) -> list[Path]:
    """Folders in which released files are looked for."""
    return [path for path in (folder, None if checkpoint is None else checkpoint.absolute().parent) if path is not None]


def chosen_preset(preset: str | None, checkpoint: Path | None, folder: Path | None) -> str:
    """The given preset, or the one that fits the checkpoint's published name or its content.

    Raises CheckpointError if there is no checkpoint, or more than one.
    """
    if preset is not None:
        return preset
    published: dict[str, str] = {}
    for name in preset_names():
        if (file := load_preset(name).checkpoint) is not None:
            published[file] = name
    if checkpoint is None:
        return published[the_checkpoint_in(folder, published)]
    if checkpoint.name in published:
        return published[checkpoint.name]
    from scenetok_ns.models.released_checkpoints import guess_preset
    from scenetok_ns.tools.printing import plain_console

    name, others = guess_preset(checkpoint)
    plain_console(stderr=True).print(
        f"{checkpoint.name} is taken for preset {name}; it fits {', '.join(others)}", soft_wrap=True
    )
    return name


def the_checkpoint_in(folder: Path | None, published: dict[str, str]) -> str:
    """Name of the only released checkpoint in a folder, apart from the tokenizer of a generator that is there, too."""
    if folder is None:
        raise CheckpointError(
            "nothing to import: give --preset, --checkpoint, or --from with a folder of released files"
        )
    there = [name for name in published if find_released(name, [folder], cached=False)]
    needed = {load_preset(published[name]).tokenizer_checkpoint for name in there}
    there = [name for name in there if name not in needed]
    if not there:
        raise CheckpointError(f"{folder} has no released checkpoint; their names are {', '.join(published)}")
    if len(there) > 1:
        presets = ", ".join(published[name] for name in there)
        raise CheckpointError(f"{folder} has checkpoints of several presets: choose one with --preset: {presets}")
    return there[0]


def found_checkpoint(preset: Preset, places: list[Path]) -> Path:
    """The released checkpoint of a preset, by its name. Raises CheckpointError."""
    if preset.checkpoint is None:
        raise CheckpointError(f"no checkpoint of preset {preset.name} was released: give yours with --checkpoint")
    found = find_released(preset.checkpoint, places)
    if found is None:
        where = f" in {places[0]}" if places else ""
        raise CheckpointError(
            f"{preset.checkpoint} was not found{where}: give it with --checkpoint, or get it with scenetok download "
            f"{preset.name}"
        )
    return found


def needs_tokenizer(checkpoint: Path) -> bool:
    """Whether a scene generator's checkpoint holds only the generator."""
    from scenetok_ns.models.lightning_files import read_lightning
    from scenetok_ns.models.released_checkpoints import TOKENIZER_PREFIXES

    return not any(key.startswith(TOKENIZER_PREFIXES) for key in read_lightning(checkpoint))


def autoencoder_files(preset: Preset, given: dict[str, Path | None], places: list[Path]) -> dict[str, Path | None]:
    """Role ("context", "target") -> absolute path of the weights; None where the autoencoder has none.

    Raises CheckpointError for files that are missing, or given though the preset does not use them.
    """
    released = files_of(preset)

    def file_of(role: str, config: AutoencoderConfig) -> Path | None:
        if role not in released:
            return None
        name = released[role].name  # type: ignore[index]
        option, path = f"--{config.name.replace('_', '-')}", given[config.name] or find_released(name, places)
        if path is None:
            raise CheckpointError(
                f"preset {preset.name} needs the weights of {config.name}: give {option} .../{name}, or use scenetok "
                f"download {preset.name}"
            )
        if not path.is_file():
            raise CheckpointError(f"{option}: there is no file {path}")
        return path.absolute()

    files = {
        "context": file_of("context", preset.context_autoencoder),
        "target": file_of("target", preset.target_autoencoder),
    }
    used = {preset.context_autoencoder.name, preset.target_autoencoder.name}
    for name, path in given.items():
        if path is not None and name not in used:
            raise CheckpointError(f"preset {preset.name} does not use {name}: leave out {path}")
    return files
