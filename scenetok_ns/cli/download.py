"""`scenetok download`."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import tyro
from rich.console import Console

from scenetok_ns.models.presets import Preset, load_preset, preset_names
from scenetok_ns.models.released_files import RELEASED_FILES, HubFile, ReleasedFile, Role, files_of, weights_folder
from scenetok_ns.tools.download_records import record, recorded
from scenetok_ns.tools.downloads import (
    DownloadError,
    check_space,
    clear_finished,
    free_space,
    looks_like_text,
    part_size,
    readable,
)
from scenetok_ns.tools.errors import UsageError
from scenetok_ns.tools.printing import command, plain_console


def download(
    preset: Annotated[str | None, tyro.conf.Positional] = None,
    to: Path | None = None,
    output: Path | None = None,
    data: Path | None = None,
    mirror: str | None = None,
    accept_changed: bool = False,
    list_files: Annotated[bool, tyro.conf.arg(name="list")] = False,
    dry_run: bool = False,
) -> None:
    """Download the released files of a preset, and create a run folder for ns-viewer, ns-render and ns-eval.

    Run the same command again to continue after an interruption; complete files are not downloaded twice. Files on
    the Hugging Face Hub are downloaded with its own library, so HF_HOME, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE work
    as usual.

    Args:
        preset: Name of the preset, such as re10k, dl3dv-shift8, dl3dv-wan-shift4 or scenegen-shift4.
        to: Folder for the files. Default: the Hub's cache for its files, the user's cache for the others.
        output: Run folder to create. Without it the files are downloaded and the import command is printed.
        data: Data set for the run to show and evaluate (with --output).
        mirror: Address of your own server that has the files under their names; no other server is then contacted.
        accept_changed: Accept a file that differs from the one that was first downloaded on this machine.
        list_files: List the released files, of the preset or all, with sizes and licences. Downloads nothing.
        dry_run: Print what would be downloaded, and where to. Downloads nothing.
    """
    console = plain_console()
    if list_files:
        print_files(console, RELEASED_FILES if preset is None else tuple(needed_files(preset).values()))
        return
    if mirror is not None and not mirror.startswith(("http://", "https://")):
        raise UsageError(f"--mirror must be an address such as http://server/weights, got {mirror!r}")
    if preset is None:
        known = ", ".join(name for name in preset_names() if files_of(load_preset(name)))
        raise ValueError(f"name a preset to download, or list all files with --list; presets: {known}")
    if mirror is not None:
        check_mirror(mirror)
    wanted = {role: Wanted(file, to, mirror) for role, file in needed_files(preset).items()}
    check_output(load_preset(preset), output, data)
    for file in wanted.values():
        console.print(file.described(), soft_wrap=True)
    missing = [file for file in wanted.values() if file.found() is None]
    if dry_run:
        print_total(console, missing)
        return
    for folder in {file.space for file in missing}:
        there = [file for file in missing if file.space == folder]
        check_space(folder, sum(file.remaining() for file in there), ", ".join(file.file.name for file in there))
    paths: dict[Role, Path] = {}
    for role, file in wanted.items():
        try:
            paths[role] = file.obtained(accept_changed)
        except DownloadError as error:
            others = [other for other in missing if other is not file and other.found() is None]
            also = ", ".join(f"{other.file.name} ({other.page})" for other in others)
            raise DownloadError(f"{error}. Also missing: {also}" if also else str(error)) from error
    if output is None:
        print_next(console, preset, paths)
        return
    from scenetok_ns.cli.imported_runs import make_run

    weights: dict[str, Path | None] = {role: paths.get(role) for role in ("context", "target")}  # type: ignore[call-overload]
    make_run(preset, paths["checkpoint"], paths.get("tokenizer"), weights, output, data)


def check_mirror(address: str) -> None:
    """Raise UsageError for an invalid address."""
    try:
        parts = urlsplit(address)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise UsageError(f"--mirror: expected an address such as https://example.org/files, got {address!r}")


def needed_files(preset: str) -> dict[Role, ReleasedFile]:
    """The released files of a preset. Raises ValueError if it needs none."""
    files = files_of(load_preset(preset))
    if not files:
        raise ValueError(f"preset {preset} comes with the package: there is nothing to download")
    return files


def check_output(preset: Preset, output: Path | None, data: Path | None) -> None:
    """Raise ValueError or OSError before the download if the import after it cannot work."""
    from scenetok_ns.cli.imported_runs import check_places

    if output is None:
        if data is not None:
            raise ValueError("--data only works with --output")
        return
    if preset.checkpoint is None:
        raise ValueError(
            f"no checkpoint of preset {preset.name} was released: leave out --output to download its autoencoders, "
            "for training"
        )
    check_places(output, data)


PICKLED = (".ckpt", ".pt", ".pth")
"""Suffixes of files that torch.save writes."""
PICKLE_START = b"\x80"
"""First byte of a pickle."""


@dataclass(frozen=True)
class Wanted:
    """A released file, and where it is downloaded to."""

    file: ReleasedFile
    to: Path | None
    mirror: str | None

    @property
    def by_hub(self) -> bool:
        return isinstance(self.file.source, HubFile) and self.mirror is None

    @property
    def target(self) -> Path:
        """Path that the file is downloaded to, or can be copied to by hand. (The Hub's cache has paths of its own.)"""
        return (self.to or weights_folder()).absolute() / self.file.name

    @property
    def space(self) -> Path:
        """Folder on the disk that needs space for the file."""
        if not self.by_hub or self.to is not None:
            return self.target.parent
        from huggingface_hub import constants

        return Path(constants.HF_HUB_CACHE)

    @property
    def address(self) -> str:
        """Address that the file is downloaded from."""
        if self.mirror is not None:
            return f"{self.mirror.rstrip('/')}/{self.file.name}"
        source = self.file.source
        return self.page if isinstance(source, HubFile) else source.url

    @property
    def page(self) -> str:
        """Link for a browser."""
        from scenetok_ns.tools.hub_downloads import hub_page

        source = self.file.source
        if isinstance(source, HubFile):
            return hub_page(source.repository, self.file.name, source.revision)
        return source.link

    def found(self) -> Path | None:
        """The file, if it is on this machine already."""
        if self.target.is_file():
            return self.target
        source = self.file.source
        if not isinstance(source, HubFile) or not self.by_hub:
            return None
        from scenetok_ns.tools.hub_downloads import hub_cached

        return hub_cached(source.repository, self.file.name, source.revision, self.to)

    def problem(self, path: Path) -> str | None:
        """Why a file cannot be the released one, without reading all of it; None: it may be."""
        with path.open("rb") as file:
            if looks_like_text(file.read(64)):
                return "is a web page or a message, not the file"
        size = path.stat().st_size
        if self.file.size is not None and size != self.file.size:
            return f"has {size} bytes, the released file {self.file.size}"
        if self.file.sha256 is None and path.suffix in PICKLED and not _is_pytorch_file(path):
            return f"is not a whole PyTorch file ({size} bytes)"
        return None

    def remaining(self) -> int:
        """Number of bytes to download, as far as the file's size is known."""
        return max((self.file.size or self.file.about or 0) - part_size(self.target), 0)

    def described(self) -> str:
        """Text with the file's size, licence, source, target and state."""
        found, part = self.found(), part_size(self.target)
        problem = None if found is None else self.problem(found)
        state = problem or "there" if found else f"{readable(part)} of it there" if part else "to download"
        place = found or (self.target if self.to is not None or not self.by_hub else self.space)
        return f"{summary(self.file)}\n  from {self.address}\n  to   {place} ({state})"

    def obtained(self, accept_changed: bool) -> Path:
        """Download the file if necessary, and check it against its published or recorded facts. Raises
        DownloadError."""
        try:
            path = self.found() or self._download()
            clear_finished(path)
            self._check(path, accept_changed)
            return path
        except DownloadError as error:
            raise DownloadError(
                f"{self.file.name}: {error}. You can also get the file with a browser from {self.page} and put it at "
                f"{self.target}"
            ) from error

    def _download(self) -> Path:
        source = self.file.source
        if isinstance(source, HubFile) and self.by_hub:
            from scenetok_ns.tools.hub_downloads import hub_download

            return hub_download(source.repository, self.file.name, source.revision, self.to, self.file.size)
        if self.mirror is None and os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
            raise DownloadError("HF_HUB_OFFLINE is set and the file is not here: unset it or copy the file")
        from scenetok_ns.cli.imported_runs import byte_progress
        from scenetok_ns.tools.downloads import download as fetch

        console = plain_console(stderr=True)
        with byte_progress(console) as progress:
            task = progress.add_task(self.file.name, total=None)
            fetch(
                self.address,
                self.target,
                size=self.file.size,
                report=lambda done, total: progress.update(task, completed=done, total=total),
                notice=lambda line: console.print(f"{self.file.name}: {line}", soft_wrap=True),
            )
        return self.target

    def _check(self, path: Path, accept_changed: bool) -> None:
        """Compare a file with the published hash, or with that of its first download. Raises DownloadError."""
        from scenetok_ns.cli.imported_runs import progress_bars
        from scenetok_ns.tools.digests import remembered_sha256

        if (problem := self.problem(path)) is not None:
            raise DownloadError(f"{path} {problem}: remove it and try again")
        size = path.stat().st_size
        with progress_bars(plain_console(stderr=True)) as bar:
            digest = remembered_sha256(path, bar(f"SHA-256 of {self.file.name}", size))
        if self.file.sha256 is not None:
            if digest != self.file.sha256:
                raise DownloadError(
                    f"{path} is not the released file: its SHA-256 is {digest}, published is {self.file.sha256}; "
                    "remove it and try again"
                )
            return
        first = recorded(self.file.name)
        if first is None or accept_changed:
            record(self.file.name, digest, self.address)
        elif first["sha256"] != digest:
            raise DownloadError(
                f"{path} is not the file that was first downloaded here ({first['date']}): its SHA-256 is {digest}, "
                f"was {first['sha256']}; remove it and try again, or use --accept-changed if the authors replaced it"
            )


def _is_pytorch_file(path: Path) -> bool:
    """Whether a file looks like a complete file of torch.save: a zip archive, or the pickle of an early version."""
    with path.open("rb") as file:
        is_pickle = file.read(1) == PICKLE_START
    return is_pickle or zipfile.is_zipfile(path)


def summary(file: ReleasedFile) -> str:
    """Name, size and licence in one line."""
    if file.size is not None:
        size = readable(file.size)
    else:
        size = "size not published" if file.about is None else f"about {readable(file.about)}"
    return f"{file.name}: {size}; licence: {file.licence}"


def print_files(console: Console, files: tuple[ReleasedFile, ...]) -> None:
    """Print the known facts about released files."""
    for file in files:
        wanted = Wanted(file, None, None)
        known = f"\n  SHA-256 {file.sha256}" if file.sha256 else ""
        presets = ", ".join(file.presets)
        console.print(f"{summary(file)}\n  from {wanted.page}{known}\n  for  {presets}", soft_wrap=True)


def print_total(console: Console, missing: list[Wanted]) -> None:
    """Print how much is to be downloaded, how much space is free, and where files can be put by hand."""
    if not missing:
        return
    unknown = sum(file.file.size is None and file.file.about is None for file in missing)
    sizes = [f"about {readable(sum(file.remaining() for file in missing))}"] if unknown < len(missing) else []
    sizes += [f"{unknown} of unknown size"] if unknown else []
    console.print(f"{len(missing)} of the files to download: {' and '.join(sizes)}", soft_wrap=True)
    for folder in sorted({file.space for file in missing}):
        console.print(f"  {readable(free_space(folder))} free in {folder}", soft_wrap=True)
    places = ", ".join(sorted({str(file.target.parent) for file in missing}))
    console.print(
        f"  by hand: put files that you get with a browser into {places} (--to DIR: another folder)", soft_wrap=True
    )


def print_next(console: Console, preset: str, paths: dict[Role, Path]) -> None:
    """Print where the files are, and the command that imports them."""
    for path in paths.values():
        console.print(path, soft_wrap=True)
    if "checkpoint" not in paths:
        return
    described = load_preset(preset)
    names = {"context": described.context_autoencoder.name, "target": described.target_autoencoder.name}
    options: list[object] = ["--preset", preset, "--checkpoint", paths["checkpoint"]]
    for role, path in paths.items():
        if role != "checkpoint":
            options += [f"--{names.get(role, role).replace('_', '-')}", path]
    console.print(f"  {command('scenetok', 'import', *options, '--output', f'runs/{preset}')}", soft_wrap=True)
