"""What the trainings on a pool of demo scenes have in common: options, the pool, precision, the loop, the log."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scenetok_ns.data.demo.pool import SCENES_AT_A_TIME, PoolBatch, ScenePool
from scenetok_ns.data.demo.scenes import scene_seed
from scenetok_ns.models.autoencoders.conv import ConvCodec
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.flow.losses import LatentViews
from scenetok_ns.models.metrics import psnr
from scenetok_ns.models.ops.graphs import capture, warm_up
from scenetok_ns.models.presets import Preset
from scenetok_ns.tools.atomic_files import remove_leftovers
from scenetok_ns.tools.devices import named_device
from scenetok_ns.tools.errors import UsageError
from scenetok_ns.tools.own_files import check_own_folder
from scenetok_ns.tools.seeds import seeded_generator, word

logger = logging.getLogger(__name__)

TRAINING_SEED = scene_seed(0, "train", 1_000_000)
"""First scene of training. `scenetok demo-data` reaches neither these nor their neighbours."""
HELD_OUT_SEED = scene_seed(0, "test", 0)
LOG = "log.jsonl"
"""The first file that a training writes; a folder that has one is a training's."""
CODEC = "conv"
"""The autoencoder that is trained here, by its name in presets."""
FEWEST_FRAMES = 24
"""Frames of a scene that training and evaluation take views from."""


@dataclass
class PoolOptions:
    """What a run is asked for."""

    output: Path
    """Folder for weights.safetensors, log.jsonl and figures.json."""
    seconds: float = 1e9
    """End training after this long; learning rate and stages are planned for whichever end comes first."""
    batch_size: int = 128
    learning_rate: float = 1e-3
    """Peak; warmed up over 500 steps and brought down along a cosine."""
    scenes: int = 8000
    """Scenes held at once; `renew` of them are replaced every 50 steps."""
    renew: int = SCENES_AT_A_TIME
    frames_per_scene: int = 48
    compile: bool = False
    """torch.compile the blocks and the renderer of the scenes (a minute or two, then about twice as fast)."""
    cuda_graph: bool = False
    """Record a step once and replay it (CUDA): the host then launches one graph instead of thousands of kernels."""
    seed: int = 0
    device: str = "cuda" if torch.cuda.is_available() else "cpu"


def check_options(options: PoolOptions) -> None:
    """Raise UsageError for an option that no training can have."""
    least = {"batch_size": 1, "scenes": 1, "renew": 0, "frames_per_scene": FEWEST_FRAMES, "steps": 0}
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


def _is_log(path: Path) -> bool:
    """Whether a file is the log of a training; one that was killed at its start has an empty log."""
    with path.open("rb") as file:
        first = file.readline(1 << 16)
    return not first or first.startswith(b'{"stage": ')


