"""Measure speed, memory and compile time of a training step: one configuration per call, and tables of many calls.

    python benchmarks/training.py measure --batch-size 32 [--preset re10k] [--plain | --fused] [--cuda-graph]
        [--checkpointing selective] [--devices 2] [--steps 20] [--profile FILE] --output FILE.json
    python benchmarks/training.py table FILE.json ...
    python benchmarks/training.py choice [--batch-size 8 32] [--preset re10k] [--steps 20] --output FILE.json
    python benchmarks/training.py student [--batch-size 32] [--preset re10k] [--steps 4] --output FILE.json

A step is what ns-train does when it trains from latents: batch to the device, forward, backward, clipping, AdamW. The
networks have full size and random weights. `--plain` measures the step without our optimisations: eager, with the
released widths and torch's AdamW and clipping.

Model FLOPs are those of the forward pass (matrix products and attention, counted by torch's FlopCounterMode on the
plain networks) times 3; recomputation in the backward pass does not count. MFU is relative to `--peak` (790 TFLOP/s,
which large bfloat16 products reach on an H100 SXM, as measured). With several devices, one of them alone is measured
first, in the same processes.

`choice` compares the options that ns-train chooses by itself with other options, all in one call. It reports the time
of a step, and the predicted and the measured peak memory. It takes less than 240 seconds on an H200.

`student` measures the step of `ns-train scenetok-stream`: with noise levels of the targets, as at first, and with those
of the student's own rollout. Without --batch-size, it has the preset's batch size.
"""

from __future__ import annotations

import argparse
import fcntl
import functools
import gc
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from nerfstudio.data.scene_box import SceneBox
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from scenetok_ns.data.training_batches import Clips, Sample, TrainingBatch
from scenetok_ns.models.autoencoders.registry import latent_space
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.networks import block_execution as compilation
from scenetok_ns.models.networks import layers
from scenetok_ns.models.networks.compressor import Compressor
from scenetok_ns.models.networks.denoiser import Denoiser
from scenetok_ns.models.presets import AutoencoderConfig, Preset, load_preset
from scenetok_ns.plugin.model import SceneTokModel, SceneTokModelConfig
from scenetok_ns.plugin.pipeline import distributed
from scenetok_ns.plugin.stream_training import StudentModelConfig
from scenetok_ns.tools.cuda_memory import let_segments_grow
from scenetok_ns.training.optimizers import AdamWConfig
from scenetok_ns.training.recorded_step import RecordedStep
from scenetok_ns.training.step_memory import TrainingRun

WARM_UP = 5
"""Number of steps before the timed ones."""

