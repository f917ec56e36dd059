"""One training run on demo scenes: device, data-parallel ranks, pool, loop, recorded steps, averages and log.

A task defines the trained modules, the loss, and the figures on held-out scenes; `TinyRun.train` does the rest.
"""

from __future__ import annotations

import copy
import gc
import json
import logging
import math
import os
import random
import time
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from scenetok_ns.data.demo.pool import PoolBatch, ScenePool
from scenetok_ns.data.demo.scenes import scene_seed
from scenetok_ns.models.autoencoders.conv import ConvCodec
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.flow.losses import LatentViews
from scenetok_ns.models.metrics import psnr
from scenetok_ns.models.networks.averaging import update_average
from scenetok_ns.models.ops.graphs import capture
from scenetok_ns.models.presets import Preset
from scenetok_ns.tools.atomic_files import remove_leftovers
from scenetok_ns.tools.devices import named_device
from scenetok_ns.tools.errors import UsageError
from scenetok_ns.tools.own_files import check_own_folder
from scenetok_ns.tools.seeds import mix, seeded_generator, word
from scenetok_ns.training.step_plan import Wishes, choose, facts_of
from scenetok_ns.training.tiny.optimizer import TinyOptimizer
from scenetok_ns.training.tiny.options import CODEC, LOG, RunOptions, check_options, is_log

logger = logging.getLogger(__name__)

TRAINING_SEED = scene_seed(0, "train", 1_000_000)
"""First scene of training. `scenetok demo-data` reaches neither these nor their neighbours."""
RANK_SCENES = 10_000_000
"""Number of scenes between the first ones of two ranks."""
HELD_OUT_SEED = scene_seed(0, "test", 0)
SPARE_MEMORY = 30 << 30
"""Bytes of GPU memory that stay free in addition to what another recorded step may need."""
CHECK_EVERY = 25
"""Number of steps between two checks of the time, at which all ranks agree on the progress."""


class Task(Protocol):
    """A stage of training: modules, loss and measurements, as `TinyRun.train` uses them."""

    name: str
    trained: nn.ModuleDict
    averaged: nn.ModuleDict
    """Copies of the trained modules, with their weights averaged over the steps."""

    def kinds(self, along: float) -> Sequence[tuple[Hashable, float]]:
        """Kinds of steps at this part of the training (0 ... 1) and how often each is taken, in any unit."""
        ...

    def loss(self, kind: Hashable) -> Float[Tensor, ""]:
        """The loss of a batch that the task draws itself."""
        ...

    def optimizer(self) -> TinyOptimizer: ...

    def held_out(self) -> dict[str, float]: ...

    def between_steps(self) -> None:
        """Called every 50 steps, for example to renew pools."""
        ...

    def save(self, folder: Path) -> None: ...


