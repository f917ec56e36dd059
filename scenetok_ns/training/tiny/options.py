"""Options that all trainings of embedded models share, and their checks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from scenetok_ns.data.demo.pool import SCENES_AT_A_TIME
from scenetok_ns.tools.errors import UsageError

LOG = "log.jsonl"
"""The first file that a training writes; a folder that has one is a training's."""
CODEC = "conv"
"""The autoencoder that is trained here, by its name in presets."""
FEWEST_FRAMES = 24
"""Minimum number of frames of a scene, from which training and evaluation take views."""


@dataclass
class RunOptions:
    """Options of all trainings."""

    output: Path
    """Folder for weights, log.jsonl, figures.json and pictures."""
    seconds: float = 1e9
    """End training after this long; learning rates and stages are planned for whichever end comes first."""
    batch_size: int = 128
    """Number of samples of one process in one step."""
    learning_rate: float = 1e-3
    """Peak; warmed up over `warmup` steps and brought down along a cosine to `final_rate` of it."""
    final_rate: float = 0.01
    warmup: int = 300
    average: float = 0.999
    """Decay of the EMA weights, which are the ones that are saved."""
    num_scenes: int = 6000
    """Number of scenes held at once; `renew` of them are replaced every 50 steps."""
    renew: int = SCENES_AT_A_TIME
    frames: int = 48
    """Number of frames of a scene."""
    first_scene: int = 0
    """Number of scenes of training that are skipped: a later part of a training names those that earlier parts used."""
    photographs: Path | None = None
    """Folder of panoramas (PNG or JPEG, longitude along the width) that most training rooms show. Check their
    licences: a model card has to name them."""
    report_every: int = 500
    muon: bool = False
    """Muon in place of AdamW for the matrices of the blocks."""
    compile: bool | None = None
    """Compile the renderer of the scenes with torch.compile (half a minute; then several times as fast). None: on a
    GPU, if training is long enough."""
    fused: bool | None = None
    """Run the blocks on the kernels of models/fused. None: on a GPU, if the kernels fit."""
    float8: bool = False
    """Run products of these blocks in FP8 (Ada, Hopper or newer). Experimental: changes the loss."""
    cuda_graph: bool | None = None
    """Record a step once and replay it: the host then launches one graph instead of thousands of kernels. None: on a
    GPU, for each kind of step that the memory has room for."""
    seed: int = 0
    device: str = "cuda" if torch.cuda.is_available() else "cpu"


def check_options(options: RunOptions) -> None:
    """Raise UsageError for an option that no training can have."""
    least = {"batch_size": 1, "num_scenes": 1, "renew": 0, "frames": FEWEST_FRAMES, "steps": 0}
    least |= {"codec_steps": 0, "token_steps": 0, "codec_batch_size": 1}
    for name, smallest in least.items():
        if (value := getattr(options, name, smallest)) < smallest:
            raise UsageError(f"--{name.replace('_', '-')} must be at least {smallest}, got {value}")
    for name in ("learning_rate", "seconds"):
        if not 0 < (value := getattr(options, name)) < math.inf:
            raise UsageError(f"--{name.replace('_', '-')} must be a number above 0, got {value:g}")
    if not 0 <= (share := getattr(options, "regression", 0.0)) <= 1:
        raise UsageError(f"--regression must be from 0 to 1, got {share:g}")
    for name in ("resume", "resume_codec", "tokenizer"):
        file = getattr(options, name, None)
        if file is not None and not file.is_file():
            raise UsageError(f"--{name.replace('_', '-')}: there is no file {file}")


def is_log(path: Path) -> bool:
    """Whether a file is the log of a training run. A run that was killed at its start has an empty log."""
    with path.open("rb") as file:
        first = file.readline(1 << 16)
    return not first or first.startswith(b'{"stage": ')
