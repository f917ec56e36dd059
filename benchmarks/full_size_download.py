"""Download files of full size from a server on this machine with interruptions, import them, open the run, and compare.

    python benchmarks/full_size_download.py [--preset re10k] [--kills 5] [--folder DIR] [--output FILE.json]

Creates files with the preset's tensors as random numbers, under the published names (3 to 8 GB, removed afterwards; the
disk needs three times that). Serves them, kills `scenetok download PRESET --output RUN` (kill -9) after evenly spread
amounts of data, lets it finish, and opens the run as Nerfstudio's tools do. Every file and every tensor must be equal.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from import_memory import COMMAND, run, write_autoencoder, write_checkpoint
from rich.console import Console
from rich.table import Table

from scenetok_ns.models.autoencoders.registry import weights_file
from scenetok_ns.models.presets import load_preset
from scenetok_ns.models.released_checkpoints import GENERATOR_PREFIX, expected_tensors
from scenetok_ns.models.tokens import SceneTokens
from scenetok_ns.tools.digests import sha256_of

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from support.file_server import PIECE, FileServer, serving

COPIES = 3
"""Number of copies that the disk must hold: the files, their download and the run."""
OPEN = """
import sys, torch
from pathlib import Path
from nerfstudio.utils.eval_utils import eval_setup
networks = eval_setup(Path(sys.argv[1]), test_mode="inference")[1].model.scenetok.state_dict()
given = {}
for file in sys.argv[2:]:
    given |= torch.load(file, mmap=True, weights_only=True)["state_dict"]
assert networks.keys() == given.keys()
different = [key for key in given if not torch.equal(networks[key].cpu(), given[key])]
assert not different, different[:3]
print(len(given))
"""


def write_files(preset_name: str, folder: Path) -> list[Path]:
    """Write the checkpoints and autoencoders of a preset. Returns their paths, checkpoints first."""
    preset = load_preset(preset_name)
    assert preset.checkpoint is not None, f"no checkpoint of {preset_name} was released"
    tensors = expected_tensors(preset)
    generator = {key: tensor for key, tensor in tensors.items() if key.startswith(GENERATOR_PREFIX)}
    tokenizer = {key: tensor for key, tensor in tensors.items() if key not in generator}
    files = [folder / preset.checkpoint]
    write_checkpoint(files[0], generator or tokenizer, random=True)
    if preset.tokenizer_checkpoint is not None:
        files.append(folder / preset.tokenizer_checkpoint)
        write_checkpoint(files[1], tokenizer, random=True)
    autoencoders = (preset.context_autoencoder, preset.target_autoencoder)
    return files + [write_autoencoder(folder, config) for config in autoencoders if weights_file(config) is not None]


class Counter:
    """Counts the bytes that a server has sent, and lets a caller wait for a number of them."""

    def __init__(self) -> None:
        self.sent, self._limit, self._then = 0, float("inf"), threading.Event()
        self._lock = threading.Lock()

    def __call__(self, place: int) -> None:
        with self._lock:
            self.sent += PIECE
            if self.sent >= self._limit:
                self._then.set()

    def wait(self, limit: float) -> None:
        """Return when `limit` bytes have been sent in all."""
        self._limit = limit
        self._then.clear()
        while self.sent < limit and not self._then.wait(1.0):
            pass


def download(words: list[Any], environment: dict[str, str], until: Callable[[], None] | None) -> float:
    """Run the command to its end, or kill it when `until` returns. Returns the seconds that it ran."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *map(str, words)], env=environment, stderr=subprocess.PIPE, text=True
    )
    if until is not None:
        until()
        process.kill()
    _, said = process.communicate()
    expected = -signal.SIGKILL if until is not None else 0
    if process.returncode != expected:
        raise RuntimeError(f"the download ended with {process.returncode}, expected {expected}: {said[-2000:]}")
    return time.perf_counter() - start


def measure(preset: str, kills: int, root: Path) -> dict[str, Any]:
    for name in ("files", "to"):
        (root / name).mkdir()
    files = write_files(preset, root / "files")
    size = sum(path.stat().st_size for path in files)
    if (free := shutil.disk_usage(root).free) < (COPIES - 1) * size:
        raise RuntimeError(f"{root} has {free:,} bytes free, {(COPIES - 1) * size:,} are needed")
    environment = {**os.environ, "XDG_CACHE_HOME": str(root / "cache")}
    served = {path.name: path for path in files}
    digests = {path.name: sha256_of(path) for path in files}
    counter, parts, seconds = Counter(), [], 0.0
    with serving(served, on_piece=counter) as server:
        words = ["download", preset, "--mirror", server.address, "--to", root / "to", "--output", root / "run"]
        for number in range(kills):
            limit = size * (number + 0.5) / kills
            seconds += download(words, environment, lambda limit=limit: counter.wait(limit))
            parts.append(sum(path.stat().st_size for path in (root / "to").iterdir() if path.suffix != ".json"))
        seconds += download(words, environment, None)
        requests = describe(server)
    for name, digest in digests.items():
        assert sha256_of(root / "to" / name) == digest, name
    left = sorted(path.name for path in (root / "to").iterdir() if path.name not in served)
    assert not left, left
    opened = open_run(preset, root, [path for path in files if path.suffix == ".ckpt"])
    return {
        "preset": preset, "files": len(files), "bytes": size, "kills": kills, "bytes_at_kills": parts,
        "bytes_sent": counter.sent, "seconds": seconds, "requests": requests, **opened,
    }  # fmt: skip


def describe(server: FileServer) -> list[str]:
    """List the ranges of the requests, in order."""
    return [f"{path} {headers.get('Range', 'whole')}" for method, path, headers in server.requests if method == "GET"]


def open_run(preset_name: str, root: Path, checkpoints: list[Path]) -> dict[str, Any]:
    """Open the run with a scene of tokens, as ns-viewer, ns-render and ns-eval do, and compare every tensor."""
    preset, start = load_preset(preset_name), time.perf_counter()
    shape = preset.compressor.num_tokens, preset.compressor.token_dim
    SceneTokens(torch.randn(shape), torch.eye(4), preset=preset.name).save(root / "scene.safetensors")
    words = ["open", root / "run", "--tokens", root / "scene.safetensors", "--output", root / "shown"]
    run(sys.executable, "-c", COMMAND, *words)
    tensors = run(sys.executable, "-c", OPEN, root / "shown" / "config.yml", *checkpoints).split()[-1]
    return {"equal_tensors": int(tensors), "opening_seconds": time.perf_counter() - start}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="re10k", help="a preset without Wan, whose published hash cannot be met")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to write the files (default: temporary)")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        row = measure(options.preset, options.kills, Path(folder))
    table = Table("preset", "files", "GiB", "kills", "GiB sent", "seconds with import", "equal tensors")
    sizes = [f"{row[name] / 2**30:.2f}" for name in ("bytes", "bytes_sent")]
    numbers = [sizes[0], str(row["kills"]), sizes[1], f"{row['seconds']:.0f}", str(row["equal_tensors"])]
    table.add_row(row["preset"], str(row["files"]), *numbers)
    Console().print(table)
    if options.output is not None:
        options.output.write_text(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
