"""Measure peak memory and time of `scenetok import` for a full-size checkpoint of each published preset.

    python benchmarks/import_memory.py [--preset NAME ...] [--folder DIR] [--random] [--render] [--output FILE.json]

Creates a file with the preset's keys in Lightning's format (3 to 8 GB on disk, removed afterwards), imports it in a
separate process, and prints a table: file size, peak memory of that process, their ratio, seconds. The ratio must not
exceed 1.3. Weights of autoencoders are random numbers under the published keys (tests/parity/keys).

--render then opens the run with random tokens and one denoising step, and lets ns-render render a picture of it.
"""

from __future__ import annotations

import argparse
import gzip
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
from safetensors.torch import save_file

from scenetok_ns.models.autoencoders.registry import weights_file
from scenetok_ns.models.presets import AutoencoderConfig, Preset, load_preset, preset_names
from scenetok_ns.models.released_checkpoints import GENERATOR_PREFIX, expected_tensors
from scenetok_ns.models.tokens import SceneTokens

PROMISE = 1.3
KEYS = Path(__file__).resolve().parents[1] / "tests" / "parity" / "keys"
INVENTORIES = {"vavae": "vavae", "video_dcae": "videodcae", "wan": "wan22vae"}
COMMAND = "import sys; from scenetok_ns.cli.main import entrypoint; entrypoint(sys.argv[1:])"
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


def write_autoencoder(folder: Path, config: AutoencoderConfig) -> Path:
    lines = gzip.decompress((KEYS / f"{INVENTORIES[config.name]}.keys.txt.gz").read_bytes()).decode().splitlines()
    shapes = {key: [int(n) for n in shape.split("x") if n] for key, shape, _ in (line.split("\t") for line in lines)}
    state = {key: 0.02 * torch.randn(shape) for key, shape in shapes.items()}
    name = weights_file(config)
    assert name is not None
    if name.endswith(".safetensors"):
        save_file(state, folder / name)
    else:
        torch.save(state, folder / name)
    return folder / name


def measure(name: str, folder: Path, random: bool, render: bool) -> dict[str, Any]:
    preset = load_preset(name)
    expected = expected_tensors(preset)
    generator = {key: tensor for key, tensor in expected.items() if key.startswith(GENERATOR_PREFIX)}
    tokenizer = {key: tensor for key, tensor in expected.items() if key not in generator}
    size = write_checkpoint(folder / "first.ckpt", generator or tokenizer, random)
    options: list[Any] = ["--preset", name, "--checkpoint", folder / "first.ckpt", "--output", folder / "run"]
    if generator:
        size += write_checkpoint(folder / "tokenizer.ckpt", tokenizer, random)
        options += ["--tokenizer", folder / "tokenizer.ckpt"]
    for config in (preset.context_autoencoder, preset.target_autoencoder):
        if weights_file(config) is not None:
            options += [f"--{config.name.replace('_', '-')}", write_autoencoder(folder, config)]
    memory, seconds = map(float, run(sys.executable, "-c", MEASURED, "import", *options).split()[-2:])
    row = {
        "preset": name,
        "tensors": len(expected),
        "file_bytes": size,
        "peak_bytes": memory,
        "ratio": memory / size,
        "seconds": seconds,
    }
    return row | (render_picture(preset, folder) if render else {})


def render_picture(preset: Preset, folder: Path) -> dict[str, Any]:
    start = time.perf_counter()
    shape = preset.compressor.num_tokens, preset.compressor.token_dim
    SceneTokens(torch.randn(shape), torch.eye(4), preset=preset.name).save(folder / "scene.safetensors")
    tokens = ["--tokens", folder / "scene.safetensors", "--steps", "1", "--output", folder / "shown"]
    run(sys.executable, "-c", COMMAND, "open", folder / "run", *tokens)
    pose = {"camera_to_world": [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1], "fov": 60, "aspect": 4 / 3}
    path = {
        "camera_type": "perspective",
        "render_height": 192,
        "render_width": 256,
        "seconds": 1,
        "camera_path": [pose],
    }
    (folder / "path.json").write_text(json.dumps(path))
    where = ["--load-config", folder / "shown" / "config.yml", "--camera-path-filename", folder / "path.json"]
    picture = ["--output-format", "images", "--image-format", "png", "--output-path", folder / "pictures"]
    run(Path(sys.executable).with_name("ns-render"), "camera-path", *where, *picture)
    (made,) = (folder / "pictures").glob("*.png")
    return {"render_seconds": time.perf_counter() - start, "picture_bytes": made.stat().st_size}


def run(*command: Any) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command[:4]))}: {done.stdout[-500:]} {done.stderr[-2000:]}")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    published = [name for name in preset_names() if load_preset(name).experiment or load_preset(name).checkpoint]
    parser.add_argument("--preset", nargs="*", default=published, help="presets to measure (default: all published)")
    parser.add_argument("--folder", type=Path, default=None, help="where to write the files (default: temporary)")
    parser.add_argument("--random", action="store_true", help="random numbers instead of zeros")
    parser.add_argument("--render", action="store_true", help="also let ns-render render a picture of the run")
    parser.add_argument("--output", type=Path, default=None, help="also write the table as JSON")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.preset:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            rows.append(measure(name, Path(folder), arguments.random, arguments.render))
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
