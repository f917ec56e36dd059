"""Measure speed, memory and rounding error of the three pretrained autoencoders, with random weights of full size.

Encodes 12 images (VA-VAE) and decodes 128 frames (Video DC-AE; Wan: the nearest whole chunks, 136) at 256 x 256, in
float32, TF32 and bfloat16, in both memory layouts, plain and compiled. Prints a table and writes JSON:

    python benchmarks/autoencoders.py --output autoencoders.json
    python benchmarks/autoencoders.py --rehearse        # toy networks on the CPU, to test the script; no real figures

The error is the difference of the result from strict float32 without compilation, relative to its root mean square.
With random weights it is an estimate: it shows how rounding errors grow through the network, not those of photographs.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from scenetok_ns.models.autoencoders import vavae, video_dcae, wan
from scenetok_ns.models.autoencoders.base import Autoencoder, to_channels_last
from scenetok_ns.models.autoencoders.registry import latent_space
from scenetok_ns.models.autoencoders.video_dcae_layers import VideoDCAEConfig, VideoDCAENetwork
from scenetok_ns.models.presets import AutoencoderConfig

PRECISIONS = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16}
console = Console(width=150)


@dataclass(frozen=True)
class Task:
    """One measured piece of work on a freshly built autoencoder."""

    name: str
    build: Callable[[], Autoencoder]
    """Function that builds the autoencoder in float32 on the default device."""
    inputs: Callable[[Autoencoder], Tensor]
    run: Callable[[Autoencoder, Tensor], Tensor]
    frames: int
    compiled_part: Callable[[Any], nn.Module] | None = None
    """Part that torch.compile can compile as a whole. None: no such part (diffusers' Wan caches in Python lists)."""


@dataclass(frozen=True)
class Variant:
    precision: str
    channels_last: bool
    compiled: bool


STRICT = Variant("float32", channels_last=False, compiled=False)


@dataclass(frozen=True)
class Result:
    task: str
    variant: Variant
    frames: int
    ms: float | None = None
    frames_per_second: float | None = None
    peak_gib: float | None = None
    """Peak of allocated device memory while running, including weights."""
    weights_gib: float | None = None
    relative_error: float | None = None
    first_run_s: float | None = None
    """Seconds of the first run, which includes compilation and the search for convolution algorithms."""
    runs: int = 0
    failure: str | None = None


def tasks(rehearse: bool) -> list[Task]:
    size = 32 if rehearse else 256
    images, latents, chunks = (2, 9, 1) if rehearse else (12, 32, 8)
    vavae_config = vavae.VAVAEConfig((32, 32, 32, 32, 64), 1) if rehearse else vavae.VAVAEConfig()
    dcae_config = VideoDCAEConfig(128, (8, 8, 8, 32, 32, 128), (1,) * 6, (1,) * 6) if rehearse else VideoDCAEConfig()
    wan_config = wan.WanConfig(8, 8, blocks_per_level=1) if rehearse else wan.WanConfig()
    vavae_space, dcae_space, wan_space = (
        latent_space(AutoencoderConfig(name)) for name in ("vavae", "video_dcae", "wan")
    )
    return [
        Task(
            f"VA-VAE encode {images} images",
            lambda: vavae.VAVAE(vavae_space, vavae.build_network(vavae_config)),
            lambda model: smooth_images(images, size),
            lambda model, x: model.encode(x),
            images,
            lambda model: model.network.encoder,
        ),
        Task(
            f"Video DC-AE decode {4 * latents} frames",
            lambda: video_dcae.VideoDCAE(dcae_space, VideoDCAENetwork(dcae_config)),
            lambda model: random_latents(model, latents, size),
            decode_unclamped_video,
            4 * latents,
            lambda model: model.network.decoder,
        ),
        Task(
            f"Wan 2.2 decode {17 * chunks} frames",
            lambda: wan.WanVAE(wan_space, wan.build_network(wan_config)),
            lambda model: random_latents(model, 5 * chunks, size),
            lambda model, x: model.decode(x),
            17 * chunks,
        ),
    ]


def decode_unclamped_video(model: Autoencoder, latents: Tensor) -> Tensor:
    """Decode without clamping. Random weights give values far outside the range of images, and clamping these would
    hide the rounding error."""
    assert isinstance(model, video_dcae.VideoDCAE)
    return model.decode_video(model.space.denormalize(latents))


def smooth_images(count: int, size: int) -> Tensor:
    """Create random images [1, count, 3, size, size] in [0, 1] whose spectrum falls off like that of photographs."""
    coarse = torch.rand(count, 3, size // 16, size // 16, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 1)[None]


def random_latents(model: Autoencoder, count: int, size: int) -> Tensor:
    shape = (1, count, model.space.channels, *model.space.latent_size((size, size)))
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def variants(task: Task, compiled: bool) -> Iterator[Variant]:
    """Yield the variants. Strict float32 always comes first, because the others are compared with it."""
    yield STRICT
    if not compiled:
        for precision, channels_last in itertools.product(PRECISIONS, (False, True)):
            if (variant := Variant(precision, channels_last, compiled=False)) != STRICT:
                yield variant
    elif task.compiled_part is not None:
        for channels_last in (False, True):
            yield Variant("bfloat16", channels_last, compiled=True)


def prepare(task: Task, variant: Variant, device: torch.device) -> Autoencoder:
    allow_tf32 = variant.precision == "tf32"
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allow_tf32
    torch.manual_seed(0)
    with torch.device(device):
        model = task.build()
    model = model.requires_grad_(False).eval().to(PRECISIONS[variant.precision])
    if variant.channels_last:
        to_channels_last(model)
    if variant.compiled and task.compiled_part is not None:
        task.compiled_part(model).compile()
    return model


def measure(
    task: Task, variant: Variant, reference: Tensor | None, device: torch.device, budget_s: float
) -> tuple[Result, Tensor]:
    """Run one variant at least twice, and until `budget_s` seconds are used up. Returns the result and the output."""
    model = prepare(task, variant, device)
    x = task.inputs(model).to(device)
    times: list[float] = []
    with torch.inference_mode():
        first, output = timed(lambda: task.run(model, x), device)
        output = output.float().cpu()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        while len(times) < 2 or (sum(times) < budget_s and len(times) < 50):
            times.append(timed(lambda: task.run(model, x), device)[0])
    error = 0.0 if variant == STRICT else None
    if reference is not None:
        error = float((output - reference).square().mean().sqrt() / reference.square().mean().sqrt())
    seconds = statistics.median(times)
    result = Result(
        task.name,
        variant,
        task.frames,
        ms=1e3 * seconds,
        frames_per_second=task.frames / seconds,
        peak_gib=torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None,
        weights_gib=sum(p.numel() * p.element_size() for p in model.parameters()) / 2**30,
        relative_error=error,
        first_run_s=first,
        runs=len(times),
    )
    return result, output


def timed(run: Callable[[], Tensor], device: torch.device) -> tuple[float, Tensor]:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    output = run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, output


def run_all(args: argparse.Namespace, device: torch.device) -> Iterator[Result]:
    for task in tasks(args.rehearse):
        if args.only and not any(word.lower() in task.name.lower() for word in args.only):
            continue
        reference: Tensor | None = None
        for variant in variants(task, args.compile):
            try:
                result, output = measure(task, variant, reference, device, args.seconds)
                if variant == STRICT:
                    reference = output
                del output
            except (RuntimeError, torch.cuda.OutOfMemoryError) as error:
                result = Result(task.name, variant, task.frames, failure=str(error).strip().splitlines()[0][:200])
            torch._dynamo.reset()
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
            yield result


def table_of(results: list[Result], title: str) -> Table:
    table = Table(title=title)
    for name in ("work", "precision", "layout", "compiled"):
        table.add_column(name)
    for name in ("ms", "frames/s", "peak GiB", "weights GiB", "error", "first s"):
        table.add_column(name, justify="right")
    for r in results:
        v = r.variant
        layout = "channels last" if v.channels_last else "contiguous"
        head = (r.task, v.precision, layout, "yes" if v.compiled else "no")
        if r.failure:
            table.add_row(*head, r.failure)
            continue
        figures = (r.ms, r.frames_per_second, r.peak_gib, r.weights_gib, r.relative_error, r.first_run_s)
        forms = ("{:.1f}", "{:.1f}", "{:.2f}", "{:.2f}", "{:.1e}", "{:.1f}")
        table.add_row(*head, *("-" if n is None else form.format(n) for n, form in zip(figures, forms, strict=True)))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="toy networks on the CPU, to test the script")
    parser.add_argument("--output", type=Path, default=Path("autoencoders.json"), help="JSON file to write")
    parser.add_argument("--only", nargs="*", default=[], help="run only tasks whose name contains one of these")
    parser.add_argument("--compile", action="store_true", help="measure bfloat16 under torch.compile instead")
    parser.add_argument("--seconds", type=float, default=5.0, help="time to spend on the timed runs of one variant")
    args = parser.parse_args()
    if not args.rehearse and not torch.cuda.is_available():
        parser.error("full size needs a CUDA device; --rehearse runs toy networks on the CPU")
    device = torch.device("cpu" if args.rehearse else "cuda")
    name = "CPU, toy networks: a rehearsal" if args.rehearse else torch.cuda.get_device_name()
    results: list[Result] = []
    for result in run_all(args, device):
        results.append(result)
        console.print(f"{result.task} {result.variant}: {result.failure or f'{result.ms:.1f} ms'}", highlight=False)
        report = {
            "device": name,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "rehearsal": args.rehearse,
            "results": [asdict(r) for r in results],
        }
        args.output.write_text(json.dumps(report, indent=1))  # after every variant: a killed run leaves its results
    console.print(table_of(results, f"Autoencoders on {name}, torch {torch.__version__}"))


if __name__ == "__main__":
    main()
