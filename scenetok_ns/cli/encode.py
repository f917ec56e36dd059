"""`scenetok encode`."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console

from scenetok_ns.data.scenes import DataError


def encode(
    run: Path,
    output: Path,
    data: Path | None = None,
    scene: str | None = None,
    num_context: int | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
) -> None:
    """Write the tokens of a scene to a file, from which it can be shown without its photographs.

    Args:
        run: Run folder with the model (or its config.yml).
        output: The token file to write (.safetensors).
        data: Data set with the scene; default: the run's.
        scene: Name of the evaluation scene; default: the run's, or the first.
        num_context: Number of photographs to encode; default: the run's.
        dtype: Of the numbers in the file; bfloat16 halves it at no visible loss.
    """
    if output.suffix != ".safetensors":
        raise ValueError(f"--output: token files end in .safetensors, got {output.name}")
    from scenetok_ns.cli.open_run import positive, show_data, show_scene
    from scenetok_ns.run_folder import derive_run
    from scenetok_ns.scenetok_trainer import checkpoint_path, read_checkpoint

    config, checkpoints = derive_run(run, output)
    if data is not None:
        show_data(config, data)
    if scene is not None:
        show_scene(config, scene)
    if num_context is not None:
        config.pipeline.datamanager.num_context = positive("--num-context", num_context)
    console = Console(stderr=True)
    with console.status("loading the model"):
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        pipeline = config.pipeline.setup(device=device, test_mode="inference").eval()
        state = read_checkpoint(checkpoint_path(checkpoints))
        pipeline.load_pipeline(state["pipeline"], state["step"])
    datamanager = pipeline.datamanager
    shown = datamanager.evaluation_scene(datamanager.active_scene)
    if datamanager.stored_tokens(shown.number) is not None:
        raise DataError(f"{datamanager.config.data} is a token file already; give --data with photographs")
    with console.status(f"encoding {len(shown.context)} photographs of {shown.scene.key}"):
        photographs = shown.scene.load_images(shown.context)
        sources = tuple(hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in photographs)
        tokens = replace(pipeline.model.tokens_of(shown.number), scene=shown.scene.key, sources=sources)
    tokens.save(output, getattr(torch, dtype))
    count, size = tokens.mean.shape
    console.print(
        f"{output}: {count} tokens of {size} numbers, {output.stat().st_size:,} bytes. Show it with\n"
        f"  scenetok open {run} --tokens {output} --output RUN2"
    )
