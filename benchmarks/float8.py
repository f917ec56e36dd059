"""Compare the small model's loss with FP8 and with bfloat16 products, in two equal trainings from the same seed.

    python benchmarks/float8.py [--steps 1000] [--batch-size 128] [--scenes 1000] [--preset FILE] [--output float8]
        [--only bfloat16 FP8]

Trains scenetok-tiny on demo rooms (`scenetok train-tiny`), first in bfloat16, then with --float8. A third training in
bfloat16 from another seed shows how much chance alone changes. Prints the loss and a held-out figure along the steps.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from scenetok_ns.models.weight_files import embedded_weights
from scenetok_ns.training.tiny.options import LOG
from scenetok_ns.training.tiny.stages import TinyOptions, run_training

RUNS: dict[str, dict[str, Any]] = {
    "bfloat16": {},
    "FP8": {"float8": True},
    "bfloat16, another seed": {"seed": 1},
}


def curve(folder: Path, options: TinyOptions) -> list[dict[str, Any]]:
    """Return the lines of a training's log that have a loss. A training that is already complete is not repeated."""
    if not (folder / "tokens.safetensors").exists():
        run_training(replace(options, output=folder))
    lines = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
    return [line for line in lines if line["stage"] == "tokens" and "loss" in line]


def table_of(curves: dict[str, list[dict[str, Any]]]) -> Table:
    """Create a table with a row for each report and the figures of all trainings side by side."""
    table = Table(title="loss and a held-out figure")
    table.add_column("step", justify="right")
    first = next(iter(curves.values()))
    known = {"stage", "step", "seconds", "samples_per_second", "done"}
    names = [name for name in first[-1] if name not in known][:2]  # the loss and one figure; the logs hold the others
    for name in ("samples_per_second", *names):
        for run in curves:
            table.add_column(f"{name}, {run}", justify="right")
    for lines in zip(*curves.values(), strict=False):
        cells = [f"{line[name]:.4g}" for name in ("samples_per_second", *names) for line in lines]
        table.add_row(str(lines[0]["step"] + 1), *cells)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--output", type=Path, default=Path("float8"), help="folder of the three trainings")
    parser.add_argument("--only", nargs="+", default=list(RUNS), choices=list(RUNS), help="trainings; default: all")
    parser.add_argument("--preset", default="scenetok-tiny", help="name or file; its codec is the embedded one")
    args = parser.parse_args()
    every = max(args.steps // 10, 1)
    options = TinyOptions(
        output=args.output,
        preset=args.preset,
        codec_steps=0,
        token_steps=args.steps,
        batch_size=args.batch_size,
        report_every=every,
    )
    # Scenes are not renewed, so that all trainings see the same scenes.
    codec = embedded_weights("scenetok-tiny")
    options = replace(options, num_scenes=args.scenes, renew=0, resume_codec=codec)
    curves = {}
    for name in args.only:
        changes = RUNS[name]
        folder = args.output / name.replace(", ", "-").replace(" ", "-")
        curves[name] = curve(folder, replace(options, **changes))
        Console(width=200).print(table_of(curves))  # after each training: a killed run leaves a table


if __name__ == "__main__":
    main()