CHOICES: dict[str, dict[str, Any]] = {
    "no options": {},
    "all on": {"fused": True, "compile": True, "cuda_graph": True, "gradient_checkpointing": "none"},
    "not compiled": {"fused": True, "compile": False, "cuda_graph": True, "gradient_checkpointing": "none"},
    "selective": {"fused": True, "compile": True, "cuda_graph": True, "gradient_checkpointing": "selective"},
    "full": {"fused": True, "compile": True, "cuda_graph": True, "gradient_checkpointing": "full"},
}
"""Options of ns-train that `choice` compares."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("measure")
    command.add_argument("--preset", default="re10k")
    command.add_argument("--batch-size", type=int, default=32, help="of one device")
    command.add_argument("--devices", type=int, default=1)
    command.add_argument("--plain", action="store_true")
    command.add_argument("--fused", action="store_true", help="run blocks on our own kernels and compile the rest")
    command.add_argument("--cuda-graph", action="store_true")
    command.add_argument("--checkpointing", choices=("none", "selective", "full"), default="none")
    command.add_argument("--steps", type=int, default=20)
    command.add_argument("--peak", type=float, default=790.0, help="TFLOP/s that MFU is measured against")
    command.add_argument("--profile", type=Path, help="file for the times of the kernels of one step")
    command.add_argument("--backend", default=compilation.BACKEND, help="of torch.compile; aot_eager builds no kernels")
    command.add_argument("--lock", type=Path, help="lock file: concurrent calls compile together, timed one by one")
    command.add_argument("--output", type=Path, required=True)
    command = commands.add_parser("table")
    command.add_argument("files", type=Path, nargs="+")
    command = commands.add_parser("choice")
    command.add_argument("--preset", default="re10k")
    command.add_argument("--batch-size", type=int, nargs="+", default=[8, 32])
    command.add_argument("--steps", type=int, default=20)
    command.add_argument("--only", nargs="*", default=list(CHOICES), choices=list(CHOICES))
    command.add_argument("--output", type=Path, required=True)
    command = commands.add_parser("student")
    command.add_argument("--preset", default="re10k")
    command.add_argument("--batch-size", type=int, help="default: the preset's")
    command.add_argument("--steps", type=int, default=4, help="timed steps of each phase")
    command.add_argument("--windows", action="store_true", help="a student that denoises windows, not one that streams")
    command.add_argument("--eager", action="store_true", help="do not compile")
    command.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    if options.command == "choice":
        compare_choices(options)
    elif options.command == "student":
        measure_student(options)
    elif options.command == "table":
        Console(width=160).print(table([json.loads(path.read_text()) for path in options.files]))
    elif options.devices == 1:
        measure(options)
    elif "RANK" in os.environ:  # processes were started by torchrun, or one by one
        worker(int(os.environ["RANK"]), options, int(os.environ["MASTER_PORT"]))
    else:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        mp.start_processes(worker, args=(options, port), nprocs=options.devices, start_method="spawn")


def worker(rank: int, options: argparse.Namespace, port: int) -> None:
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    device = torch.device("cuda", rank) if backend == "nccl" else None
    if device is not None:
        torch.cuda.set_device(device)
    url = f"tcp://127.0.0.1:{port}"
    dist.init_process_group(backend, url, rank=rank, world_size=options.devices, device_id=device)
    measure(options, rank)
    dist.destroy_process_group()


def measure(options: argparse.Namespace, rank: int = 0) -> None:
    compilation.BACKEND = options.backend
    device = torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda" and not options.plain:
        let_segments_grow()
    preset = load_preset(options.preset)
    flops = 3 * forward_flops(preset)
    row: dict[str, Any] = {
        "preset": preset.name,
        "batch_size": options.batch_size,
        "devices": options.devices,
        "mode": mode(options),
        "checkpointing": options.checkpointing,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "torch": torch.__version__,
        "model_gflops_a_sample": flops / 1e9,
        "peak_tflops": options.peak,
    }
    try:
        torch.manual_seed(0)
        begin = time.perf_counter()
        model = make_model(options, device)
        note(options, rank, f"model made in {time.perf_counter() - begin:.1f} s")
        row["compile_seconds"] = compile_kinds(model, options, preset, device)
        note(options, rank, f"compiled in {row['compile_seconds']:.1f} s")
        with turn(options.lock):
            row |= results(model, options, preset, device, rank)
        row["mfu"] = row["samples_per_second"] / options.devices * flops / (options.peak * 1e12)
    except torch.cuda.OutOfMemoryError:
        row["failed"] = "out of memory"
    if rank == 0:
        options.output.write_text(json.dumps(row, indent=1))
        Console(width=160).print(table([row]))


def mode(options: argparse.Namespace) -> str:
    blocks = "plain" if options.plain else "fused" if options.fused else "compiled"
    return blocks + (", graph" if options.cuda_graph else "")


def results(
    model: SceneTokModel, options: argparse.Namespace, preset: Preset, device: torch.device, rank: int
) -> dict[str, Any]:
    row: dict[str, Any] = {}
    step = make_step(model, options, preset, device)
    if options.devices > 1:
        if rank == 0:  # the other processes have compiled, and wait
            row["alone"] = timed(step, options.steps, device)
            note(options, rank, f"alone: {row['alone']['step_ms']:.1f} ms")
        dist.barrier()
        del step  # frees the optimizer's moments and the recorded graph, too
        model.zero_grad(set_to_none=True)
        step = make_step(model, options, preset, device, rank)
    row |= timed(step, options.steps, device)
    note(options, rank, f"{row['step_ms']:.1f} ms a step")
    row["samples_per_second"] = 1000 * options.batch_size * options.devices / row["step_ms"]
    if "alone" in row:
        row["efficiency"] = row["alone"]["step_ms"] / row["step_ms"]
    if options.devices > 1:
        row["all_reduce_gb_per_second"] = all_reduce_speed(device)
    elif options.profile is not None:
        options.profile.write_text(profile(step))
    return row


def note(options: argparse.Namespace, rank: int, text: str) -> None:
    if rank == 0:
        print(f"[batch {options.batch_size} x {options.devices}] {text}", flush=True)


@contextmanager
def turn(path: Path | None) -> Iterator[None]:
    """Hold the lock file, after waiting until no other call is being timed."""
    if path is None:
        yield
        return
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def compile_kinds(model: SceneTokModel, options: argparse.Namespace, preset: Preset, device: torch.device) -> float:
    """Measure the seconds of compiling and running a shallow model with one block of each kind. The blocks of the whole
    model are the same."""
    begin = time.perf_counter()
    compressor, denoiser = model.scenetok.compressor, model.scenetok.denoiser.model
    whole = compressor.aggregate, denoiser.blocks
    compressor.aggregate = nn.ModuleList([whole[0][0], whole[0][-1]])
    denoiser.blocks = nn.ModuleList([whole[1][0]])
    model(made_up_batch(preset, options.batch_size).to(device))["loss"].backward()
    compressor.aggregate, denoiser.blocks = whole
    model.zero_grad(set_to_none=True)
    synchronize(device)
    seconds = time.perf_counter() - begin
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return seconds


def make_model(options: argparse.Namespace, device: torch.device) -> SceneTokModel:
    if options.plain:
        layers.FEED_FORWARD_MULTIPLE = 1
    else:
        torch.set_float32_matmul_precision("high")
    config = SceneTokModelConfig(
        preset=options.preset,
        pretrained=False,
        defer_autoencoders=True,
        compile=not options.plain,
        fused=options.fused,
        cuda_graph=options.cuda_graph,
        gradient_checkpointing=options.checkpointing,
    )
    model = model_of(config, device)
    model.choose_steps(TrainingRun(options.batch_size, processes=options.devices, from_latents=True))
    return model


def model_of(config: SceneTokModelConfig, device: torch.device) -> SceneTokModel:
    """Build a model with random weights, in training mode."""
    with device:  # weights are initialised on the device, because a CPU takes seconds
        box = SceneBox(aabb=torch.tensor([[-1.0, -1, -1], [1, 1, 1]]))
        model = config.setup(scene_box=box, num_train_data=1, scenes=None).to(device)
    model.device_indicator_param.requires_grad_(False)
    return model.train()


def make_step(
    model: SceneTokModel, options: argparse.Namespace, preset: Preset, device: torch.device, rank: int | None = None
) -> Callable[[int], Tensor]:
    """Return a function that does one training step, together with the other processes if `rank` is given."""
    recorded = None
    if options.cuda_graph:
        processes = 1 if rank is None else options.devices
        recorded = RecordedStep(model, model.training_loss, model.invalidate_caches, processes)
    forward: Callable[[TrainingBatch], dict[str, Tensor]] = recorded or model
    if rank is not None and recorded is None:
        forward = distributed(model, device, rank)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    recipe = preset.training
    if options.plain:
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(parameters, recipe.learning_rate, recipe.betas)
    else:
        optimizer = AdamWConfig().resolved(recipe, options.batch_size * options.devices).setup(parameters)
    batch = made_up_batch(preset, options.batch_size)
    batch = batch.pin_memory() if device.type == "cuda" else batch

    def step(number: int) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = forward(replace(batch, step=number).to(device))["loss"]
        loss.backward()
        if recorded is not None and rank is not None:
            recorded.average()
        if options.plain:
            nn.utils.clip_grad_norm_(parameters, recipe.gradient_clip)
        optimizer.step()
        return loss

    return step


def made_up_batch(preset: Preset, size: int) -> TrainingBatch:
    """Create a batch like those of `LatentSamples`, with latents of noise and cameras along a line."""
    views, side = preset.data.views, preset.data.image_size
    layout = latent_space(preset.target_autoencoder).layout
    context = _clips(size, views.num_context, views.num_context, preset.context_autoencoder, side)
    frames = layout.num_frames(views.num_target_latents)
    target = _clips(size, frames, views.num_target_latents, preset.target_autoencoder, side)
    return TrainingBatch(0, ("",) * size, Sample(context, target))


def _clips(size: int, frames: int, latents: int, autoencoder: AutoencoderConfig, side: int) -> Clips:
    space = latent_space(autoencoder)
    c2w = torch.eye(4).repeat(size, frames, 1, 1)
    c2w[..., 2, 3] = torch.linspace(0, 1, frames)
    intrinsics = torch.tensor([[1.0, 0, 0.5], [0, 1, 0.5], [0, 0, 1]]).repeat(size, frames, 1, 1)
    shape = (size, latents, space.channels, *space.latent_size((side, side)))
    return Clips(None, c2w, intrinsics, torch.randn(shape, dtype=torch.float16))


@functools.cache
def forward_flops(preset: Preset) -> int:
    """Count the FLOPs of all matrix products and attention of the compressor and the denoiser for one sample."""
    clips = made_up_batch(preset, 1).sample
    assert clips.target is not None and clips.context.latents is not None and clips.target.latents is not None
    modes = FakeTensorMode(allow_non_fake_inputs=True), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False)
    with modes[0], modes[1], modes[2] as counter:  # computes attention as matrix products, which are counted
        compressor, denoiser = Compressor.from_preset(preset), Denoiser.from_preset(preset)
        context, target = (CameraBatch(clip.c2w, clip.intrinsics) for clip in (clips.context, clips.target))
        tokens = compressor(clips.context.latents.float(), context).mean
        latents = clips.target.latents.float()
        denoiser(latents, target, torch.zeros(latents.shape[:2]), denoiser.project(tokens))
    return counter.get_total_flops()


def compare_choices(options: argparse.Namespace) -> None:
    """Measure each set of options in `CHOICES`, or those of --only, at each batch size."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        let_segments_grow()
        torch.set_float32_matmul_precision("high")
    begin, rows = time.perf_counter(), []
    for batch in options.batch_size:
        for name in options.only:
            try:
                rows.append(choice(options, batch, name, device))
            except torch.cuda.OutOfMemoryError:
                rows.append({"batch_size": batch, "options": name, "failed": "out of memory"})
            gc.collect()
            torch._dynamo.reset()  # frees the compiled networks
            if device.type == "cuda":
                torch.cuda.empty_cache()
            print(f"batch {batch}, {name}: {rows[-1]}", flush=True)
    report = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "torch": torch.__version__,
        "preset": options.preset,
        "seconds": time.perf_counter() - begin,
        "rows": rows,
    }
    options.output.write_text(json.dumps(report, indent=1))
    Console(width=140).print(choice_table(report))