class TinyRun:
    """Device, precision, random numbers, codec and log of a run, and its loop."""

    def __init__(self, options: RunOptions, preset: Preset, *, trains_blocks: bool = True) -> None:
        """trains_blocks: Whether the blocks of the networks train; False: only a head on top of them."""
        self.options, self.preset = options, preset
        check_options(options)
        self.device = named_device(options.device)
        steps = max(getattr(options, name, 0) for name in ("steps", "token_steps", "finish_steps"))
        unfusible = None if trains_blocks else "only a small head trains"
        self.plan = choose(
            facts_of(self.device, steps=steps, unfusible=unfusible),
            Wishes(options.fused, options.compile, options.cuda_graph, float8=options.float8),
        )
        if preset.context_autoencoder.name != CODEC:
            raise UsageError(
                f"--preset: the autoencoder of {preset.name} is {preset.context_autoencoder.name}; presets with "
                f"{CODEC} are trained here, others with ns-train"
            )
        check_own_folder(options.output, LOG, is_log, f"a training ({LOG} of train-tiny)")
        self.rank, self.ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        if self.ranks > 1:
            if self.device.type == "cuda":
                self.device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
                torch.cuda.set_device(self.device)
            torch.distributed.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
        torch.manual_seed(word(options.seed))
        torch.set_float32_matmul_precision("high")
        options.output.mkdir(parents=True, exist_ok=True)
        remove_leftovers(options.output)
        self.codec = ConvCodec().to(self.device).to(memory_format=torch.channels_last)
        self.generator = seeded_generator(mix(options.seed, self.rank), self.device)
        self.photographs = load_photographs(options.photographs, self.device)
        self.log = (options.output / (LOG if self.rank == 0 else f"log.{self.rank}.jsonl")).open("a")
        logger.info("%s", self.plan.line())
        self.alone = self.ranks == 1
        """Whether this rank trains by itself for now."""
        self._graph_pool: tuple[int, int] | None = None
        self._graph_size = 0
        self._stream: torch.cuda.Stream | None = None

    # Log, precision, pools

    def write(self, **values: float | str) -> None:
        self.log.write(json.dumps(values) + "\n")
        self.log.flush()
        logger.info("%s", "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items()))

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def training_pool(
        self, capacity: int, *, encoded: bool, keep_images: bool = False, pool_class: type[ScenePool] = ScenePool
    ) -> ScenePool:
        first = TRAINING_SEED + self.options.first_scene + self.rank * RANK_SCENES
        return self.pool(
            capacity,
            first,
            encoded=encoded,
            keep_images=keep_images,
            varied=True,
            photographs=self.photographs,
            pool_class=pool_class,
        )

    def held_out_pool(
        self, capacity: int, *, encoded: bool, keep_images: bool = False, pool_class: type[ScenePool] = ScenePool
    ) -> ScenePool:
        return self.pool(
            capacity,
            HELD_OUT_SEED,
            encoded=encoded,
            keep_images=keep_images,
            photographs=self.photographs,
            pool_class=pool_class,
        )

    def pool(
        self,
        capacity: int,
        first_seed: int,
        *,
        encoded: bool,
        keep_images: bool = False,
        varied: bool = False,
        photographs: Tensor | None = None,
        pool_class: type[ScenePool] = ScenePool,
    ) -> ScenePool:
        started = time.perf_counter()
        pool = pool_class(
            capacity=capacity,
            num_frames=self.options.frames,
            image_size=self.preset.data.image_size,
            first_seed=first_seed,
            device=self.device,
            compiled=self.plan.compile,
            keep_images=keep_images,
            varied=varied,
            photographs=photographs,
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
        """Encode 8-bit images to latents, some frames at a time."""
        with self.autocast():
            flat = images.flatten(0, -4)
            codes = [self.codec.encode(part / 127.5 - 1).to(torch.bfloat16) for part in flat.split(512)]
        return torch.cat(codes).unflatten(0, images.shape[:-3])

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents to frames in [0, 1]."""
        with self.autocast():
            flat = latents.float().flatten(0, -4)
            frames = [self.codec.decode(part).float() / 2 + 0.5 for part in flat.split(512)]
        return torch.cat(frames).unflatten(0, latents.shape[:-3])

    # The loop

    def train(self, task: Task, steps: int, seconds: float) -> dict[str, float]:
        """Train until `steps` are done or `seconds` have passed. Returns the task's final measurements."""
        optimizer, seconds, self._graph_pool = task.optimizer(), max(seconds, 1e-3), None
        averages = list(task.averaged.parameters())
        currents = list(task.trained.parameters())
        recorded: dict[Hashable, Callable[[], Tensor]] = {}
        kinds = random.Random(self.options.seed)  # the same on all ranks: they take the same kinds of steps
        started = last = time.perf_counter()
        along, rate, reported, loss, step = 0.0, 0.0, 0, torch.tensor(0.0), 0
        stage: object = None
        for step in range(steps):
            if step % CHECK_EVERY == 0:
                along = self.agree(max(step / steps, (time.perf_counter() - started) / seconds))
                rate = max(along / max(step, 1), 1 / steps)
                if along >= 1:
                    break
            part = min(along + rate * (step % CHECK_EVERY), 1.0)
            choices = task.kinds(along)
            kind = kinds.choices([k for k, _ in choices], [weight for _, weight in choices])[0]
            if getattr(kind, "stage", None) != stage:  # earlier kinds do not come again
                stage, recorded, self._graph_pool = getattr(kind, "stage", None), {}, None
            if kind not in recorded:
                recorded[kind] = self.recorded(lambda kind=kind: self.gradients(task, kind, optimizer))
            loss = recorded[kind]()
            if not self.alone:
                torch.distributed.all_reduce(optimizer.gradient)
                optimizer.gradient /= self.ranks
            optimizer.step(cosine(step, part, self.options.warmup, self.options.final_rate))
            update_average(averages, currents, min(self.options.average, (step + 1) / (step + 10)))
            if step % 50 == 49:
                task.between_steps()
            if step % self.options.report_every == self.options.report_every - 1:
                value, clock = self.finite(loss, step), time.perf_counter()
                ranks = 1 if self.alone else self.ranks
                speed = (step + 1 - reported) * self.options.batch_size * ranks / (clock - last)
                if self.reports:
                    found = task.held_out()
                    now = {"seconds": clock - started, "samples_per_second": speed, "loss": value}
                    self.write(stage=task.name, step=step, **now, **found)
                    task.save(self.options.output)
                last, reported = time.perf_counter(), step + 1
        self.finite(loss, step)
        if not self.reports:
            return {}
        found = task.held_out()
        self.write(stage=task.name, step=step, seconds=time.perf_counter() - started, done=1.0, **found)
        task.save(self.options.output)
        return found

    @property
    def reports(self) -> bool:
        """Whether this rank measures and saves: the first one, or each that trains by itself."""
        return self.alone or self.rank == 0

    def gradients(self, task: Task, kind: Hashable, optimizer: TinyOptimizer) -> Tensor:
        optimizer.zero()
        loss = task.loss(kind)
        loss.backward()
        return loss.detach()

    def barrier(self) -> None:
        if self.ranks > 1:
            torch.distributed.barrier()

    def share(self, module: nn.Module) -> None:
        """Give all ranks the weights of rank 0."""
        if self.ranks > 1:
            for value in module.state_dict().values():
                sent = value.contiguous()
                torch.distributed.broadcast(sent, 0)
                value.copy_(sent)

    def agree(self, along: float) -> float:
        """Return the value of rank 0 on all ranks."""
        if self.alone:
            return along
        value = torch.tensor([along], dtype=torch.float64, device=self.device)
        torch.distributed.broadcast(value, 0)
        return value.item()

    def finite(self, loss: Tensor, step: int) -> float:
        """The loss as a number. Raises ValueError if it is not finite: training cannot recover."""
        value = loss.item()
        if not math.isfinite(value):
            raise ValueError(
                f"training diverged: the loss is {value} after {step + 1} steps; start again with a lower "
                f"--learning-rate (now {self.options.learning_rate:g})"
            )
        return value

    def recorded(self, step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """`step` as a CUDA graph, if asked for and if there is room; its tensors stay where they are, so a replay is a
        whole new step. All graphs share their memory, since they run one after another."""
        if not self.plan.record:
            return step
        # One stream for all: memory that was used on another one is not used again.
        stream = self._stream = self._stream or torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        # Otherwise tensors in reference cycles would stay in the graph's memory.
        gc.collect()
        torch.cuda.empty_cache()
        before = torch.cuda.mem_get_info()[0]
        if before < SPARE_MEMORY + self._graph_size:
            return step
        kept = torch.zeros((), device=self.device)
        graph, _ = capture(
            lambda: kept.copy_(step()), generators=[self.generator], pool=self._graph_pool, stream=stream
        )
        gc.collect()
        torch.cuda.synchronize()
        self._graph_size = max(self._graph_size, before - torch.cuda.mem_get_info()[0])
        self._graph_pool = graph.pool()

        def replay() -> Tensor:
            graph.replay()
            return kept

        return replay


def averaged_copy(modules: nn.ModuleDict) -> nn.ModuleDict:
    return copy.deepcopy(modules).requires_grad_(False).eval()


def as_views(batch: PoolBatch) -> LatentViews:
    return LatentViews(batch.frames, CameraBatch(batch.c2w, batch.intrinsics))


def cosine(step: int, along: float, warmup: int, final: float) -> float:
    """Learning rate factor: linear warm-up, then down along half a cosine to `final`."""
    return min((step + 1) / warmup, 1.0) * (final + (1 - final) * 0.5 * (1 + math.cos(along * math.pi)))


def mean_psnr(prediction: Tensor, target: Tensor) -> float:
    """Mean over images of the peak signal-to-noise ratio in dB. Predictions are clamped to [0, 1]."""
    return psnr(pred=prediction.clamp(0, 1), target=target).mean().item()


def load_photographs(folder: Path | None, device: torch.device) -> Float[Tensor, "p 3 height width"] | None:
    """The panoramas of a folder in linear RGB, all of one size. Raises ValueError if there are none."""
    if folder is None:
        return None
    import numpy as np
    from PIL import Image

    paths = sorted(p for p in folder.glob("*") if p.suffix.lower() in (".png", ".jpg", ".jpeg"))
    if not paths:
        raise ValueError(f"--photographs {folder}: expected PNG or JPEG files there, found none")
    images = [torch.from_numpy(np.array(Image.open(path).convert("RGB"))) for path in paths]
    if len({image.shape for image in images}) > 1:
        raise ValueError(f"--photographs {folder}: expected panoramas of one size, got several")
    return (torch.stack(images).permute(0, 3, 1, 2).float() / 255).pow(2.2).to(device)
