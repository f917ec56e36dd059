"""What commands that write token files share: a run's pipeline, and the file."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int64
from rich.console import Console
from torch import Tensor

from scenetok_ns.data.scenes import Scene
from scenetok_ns.models.tokens import SceneTokens
from scenetok_ns.tools.printing import command
from scenetok_ns.tools.run_files import CHECKPOINTS, CONFIG

if TYPE_CHECKING:
    from scenetok_ns.plugin.pipeline import SceneTokPipeline
    from scenetok_ns.plugin.run_folder import RunFolderConfig


def check_token_file(output: Path) -> None:
    if output.suffix != ".safetensors":
        raise ValueError(f"--output: token files end in .safetensors, got {output.name}")


def load_run(config: RunFolderConfig, checkpoints: Path | None, console: Console) -> SceneTokPipeline:
    """The pipeline with the latest checkpoint of a folder; None: with the weights that come with the package."""
    from scenetok_ns.training.checkpoints import checkpoint_path, read_checkpoint

    with console.status("loading the model"):
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        pipeline = config.pipeline.setup(device=device, test_mode="inference").eval()
        if checkpoints is not None:
            state = read_checkpoint(checkpoint_path(checkpoints))
            pipeline.load_pipeline(state["pipeline"], state["step"])
    return pipeline


def with_sources(tokens: SceneTokens, scene: Scene, indices: Int64[Tensor, " v"]) -> SceneTokens:
    """The tokens with the digests of the photographs that they are made from."""
    photographs = scene.load_images(indices)
    digests = tuple(hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in photographs)
    return replace(tokens, scene=scene.key, sources=digests)


def write_tokens(
    tokens: SceneTokens, output: Path, dtype: str, run: Path, console: Console, *, run_folder: bool
) -> None:
    """Save tokens and tell how to look at them; `run_folder`: make the run folder that shows them, beside the file."""
    tokens.save(output, getattr(torch, dtype))
    count, size = tokens.mean.shape
    console.print(f"{output}: {count} tokens of {size} numbers, {output.stat().st_size:,} bytes", soft_wrap=True)
    folder = output.with_suffix("")
    if not run_folder or not free_for(folder, output):
        there = f"{folder}, where a run folder would be made, is not free. " if run_folder else ""
        opening = command("scenetok", "open", run, "--tokens", output, "--output", "RUN2")
        console.print(f"{there}Show it with\n  {opening}", soft_wrap=True)
        return
    shutil.rmtree(folder, ignore_errors=True)
    from scenetok_ns.cli.open_run import open_run

    open_run(run, folder, tokens=output)


def free_for(folder: Path, tokens: Path) -> bool:
    """Whether a run folder for a token file may be made here: there is none, or one that was made for the same file."""
    if not folder.exists():
        return True
    if not folder.is_dir() or {path.name for path in folder.iterdir()} != {CONFIG, CHECKPOINTS}:
        return False
    from scenetok_ns.bridge.run_configs import read_run

    try:
        return read_run(folder).data == tokens.absolute()
    except (ValueError, OSError):
        return False