def choice(options: argparse.Namespace, batch: int, name: str, device: torch.device) -> dict[str, Any]:
    """Measure time and peak memory of a step with the options `CHOICES[name]`, and predict the memory."""
    preset = load_preset(options.preset)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    torch.manual_seed(0)
    config = SceneTokModelConfig(preset=options.preset, pretrained=False, defer_autoencoders=True, **CHOICES[name])
    model = model_of(config, device)
    plan = model.choose_steps(TrainingRun(batch, from_latents=True))
    row: dict[str, Any] = {"batch_size": batch, "options": name, "plan": plan.line()}
    if plan.memory is not None:
        row["predicted_gib"] = plan.memory.total / 2**30
    settings = argparse.Namespace(plain=False, cuda_graph=plan.record, batch_size=batch, devices=1)
    begin = time.perf_counter()
    step = make_step(model, settings, preset, device)
    step(0)  # compiles and records
    synchronize(device)
    row["first_step_seconds"] = time.perf_counter() - begin
    row |= timed(step, options.steps, device, reset=False)
    row["samples_per_second"] = 1000 * batch / row["step_ms"]
    return row


def measure_student(options: argparse.Namespace) -> None:
    """Measure both phases of a student's training. Results are written after each phase."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        let_segments_grow()
        torch.set_float32_matmul_precision("high")
    preset = load_preset(options.preset)
    batch = options.batch_size or preset.training.batch_size
    torch.manual_seed(0)
    compiled = False if options.eager else None
    config = StudentModelConfig(
        preset=options.preset, pretrained=False, defer_autoencoders=True, compile=compiled, causal=not options.windows
    )
    model = model_of(config, device)
    plan = model.choose_steps(TrainingRun(batch, from_latents=True))
    settings = argparse.Namespace(plain=False, cuda_graph=False, batch_size=batch, devices=1)
    step = make_step(model, settings, preset, device)
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "torch": torch.__version__,
        "preset": preset.name,
        "batch_size": batch,
        "plan": plan.line(),
        "student_steps": config.student_steps,
        "causal": config.causal,
        "phases": {},
    }
    made = Table(title=f"student of {preset.name}, batch {batch}, {report['device']}; {plan.line()}")
    for name in ("noise levels of", "s a step", "samples/s", "peak GiB", "reserved GiB", "first step s", "loss"):
        made.add_column(name, justify="right")
    for phase, first in (("targets", 0), ("own rollout", config.forced_steps)):
        row: dict[str, Any] = {}
        try:
            begin = time.perf_counter()
            loss = float(step(first).detach())
            row |= {"loss": loss, "first_step_seconds": time.perf_counter() - begin}
            row |= timed(lambda number, first=first: step(first + number), options.steps, device, warm_up=1)
            row["samples_per_second"] = 1000 * batch / row["step_ms"]
        except torch.cuda.OutOfMemoryError:
            row["failed"] = "out of memory"
        report["phases"][phase] = row
        options.output.write_text(json.dumps(report, indent=1))
        print(f"{phase}: {row}", flush=True)
        if "failed" in row:
            made.add_row(phase, row["failed"])
            continue
        memory = [f"{row[name]:.1f}" if name in row else "-" for name in ("peak_gib", "reserved_gib")]
        speed = f"{row['step_ms'] / 1000:.3f}", f"{row['samples_per_second']:.1f}"
        made.add_row(phase, *speed, *memory, f"{row['first_step_seconds']:.1f}", f"{row['loss']:.3f}")
    Console(width=140).print(made)


def choice_table(report: dict[str, Any]) -> Table:
    title = f"{report['preset']}, {report['device']}, torch {report['torch']}, {report['seconds']:.0f} s in all"
    made = Table(title=title)
    for name in (
        "batch",
        "options",
        "ms",
        "samples/s",
        "of the fastest",
        "peak GiB",
        "predicted",
        "error",
        "first step s",
    ):
        made.add_column(name, justify="left" if name == "options" else "right")
    times = [(row["batch_size"], row["step_ms"]) for row in report["rows"] if "failed" not in row]
    for row in report["rows"]:
        start = (str(row["batch_size"]), row["options"])
        if "failed" in row:
            made.add_row(*start, row["failed"])
            continue
        fastest = min(ms for batch, ms in times if batch == row["batch_size"])
        cells = [f"{row['step_ms']:.1f}", f"{row['samples_per_second']:.1f}", f"{fastest / row['step_ms']:.1%}"]
        real, predicted = row.get("reserved_gib"), row.get("predicted_gib")
        known = real is not None and predicted is not None
        cells += [f"{real:.1f}", f"{predicted:.1f}", f"{predicted / real - 1:+.1%}"] if known else [""] * 3
        made.add_row(*start, *cells, f"{row['first_step_seconds']:.0f}")
    return made


def timed(
    step: Callable[[int], Tensor], steps: int, device: torch.device, warm_up: int = WARM_UP, *, reset: bool = True
) -> dict[str, Any]:
    """Measure the mean time of steps queued one after another, as in training, and the peak memory. With `reset`, an
    earlier peak does not count."""
    if device.type == "cuda" and reset:
        torch.cuda.reset_peak_memory_stats(device)
    for number in range(warm_up):
        step(number)
    synchronize(device)
    begin = time.perf_counter()
    for number in range(warm_up, warm_up + steps):
        step(number)
    synchronize(device)
    each = (time.perf_counter() - begin) / steps
    row = {"step_ms": 1000 * each}
    if device.type == "cuda":
        row["peak_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
        row["reserved_gib"] = torch.cuda.max_memory_reserved(device) / 2**30
    return row


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def all_reduce_speed(device: torch.device, count: int = 1 << 28) -> float:
    """Measure how many gigabytes of gradients all processes add up per second."""
    gradients = torch.zeros(count if device.type == "cuda" else 1 << 16, device=device)
    for _ in range(2):
        synchronize(device)
        begin = time.perf_counter()
        dist.all_reduce(gradients)
        synchronize(device)
        seconds = time.perf_counter() - begin
    return gradients.numel() * gradients.element_size() / 1e9 / seconds


def profile(step: Callable[[int], Tensor]) -> str:
    """Return a text with the kernels of two steps, longest first, and the parts of the step on the host."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as recorded:
        for number in range(2):
            step(number)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    averages = recorded.key_averages()
    order = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    device = averages.table(sort_by=order, row_limit=70, max_name_column_width=110)
    return device + "\n" + averages.table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=60)


