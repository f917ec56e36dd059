"""Import of full-size checkpoints: peak memory and time of `scenetok import` for each published preset.

    python benchmarks/import_memory.py [--preset NAME ...] [--folder DIR] [--random] [--output FILE.json]

Makes a file with the preset's keys in Lightning's form (3 to 8 GB on disk, removed afterwards), imports it in its own
process, and prints a table: file size, peak memory of that process, their ratio, seconds. The promise is 1.3. Weights
of autoencoders are stood for by small files: an import reads of them nothing but the digest.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from scenetok_ns.models.autoencoders.registry import weights_file
from scenetok_ns.models.checkpoint import GENERATOR_PREFIX, expected_tensors
from scenetok_ns.models.presets import load_preset, preset_names

PROMISE = 1.3
MEASURED = """
import resource, sys, time
from scenetok_ns.cli.main import entrypoint
start = time.perf_counter()
entrypoint(sys.argv[1:])
seconds = time.perf_counter() - start
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, seconds)
"""


def write_checkpoint(path: Path, tensors: dict[str, torch.Tensor], random: bool) -> int:
    make = torch.randn if random else torch.zeros
    state = {key: make(tensor.shape) for key, tensor in tensors.items()}
    records: dict[str, Any] = {"epoch": 0, "global_step": 1, "loops": {}, "callbacks": {}, "lr_schedulers": []}
    torch.save({"state_dict": state, "pytorch-lightning_version": "2.5.0", **records}, path)
    return path.stat().st_size


def measure(name: str, folder: Path, random: bool) -> dict[str, Any]:
    preset = load_preset(name)
    expected = expected_tensors(preset)
    generator = {key: tensor for key, tensor in expected.items() if key.startswith(GENERATOR_PREFIX)}
    tokenizer = {key: tensor for key, tensor in expected.items() if key not in generator}
    size = write_checkpoint(folder / "first.ckpt", generator or tokenizer, random)
    options = ["--preset", name, "--checkpoint", folder / "first.ckpt", "--output", folder / "run"]
    if generator:
        size += write_checkpoint(folder / "tokenizer.ckpt", tokenizer, random)
        options += ["--tokenizer", folder / "tokenizer.ckpt"]
    for config in (preset.context_autoencoder, preset.target_autoencoder):
        if weights_file(config) is not None:
            (folder / config.name).write_bytes(b"weights")
            options += [f"--{config.name.replace('_', '-')}", folder / config.name]
    start = time.perf_counter()
    command = [sys.executable, "-c", MEASURED, "import", *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr.strip().splitlines()[-1]}")
    memory, seconds = map(float, done.stdout.split()[-2:])
    return {
        "preset": name,
        "tensors": len(expected),
        "file_bytes": size,
        "peak_bytes": memory,
        "ratio": memory / size,
        "seconds": seconds,
        "seconds_with_start": time.perf_counter() - start,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    published = [name for name in preset_names() if load_preset(name).experiment or load_preset(name).checkpoint]
    parser.add_argument("--preset", nargs="*", default=published, help="presets to measure (default: all published)")
    parser.add_argument("--folder", type=Path, default=None, help="where to write the files (default: temporary)")
    parser.add_argument("--random", action="store_true", help="random numbers in place of zeros")
    parser.add_argument("--output", type=Path, default=None, help="also write the table as JSON")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.preset:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            rows.append(measure(name, Path(folder), arguments.random))
        row = rows[-1]
        print(f"{name}: {row['peak_bytes'] / 2**30:.2f} GiB for {row['file_bytes'] / 2**30:.2f} GiB", file=sys.stderr)
    table = Table("preset", "file GiB", "peak memory GiB", "ratio", "seconds")
    for row in rows:
        numbers = row["file_bytes"] / 2**30, row["peak_bytes"] / 2**30, row["ratio"], row["seconds"]
        table.add_row(row["preset"], *(f"{number:.2f}" for number in numbers))
    Console().print(table)
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(rows, indent=2))
    if any(row["ratio"] > PROMISE for row in rows):
        sys.exit(f"more than {PROMISE} times the file's size")


if __name__ == "__main__":
    main()
