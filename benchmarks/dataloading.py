"""Measure the samples per second of the data manager alone, from latents and photographs, by number of workers.

    python benchmarks/dataloading.py [--preset re10k] [--batch-size 32] [--workers 1 4 16] [--seconds 3]
        [--sources latents photographs] [--data RE10K] [--output FILE.json]

The calls are the same as in training: batches of the preset's views in the order of steps, pinned if there is a GPU.
Without --data, photographs of 640 x 360 pixels and latents of the preset's sizes are generated in a temporary folder.
These files are in memory, so the figures measure decoding and collating, not a disk.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

from scenetok_ns.data.demo.writer import DemoScene, write_re10k
from scenetok_ns.data.precomputed.latent_files import LatentFile, latent_path
from scenetok_ns.models.autoencoders.registry import latent_space
from scenetok_ns.models.presets import Preset, load_preset
from scenetok_ns.plugin.datamanager import SceneTokDataManagerConfig

FRAMES, SIZE = 64, (360, 640)
SCENES = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="re10k")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--sources", nargs="+", default=["latents", "photographs"], choices=("latents", "photographs"))
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--data", type=Path, help="a RealEstate10K folder with train and test; default: generated")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    preset = load_preset(options.preset)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = options.data or make_photographs(folder / "photographs", preset)
        latents = make_latents(folder, data, preset)
        for source in options.sources:
            fields = latents if source == "latents" else {}
            for workers in options.workers:
                speed = measure(options, data, workers, fields)
                rows.append({"from": source, "workers": workers, "samples_per_second": speed})
                print(f"{source}, {workers} workers: {speed:.1f} samples/s", flush=True)
    table = Table(title=f"data manager, preset {preset.name}, batch {options.batch_size}, {os.cpu_count()} cores")
    for column in ("from", "workers", "samples/s"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(row["from"], str(row["workers"]), f"{row['samples_per_second']:.1f}")
    Console().print(table)
    if options.output is not None:
        figures = {"preset": preset.name, "batch_size": options.batch_size, "cores": os.cpu_count(), "rows": rows}
        options.output.write_text(json.dumps(figures, indent=1))


def measure(options: argparse.Namespace, data: Path, workers: int, fields: dict[str, Path]) -> float:
    """Measure samples per second, after every worker has delivered a batch."""
    config = SceneTokDataManagerConfig(
        data=data, preset=options.preset, batch_size=options.batch_size, num_workers=workers, **fields
    )
    manager = config.setup(device="cuda" if torch.cuda.is_available() else "cpu", test_mode="val")
    step = 0
    for _ in range(max(workers, 1)):
        manager.next_train(step)
        step += 1
    first, begin = step, time.perf_counter()
    while time.perf_counter() - begin < options.seconds or step - first < workers:
        manager.next_train(step)
        step += 1
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (step - first) * options.batch_size / (time.perf_counter() - begin)


def make_photographs(folder: Path, preset: Preset) -> Path:
    write_re10k(folder / "train", scenes("train", SCENES), lambda: None)
    write_re10k(folder / "test", scenes("test", 1), lambda: None)
    return folder


def scenes(split: str, count: int) -> Iterator[DemoScene]:
    """Yield walks whose pictures are smooth noise."""
    generator = torch.Generator().manual_seed(0)
    c2w = torch.eye(4).repeat(FRAMES, 1, 1)
    c2w[:, 2, 3] = torch.linspace(0, 2, FRAMES)
    intrinsics = torch.tensor([[0.5, 0, 0.5], [0, 0.9, 0.5], [0, 0, 1]])
    for number in range(count):
        coarse = torch.rand((FRAMES, 3, SIZE[0] // 8, SIZE[1] // 8), generator=generator)
        smooth = F.interpolate(coarse, SIZE, mode="bilinear") * 255
        yield DemoScene(f"{split}{number:03d}", smooth.byte().permute(0, 2, 3, 1).contiguous(), c2w, intrinsics)


def make_latents(folder: Path, data: Path, preset: Preset) -> dict[str, Path]:
    """Write latents of noise, with the sizes of both autoencoders, for the training scenes of `data`."""
    keys = list(json.loads((data / "train" / "index.json").read_text()))
    side = preset.data.image_size
    made = {}
    for role, autoencoder in (("context", preset.context_autoencoder), ("target", preset.target_autoencoder)):
        space = latent_space(autoencoder)
        chunks = FRAMES // space.layout.frames_per_chunk
        shape = (chunks * space.layout.latents_per_chunk, space.channels, *space.latent_size((side, side)))
        frames = chunks * space.layout.frames_per_chunk
        c2w, intrinsics = torch.eye(4).repeat(frames, 1, 1), torch.eye(3).repeat(frames, 1, 1)
        c2w[:, 2, 3] = torch.linspace(0, 2, frames)
        file = LatentFile(torch.randn(shape), c2w, intrinsics)
        made[f"{role}_latents"] = root = folder / role
        for key in keys:
            path = latent_path(root, "train", 1, key, flipped=False)
            path.parent.mkdir(parents=True, exist_ok=True)
            file.save(path)
    return made


if __name__ == "__main__":
    main()
