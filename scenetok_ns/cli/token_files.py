"""Helpers of commands that write token files."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Int64
from rich.console import Console
from torch import Tensor

from scenetok_ns.cli.run_options import RunChanges
from scenetok_ns.cli.runs import write_run
from scenetok_ns.data.scenes import Scene
from scenetok_ns.models.tokens import SceneTokens, is_token_file
from scenetok_ns.tools.errors import UsageError
from scenetok_ns.tools.own_files import check_replaceable
from scenetok_ns.tools.printing import command
from scenetok_ns.tools.run_files import CHECKPOINTS, CONFIG


def check_token_file(output: Path) -> None:
    """Check that a token file may be written under this name.

    Raises:
        UsageError: The name has another ending.
        FileExistsError: A file of another kind has this name.
    """
    if output.suffix != ".safetensors":
        raise UsageError(f"--output: token files end in .safetensors, got {output.name}")
    check_replaceable(output, is_token_file, "a token file")


def with_sources(tokens: SceneTokens, scene: Scene, indices: Int64[Tensor, " v"]) -> SceneTokens:
    """Add the scene's name and the SHA-256 of the photographs at `indices`, from which the tokens are made."""
    photographs = scene.load_images(indices)
    digests = tuple(hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in photographs)
    return replace(tokens, scene=scene.key, sources=digests)


def write_tokens(
    tokens: SceneTokens, output: Path, dtype: str, run: Path, console: Console, *, run_folder: bool
) -> None:
    """Save tokens and print how to display them.

    Args:
        tokens: Tokens of one scene.
        output: Token file to write.
        dtype: Name of the torch dtype of the numbers in the file.
        run: The run that made the tokens, as on the command line.
        console: Console to print on.
        run_folder: Also create a run folder that displays them, named like the file without its ending.
    """
    tokens.save(output, getattr(torch, dtype))
    count, size = tokens.mean.shape
    console.print(f"{output}: {count} tokens of {size} numbers, {output.stat().st_size:,} bytes", soft_wrap=True)
    folder = output.with_suffix("")
    if not run_folder or not is_free(folder, output):
        occupied = f"{folder}, where a run folder would be created, is not free. " if run_folder else ""
        opening = command("scenetok", "new-run", run, "--tokens", output, "--output", "RUN2")
        console.print(f"{occupied}Show it with\n  {opening}", soft_wrap=True)
        return
    from scenetok_ns.plugin.run_folder import derive_run

    shutil.rmtree(folder, ignore_errors=True)
    derived = derive_run(run, folder)
    RunChanges(tokens=(output,)).apply(derived.config)
    write_run(derived, folder, console)


def is_free(folder: Path, tokens: Path) -> bool:
    """Whether a run folder may be created here: the path is free, or holds a run folder for the same token file."""
    if not folder.exists():
        return True
    if not folder.is_dir() or {path.name for path in folder.iterdir()} != {CONFIG, CHECKPOINTS}:
        return False
    from scenetok_ns.bridge.run_configs import read_run

    try:
        return read_run(folder).data == tokens.absolute()
    except (ValueError, OSError):
        return False
