"""`scenetok import`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import tyro

from scenetok_ns.models.errors import CheckpointError
from scenetok_ns.models.presets import Preset, load_preset, preset_names
from scenetok_ns.models.released_files import files_of, find_released
from scenetok_ns.tools.errors import UsageError


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
    source: Annotated[Path | None, tyro.conf.Positional] = None,
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
        source: Released .ckpt file, or folder with the released files: short for --checkpoint or --from.
    """
    from scenetok_ns.cli.imported_runs import check_places, make_run

    if source is not None:
        if checkpoint is not None or folder is not None:
            raise UsageError(f"give {source} alone, without --checkpoint and --from")
        folder, checkpoint = (source, None) if source.is_dir() else (None, source)
    if folder is not None and not folder.is_dir():
        raise FileNotFoundError(f"--from: there is no folder {folder}")
    check_places(output, data)
    name = chosen_preset(preset, checkpoint, folder)
    described = load_preset(name)
    places = search_places(folder, checkpoint)
    autoencoders = {"vavae": vavae, "video_dcae": video_dcae, "wan": wan}
    file, tokenizer, weights = found_files(described, checkpoint, tokenizer, autoencoders, places)
    make_run(name, file, tokenizer, weights, output, data)


def search_places(folder: Path | None, checkpoint: Path | None) -> list[Path]:
    """Return the folders in which to look for released files."""
    return [path for path in (folder, None if checkpoint is None else checkpoint.absolute().parent) if path is not None]


def chosen_preset(preset: str | None, checkpoint: Path | None, folder: Path | None) -> str:
    """Return the given preset, or the one that fits the checkpoint's published name or its content.

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
    """Return the name of the only released checkpoint in a folder, ignoring the tokenizer of a generator beside it."""
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


def found_files(
    preset: Preset,
    checkpoint: Path | None,
    tokenizer: Path | None,
    autoencoders: dict[str, Path | None],
    places: list[Path],
) -> tuple[Path, Path | None, dict[str, Path | None]]:
    """Find all files of a preset: those that are given, else those with the published names.

    Args:
        preset: The preset.
        checkpoint: The checkpoint; None: find it.
        tokenizer: The tokenizer of a scene generator; None: find it if the checkpoint does not hold it.
        autoencoders: Name of each autoencoder -> its weights; None: find them.
        places: Folders in which to look, before the folders of `scenetok download`.

    Returns:
        Checkpoint, tokenizer (None if not needed), and role ("context", "target") -> weights of that autoencoder.

    Raises:
        CheckpointError: The checkpoint cannot be read or does not fit, or files are missing. The message names all
            missing files with their options.
    """
    if checkpoint is None and preset.checkpoint is None:
        raise CheckpointError(f"no checkpoint of preset {preset.name} was released: give yours with --checkpoint")
    missing: list[str] = []

    def found(given: Path | None, name: str | None, option: str) -> Path | None:
        path = given or (None if name is None else find_released(name, places))
        if path is None or not path.is_file():
            missing.append(f"{name if given is None else given} ({option})")
            return None
        return path

    file = found(checkpoint, preset.checkpoint, "--checkpoint")
    if tokenizer is not None or (
        preset.tokenizer_checkpoint is not None and file is not None and needs_tokenizer(file)
    ):
        tokenizer = found(tokenizer, preset.tokenizer_checkpoint, "--tokenizer")
    if file is not None and not missing:
        check_fits(preset, file, tokenizer)
    weights = autoencoder_files(preset, autoencoders, found)
    if missing:
        where = f" in {places[0]}" if places else ""
        download = f", or get them with scenetok download {preset.name}" if preset.name in preset_names() else ""
        raise CheckpointError(
            f"preset {preset.name} needs files that were not found{where}: {', '.join(missing)}; give them with these "
            f"options{download}"
        )
    assert file is not None
    return file, tokenizer, weights


def check_fits(preset: Preset, checkpoint: Path, tokenizer: Path | None) -> None:
    """Raise CheckpointError unless the checkpoint holds the networks of the preset."""
    from scenetok_ns.models.released_checkpoints import released_state

    released_state(preset, checkpoint, tokenizer)


def needs_tokenizer(checkpoint: Path) -> bool:
    """Whether a scene generator's checkpoint holds only the generator."""
    from scenetok_ns.models.lightning_files import read_lightning
    from scenetok_ns.models.released_checkpoints import TOKENIZER_PREFIXES

    return not any(key.startswith(TOKENIZER_PREFIXES) for key in read_lightning(checkpoint))


def autoencoder_files(
    preset: Preset, given: dict[str, Path | None], found: Callable[[Path | None, str, str], Path | None]
) -> dict[str, Path | None]:
    """Map each role ("context", "target") to the absolute path of its weights; None if the autoencoder has none.

    `found` finds a file from the given path, the published name and the option. Raises CheckpointError for files that
    are given though the preset does not use them.
    """
    used = {preset.context_autoencoder.name, preset.target_autoencoder.name}
    for name, path in given.items():
        if path is not None and name not in used:
            raise CheckpointError(f"preset {preset.name} does not use {name}: leave out {path}")
    released = files_of(preset)
    files: dict[str, Path | None] = {}
    for role, config in (("context", preset.context_autoencoder), ("target", preset.target_autoencoder)):
        path = None
        if role in released:
            option = f"--{config.name.replace('_', '-')}"
            path = found(given[config.name], released[role].name, option)  # type: ignore[index]
        files[role] = None if path is None else path.absolute()
    return files