def table(rows: list[dict[str, Any]]) -> Table:
    made = Table(title="training step")
    for name in ("device", "preset", "mode", "batch x devices", "ms", "samples/s", "MFU", "peak GiB", "compile s"):
        made.add_column(name, justify="right")
    made.add_column("efficiency", justify="right")
    for row in sorted(rows, key=lambda row: (row["preset"], row["devices"], row["mode"], row["batch_size"])):
        mode = row["mode"] + ("" if row["checkpointing"] == "none" else f", {row['checkpointing']}")
        start = (row["device"], row["preset"], mode, f"{row['batch_size']} x {row['devices']}")
        if "failed" in row:
            made.add_row(*start, row["failed"])
            continue
        numbers = (f"{row['step_ms']:.1f}", f"{row['samples_per_second']:.1f}", f"{row['mfu']:.1%}")
        # A recorded pass keeps all memory that it was recorded with, whether tensors use it or not.
        peak = row.get("reserved_gib" if "graph" in row["mode"] else "peak_gib", 0.0)
        rest = (f"{peak:.1f}", f"{row['compile_seconds']:.0f}")
        made.add_row(*start, *numbers, *rest, f"{row['efficiency']:.1%}" if "efficiency" in row else "")
    return made


if __name__ == "__main__":
    main()