class PoolRun:
    """State of a training run: device, codec, random numbers and log."""

    options: PoolOptions
    pool_class = ScenePool

    def __init__(self, options: PoolOptions, preset: Preset) -> None:
        self.options, self.preset = options, preset
        check_options(options)
        self.device = named_device(options.device)
        if options.cuda_graph and self.device.type != "cuda":
            raise ValueError(f"--cuda-graph needs an NVIDIA GPU, and --device is {options.device}: leave it out")
        if preset.context_autoencoder.name != CODEC:
            raise UsageError(
                f"--preset: the autoencoder of {preset.name} is {preset.context_autoencoder.name}; presets with "
                f"{CODEC} are trained here, others with ns-train"
            )
        check_own_folder(options.output, LOG, _is_log, f"a training ({LOG} of train-tiny)")
        torch.manual_seed(word(options.seed))
        torch.set_float32_matmul_precision("high")
        options.output.mkdir(parents=True, exist_ok=True)
        remove_leftovers(options.output)
        self.codec = ConvCodec().to(self.device).to(memory_format=torch.channels_last)
        self.generator = seeded_generator(options.seed, self.device)
        self.log = (options.output / LOG).open("a")
        self._started = self._last = 0.0
        self._reported = 0

    def write(self, **values: float | str) -> None:
        self.log.write(json.dumps(values) + "\n")
        self.log.flush()
        logger.info("%s", "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items()))

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def pool(self, capacity: int, first_seed: int, encoded: bool) -> ScenePool:
        started = time.perf_counter()
        pool = self.pool_class(
            capacity=capacity,
            num_frames=self.options.frames_per_scene,
            image_size=self.preset.data.image_size,
            first_seed=first_seed,
            device=self.device,
            compiled=self.options.compile,
            **({"encode": self.encode} if encoded else {}),
        )
        pool.fill()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        self.write(stage="pool", scenes=capacity, frames_per_second=capacity * pool.num_frames / seconds)
        return pool

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        with self.autocast():
            return self.codec.encode(images / 127.5 - 1).to(torch.bfloat16)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents -> frames in [0, 1]."""
        with self.autocast():
            return self.codec.decode(latents.float()).float() / 2 + 0.5

    def optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.AdamW:
        groups: list[dict[str, Any]] = [
            {"params": [p for p in parameters if p.ndim > 1]},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(
            groups,
            lr=torch.tensor(self.options.learning_rate, device=self.device),
            betas=(0.9, 0.99),
            weight_decay=0.02,
            fused=self.device.type == "cuda",
            capturable=self.options.cuda_graph,
        )

    def set_learning_rate(self, optimizer: torch.optim.Optimizer, step: int, along: float) -> None:
        """`along`: part of the training that is done."""
        for group in optimizer.param_groups:
            group["lr"].fill_(self.options.learning_rate * cosine(step, along, warmup=500))

    def steps(self, count: int, optimizer: torch.optim.Optimizer, pool: ScenePool) -> Iterator[tuple[int, float]]:
        """Number of each step, and the part of the training that is done before it. Between steps, learning rates are
        set and scenes of the pool replaced."""
        self._started, self._last, self._reported = time.perf_counter(), time.perf_counter(), 0
        for step in range(count):
            along = max(step / count, (time.perf_counter() - self._started) / self.options.seconds)
            if along >= 1:
                return
            self.set_learning_rate(optimizer, step, along)
            yield step, along
            if step % 50 == 49 and self.options.renew:
                pool.renew(self.options.renew)

    def report(self, stage: str, step: int, loss: Tensor, measure: Callable[[], dict[str, float]]) -> None:
        """Write a line to the log, with what `measure` finds; the time that it takes does not count."""
        now = time.perf_counter()
        self.write(
            stage=stage,
            step=step,
            seconds=now - self._started,
            samples_per_second=(step + 1 - self._reported) * self.options.batch_size / (now - self._last),
            loss=self.finite(loss, step),
            **measure(),
        )
        self._last, self._reported = time.perf_counter(), step + 1

    def descend(self, loss: Tensor, optimizer: torch.optim.Optimizer) -> Tensor:
        """A step of the optimizer; returns the loss."""
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
        optimizer.step()
        return loss.detach()

    def finite(self, loss: Tensor, step: int) -> float:
        """The loss as a number. Raises ValueError if it is none any more: what follows could only be lost."""
        value = loss.item()
        if not math.isfinite(value):
            raise ValueError(
                f"training diverged: the loss is {value} after {step + 1} steps; start again with a lower "
                f"--learning-rate (now {self.options.learning_rate:g})"
            )
        return value

    def recorded(self, step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """`step` as a CUDA graph, if asked for; its tensors stay where they are, so a replay is a whole new step."""
        if not self.options.cuda_graph:
            return step
        warm_up(step, 4)
        graph, loss = capture(step, generators=[self.generator])

        def replay() -> Tensor:
            graph.replay()
            return loss

        return replay


def as_views(batch: PoolBatch) -> LatentViews:
    return LatentViews(batch.frames, CameraBatch(batch.c2w, batch.intrinsics))


def cosine(step: int, along: float, warmup: int) -> float:
    """Learning rate factor: linear warm-up, then down along half a cosine to 2 %."""
    return min((step + 1) / warmup, 1.0) * (0.02 + 0.49 * (1 + math.cos(along * math.pi)))


def mean_psnr(prediction: Tensor, target: Tensor) -> float:
    """Mean over images of the peak signal-to-noise ratio in dB. Predictions are clamped to [0, 1]."""
    return psnr(pred=prediction.clamp(0, 1), target=target).mean().item()
