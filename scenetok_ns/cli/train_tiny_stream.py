"""`scenetok train-tiny-stream`."""

from __future__ import annotations

from typing import Annotated

import tyro

from scenetok_ns.cli.training_results import print_files, show_log
from scenetok_ns.training.tiny.student import StudentOptions, run_training


def train_tiny_stream(options: Annotated[StudentOptions, tyro.conf.arg(name="")]) -> None:
    """Train a few-step student of the embedded model for streams, on demo rooms rendered on the fly (use a GPU).

    Under torchrun, processes share the work. `benchmarks/streaming.py` measures the student.
    """
    show_log()
    run_training(options)
    print_files("student.safetensors, log.jsonl and figures.json", options.output)
