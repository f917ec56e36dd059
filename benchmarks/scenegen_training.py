"""Measure the samples per second of training a scene generator from photographs and from stored tokens, in one run.

    python benchmarks/scenegen_training.py --data DATA [--preset scenegen-tiny] [--tokenizer RUN] [--batch-size 8]
        [--batches 10] [--workers 2] [--context-weights FILE] [--output FILE.json]

Encodes the training scenes once (`scenetok encode --split train`), then takes the same number of training steps from
photographs and from tokens: reading and decoding, encoding, the generator's forward and backward pass.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from scenetok_ns.data.precomputed.token_jobs import TokenJob, compute_tokens
from scenetok_ns.data.precomputed.token_sets import TokenSettings
from scenetok_ns.models.presets import load_preset
from scenetok_ns.models.released_checkpoints import module_sha256
from scenetok_ns.plugin.methods import method_config
from scenetok_ns.plugin.pipeline import SceneTokPipeline
from scenetok_ns.training.tokenizer_weights import load_tokenizer

WARM_UP = 2


def pipeline_of(options: argparse.Namespace, tokens: Path | None) -> SceneTokPipeline:
    config = copy.deepcopy(method_config(load_preset(options.preset).method)).pipeline
    config.model.preset, config.model.context_weights = options.preset, options.context_weights
    manager = config.datamanager
    manager.data, manager.tokens = options.data, tokens
    manager.batch_size, manager.num_workers = options.batch_size, options.workers
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    pipeline = config.setup(device=device, test_mode="val")
    load_tokenizer(pipeline.model.scenetok, options.tokenizer)
    return pipeline.train()


def encode(pipeline: SceneTokPipeline, folder: Path) -> float:
    """Encode all training scenes to a folder of tokens. Returns the seconds."""
    model, preset = pipeline.model.scenetok, pipeline.model.preset
    settings = TokenSettings(
        preset=preset.name,
        compressor_sha256=module_sha256(model.compressor),
        image_size=preset.data.image_size,
        views=asdict(preset.data.views),
        random_flip=preset.data.random_flip,
        encodings=2,
        seed=0,
        dtype="float16",
    )
    begin = time.perf_counter()
    compute_tokens(TokenJob(folder, "train", pipeline.datamanager.training_source("train"), settings), model)
    return time.perf_counter() - begin


def measure(pipeline: SceneTokPipeline, batches: int) -> dict[str, float]:
    """Measure samples per second, and the fraction of the time that was spent waiting for data."""
    parameters = pipeline.get_param_groups()["networks"]
    waiting = begin = 0.0
    for step in range(batches + WARM_UP):
        if step == WARM_UP:
            synchronize()
            waiting, begin = 0.0, time.perf_counter()
        asked = time.perf_counter()
        batch, _ = pipeline.datamanager.next_train(step)
        waiting += time.perf_counter() - asked
        torch.autograd.grad(pipeline.model(batch)["loss"], parameters)
    synchronize()
    seconds = time.perf_counter() - begin
    samples = batches * pipeline.datamanager.batch_size
    return {"samples_per_second": samples / seconds, "waiting_for_data": waiting / seconds}


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--preset", default="scenegen-tiny")
    parser.add_argument("--tokenizer", type=Path, help="run or checkpoint; default: the weights in the package")
    parser.add_argument("--context-weights", type=Path, help="weights of the context autoencoder, if it needs some")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        pipeline = pipeline_of(options, None)
        rows["photographs"] = measure(pipeline, options.batches)
        seconds = encode(pipeline, Path(folder))
        rows["tokens"] = measure(pipeline_of(options, Path(folder)), options.batches)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    table = Table(title=f"preset {options.preset}, batch {options.batch_size}, {device}, torch {torch.__version__}")
    for column in ("from", "samples a second", "waiting for data"):
        table.add_column(column, justify="left" if column == "from" else "right")
    for name, row in rows.items():
        table.add_row(name, f"{row['samples_per_second']:.2f}", f"{row['waiting_for_data']:.0%}")
    Console().print(table)
    Console().print(f"The tokens took {seconds:.1f} s, once.")
    if options.output is not None:
        options.output.write_text(json.dumps({"device": device, "encoding_seconds": seconds, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
