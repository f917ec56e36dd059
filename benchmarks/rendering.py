"""Measure speed and memory of encoding, rendering and generation, with the plain loop and the engine in one run.

Networks have full size and random weights. Presets whose networks and samplers are equal share a row.

    python benchmarks/rendering.py --output rendering.json
    python benchmarks/rendering.py --preset re10k --only path view     # only some of the work
    python benchmarks/rendering.py --skip-plain path "guidance 1"      # skip the slowest work of the plain loop
    python benchmarks/rendering.py --preset re10k --depth --how engine --only path     # what a depth head costs
    python benchmarks/rendering.py --preset re10k --low-vram re10k     # also the engine with --low-vram
    python benchmarks/rendering.py --low-vram re10k scenegen-shift4 --limit 4 --only whole     # only that, in 4 GiB
    python benchmarks/rendering.py --rehearse                          # the tiny presets on the CPU, to test the script

`floor` is the time for the arithmetic of the work (matrix products, convolutions and attention as the plain modules
compute them) at the speed of a large bfloat16 matrix product, measured in the same run. `first` is the time until the
first frames. `peak` is the device memory of tensors and CUDA graphs, including all weights. A whole path has the
highest peak of its preset. `reserved` is the most memory that the allocator has taken from the device, with gaps; CUDA
itself takes some 0.4 GiB more.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from scenetok_ns.models.autoencoders import vavae, video_dcae, wan
from scenetok_ns.models.autoencoders.base import Autoencoder, to_channels_last
from scenetok_ns.models.autoencoders.offload import OffloadedAutoencoder
from scenetok_ns.models.autoencoders.registry import build_autoencoder, latent_space
from scenetok_ns.models.autoencoders.video_dcae_layers import VideoDCAEConfig, VideoDCAENetwork
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.depth_weights import DepthSource, new_depth_head
from scenetok_ns.models.engine.options import EngineOptions
from scenetok_ns.models.flow.noise import latent_noise
from scenetok_ns.models.flow.sampling import path_schedule, sample_windows
from scenetok_ns.models.flow.windows import pad_path
from scenetok_ns.models.networks.depth_head import DepthHead
from scenetok_ns.models.presets import AutoencoderConfig, Preset, load_preset, preset_names
from scenetok_ns.models.scenegen import generate
from scenetok_ns.models.scenetok import SceneTok

console = Console(width=170)
GIB = 2**30
RUNS = 5
"""Number of timed runs of the engine; the result is their median. The plain loop is slow and is timed once."""
SLOW_MS = 2000
WITH_DEPTH = ", with depth"


@dataclass(frozen=True)
class Result:
    presets: str
    work: str
    how: str
    """Either "plain" or "engine"."""
    ms: float
    first_ms: float | None = None
    frames: int | None = None
    peak_gib: float | None = None
    reserved_gib: float | None = None
    floor_ms: float | None = None
    cold_s: float | None = None
    """Seconds of the first run, which lays out weights, compiles kernels and captures graphs."""
    kernels: list[tuple[str, int, float]] | None = None
    """With --profile: name, number of calls and milliseconds of the longest kernels in one run."""
    phases: dict[str, dict[str, float]] | None = None
    """Memory in GiB after each phase (`Phase`), if the work has phases."""

    @property
    def frames_per_second(self) -> float | None:
        return None if self.frames is None else 1e3 * self.frames / self.ms

    @property
    def over_floor(self) -> float | None:
        return None if not self.floor_ms else self.ms / self.floor_ms


@dataclass(frozen=True)
class Work:
    """One measured piece of work, as functions for the plain loop and the engine. Both yield frames or tensors."""

    name: str
    plain: Callable[[], Iterator[Tensor]]
    engine: Callable[[], Iterator[Tensor]]
    frames: int | None = None
    flops: Callable[[], float] | None = None
    prepare: Callable[[], None] | None = None
    """Function to call before each measurement, untimed, for things that must not be on the device any earlier."""


@dataclass(frozen=True)
class Phase:
    """Memory in GiB after a phase of the work."""

    tensors: float
    graphs: float
    """Memory of recorded graphs that no tensor uses."""
    peak: float
    """Most bytes of tensors so far, since the measurement began."""
    reserved: float
    """Most memory so far that the allocator has taken from the device."""

    @classmethod
    def now(cls, device: torch.device) -> Phase:
        counts = (torch.cuda.memory_allocated(device), graph_memory(), torch.cuda.max_memory_allocated(device))
        return cls(*(count / GIB for count in (*counts, torch.cuda.max_memory_reserved(device))))

    def __str__(self) -> str:
        graphs, peak = f"{self.graphs:.2f} more in graphs", f"peak so far {self.peak:.2f}"
        return f"{self.tensors:.2f} GiB in tensors, {graphs}, {peak}, reserved {self.reserved:.2f}"


class Bench:
    """A preset's model on the device, and the work to measure with it."""

    def __init__(self, preset: Preset, device: torch.device, *, low_vram: bool = False, exact: bool = False) -> None:
        self.preset, self.device = preset, device
        self.autoencoders = [random_autoencoder(config, device) for config in autoencoders_of(preset)]
        self.own = [OffloadedAutoencoder(each) if low_vram else each for each in self.autoencoders]
        """The autoencoders as the model uses them."""
        self.model = random_model(preset, self.own, device, low_vram)
        self.model.engine_options = None
        self.options = EngineOptions.for_device(device, autoencoders=not exact, low_vram=low_vram)
        self.frames = {"video_dcae": 128, "wan": 34}.get(preset.target_autoencoder.name, 16)
        self.images = torch.rand(preset.data.views.num_context, 3, *self.model.image_size, device=device)
        self.tokens = self.model.encode(self.images, self.cameras(len(self.images)))
        self.phases: dict[str, Phase] = {}
        """Memory after each phase of the work that is being measured, if it has phases."""

    def note(self, phase: str) -> None:
        """Note the memory after a phase. Repeated runs replace the notes of earlier ones."""
        if self.device.type == "cuda":
            self.phases[phase] = Phase.now(self.device)

    def cameras(self, count: int) -> CameraBatch:
        """Return the cameras of a walk to the right."""
        c2w = torch.eye(4).repeat(1, count, 1, 1)
        c2w[..., 0, 3] = torch.arange(count) / 50
        return CameraBatch(c2w, torch.eye(3).repeat(1, count, 1, 1)).to(self.device)

    def work(self, *, depth: bool = False) -> Iterator[Work]:
        """Yield all work. With `depth`, also yield the path with depth from a random depth head."""
        steps = self.preset.sampler.steps
        if self.model.low_vram:
            yield self._whole()  # first, while nothing of the model is on the device
        yield self._encode()
        yield self._denoise()
        yield self._decode()
        yield self._render(f"path of {self.frames} frames", self.frames, steps)
        if depth:
            path = self._render(f"path of {self.frames} frames{WITH_DEPTH}", self.frames, steps, depth=True)
            yield replace(path, prepare=self.add_depth_head)
        yield self._render(f"view, {steps} steps", 1, steps)
        yield self._render("view, 4 steps", 1, 4)
        if self.preset.scene_sampler is not None:
            yield from (self._generate(guidance) for guidance in (1.0, 3.0))

    def add_depth_head(self) -> None:
        """Give the model a random depth head, if it has none yet."""
        if self.model.depth.given is None:
            self.model.depth = DepthSource(random_depth_head(self.model))

    def use(self, how: str) -> None:
        """Choose the renderer, and move everything to where it is at the start of a run."""
        self.model.engine_options = self.options if how == "engine" else None
        for autoencoder in self.autoencoders:
            autoencoder.to("cpu")
        if how == "plain":  # autoencoders move to the device on first use, which must not be timed
            assert self.model.context_autoencoder and self.model.target_autoencoder

    def leave_the_device(self, limit: float | None) -> None:
        """Move everything to CPU memory, as for a model created there, and allow `limit` GiB of the device."""
        self.use("engine")
        assert self.model.engine_for(None) is not None
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            whole = torch.cuda.mem_get_info(self.device)[1]
            torch.cuda.set_per_process_memory_fraction(1.0 if limit is None else limit * GIB / whole)

    def _encode(self) -> Work:
        def run() -> Iterator[Tensor]:
            yield self.model.encode(self.images, self.cameras(len(self.images))).mean

        return Work(f"encode {len(self.images)} views", run, run, flops=lambda: flops_of(run))

    def _path(self) -> tuple[CameraBatch, Tensor]:
        space = self.model.target_autoencoder.space
        cameras = pad_path(self.cameras(self.frames), space.layout, self.preset.sampler.window)
        shape = (space.channels, *space.latent_size(self.model.image_size))
        noise = latent_noise(0, space.layout.num_latents(cameras.num_views), shape)
        return cameras, noise.to(self.device)

    def _denoise(self) -> Work:
        model, layout, sampler = self.model, self.model.target_autoencoder.space.layout, self.preset.sampler
        cameras, noise = self._path()
        tokens = self.tokens.mean[None]
        autocast = self.device.type == "cuda"

        def plain() -> Iterator[Tensor]:
            parts = sample_windows(model.denoiser, tokens, cameras, noise, layout, sampler, autocast=autocast)
            yield from (part.latents for part in parts)

        def engine() -> Iterator[Tensor]:
            made = model.engine_for(None)
            assert made is not None
            yield from made.sample_latents(model.denoiser, tokens, cameras, noise, layout, sampler)

        def flops() -> float:
            forwards = path_schedule(sampler, noise.shape[1]).steps
            one = replace(sampler, steps=1)
            window = noise[:, : sampler.window]
            few = cameras.select(slice(layout.num_frames(window.shape[1])))
            once = sample_windows(model.denoiser, tokens, few, window, layout, one, autocast=autocast)
            return forwards * flops_of(lambda: once)

        return Work(f"denoise {self.frames} frames", plain, engine, self.frames, flops)

    def _decode(self) -> Work:
        plain = self.autoencoders[1]
        _, noise = self._path()
        pieces = noise.split(max(plain.space.layout.latents_per_chunk, 4), dim=1)

        def engine() -> Iterator[Tensor]:
            made = self.model.engine_for(None)
            assert made is not None
            return made.copies.autoencoder(self.own[1]).decode_stream(pieces, num_frames=self.frames)

        def plainly() -> Iterator[Tensor]:
            return plain.decode_stream(pieces, num_frames=self.frames)

        return Work(f"decode {self.frames} frames", plainly, engine, self.frames, lambda: flops_of(plainly))

    def _render(self, name: str, frames: int, steps: int, *, depth: bool = False) -> Work:
        sampler = replace(self.preset.sampler, steps=steps)

        def run() -> Iterator[Tensor]:
            cameras = self.cameras(frames)
            for window in self.model.render_windows(self.tokens, cameras, sampler=sampler, depth=depth):
                assert (window.maps is not None) == depth
                yield window.frames

        return Work(name, run, run, frames)

    def _whole(self) -> Work:
        """Work of a whole path of one scene, from photographs to frames."""
        anchors = self.cameras(self.preset.data.views.num_context)

        def run() -> Iterator[Tensor]:
            if self.preset.scene_sampler is None:
                tokens = self.model.encode(self.images, self.cameras(len(self.images)))
            else:
                tokens = generate(self.model, self.images[:1], self.cameras(1), anchors)
            self.note("tokens")
            for number, window in enumerate(self.model.render_windows(tokens, self.cameras(self.frames))):
                self.note(f"window {number}")
                yield window.frames.cpu()

        name = "encode" if self.preset.scene_sampler is None else "generate"
        return Work(f"whole: {name}, denoise and decode {self.frames} frames", run, run, self.frames)

    def _generate(self, guidance: float) -> Work:
        assert self.preset.scene_sampler is not None
        sampler = replace(self.preset.scene_sampler, guidance=guidance)
        anchors = self.cameras(self.preset.data.views.num_context)

        def run() -> Iterator[Tensor]:
            yield generate(self.model, self.images[:1], self.cameras(1), anchors, sampler=sampler).mean

        return Work(f"generate, {sampler.steps} steps, guidance {guidance:g}", run, run)


def random_model(preset: Preset, autoencoders: list[Autoencoder], device: torch.device, low_vram: bool) -> SceneTok:
    """Build networks of full size. Layers that training initialises to zero get random weights, too: zeros would hide
    errors."""
    torch.manual_seed(0)
    with torch.device(device):
        model = SceneTok(preset, *autoencoders, low_vram=low_vram).eval().requires_grad_(False)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)
    return model.to(device)


def random_depth_head(model: SceneTok) -> DepthHead:
    """Build a depth head of full size with random weights."""
    head = new_depth_head(model.preset, model.denoiser).eval().requires_grad_(False)
    nn.init.normal_(head.last.weight, std=0.02)  # zero in a new head
    return head.to(model.device)


def autoencoders_of(preset: Preset) -> tuple[AutoencoderConfig, AutoencoderConfig]:
    return preset.context_autoencoder, preset.target_autoencoder


def random_autoencoder(config: AutoencoderConfig, device: torch.device) -> Autoencoder:
    """Build an autoencoder with random weights in the default precision of `build_autoencoder`."""
    half = torch.bfloat16 if device.type == "cuda" else torch.float32
    space = latent_space(config)
    made: Autoencoder
    torch.manual_seed(0)
    with torch.device(device):
        if config.name == "vavae":
            made = vavae.VAVAE(space, vavae.build_network(vavae.VAVAEConfig())).to(half)
        elif config.name == "video_dcae":
            made = video_dcae.VideoDCAE(space, VideoDCAENetwork(VideoDCAEConfig()))
        elif config.name == "wan":
            made = wan.WanVAE(space, wan.build_network(wan.WanConfig())).to(half)
            to_channels_last(made)
        else:
            made = build_autoencoder(config)
    return made.requires_grad_(False).eval()


def flops_of(run: Callable[[], Iterator[object]]) -> float:
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        for _ in run():
            pass
    return float(counter.get_total_flops())


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(run: Callable[[], Iterator[Tensor]], device: torch.device) -> tuple[float, float]:
    """Measure the milliseconds until the first result and until all results."""
    wait(device)
    start, first = time.perf_counter(), None
    for result in run():
        if first is None:
            if result.is_cuda:  # waits for this result only: later work may be in progress
                torch.cuda.current_stream(device).synchronize()
            first = time.perf_counter()
    wait(device)
    return 1e3 * ((first or start) - start), 1e3 * (time.perf_counter() - start)


def top_kernels(run: Callable[[], Iterator[Tensor]], count: int = 16) -> list[tuple[str, int, float]]:
    """Return name, number of calls and milliseconds of the kernels that take longest in one run."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile, torch.no_grad():
        for _ in run():
            pass
        torch.cuda.synchronize()
    events = sorted(profile.key_averages(), key=lambda event: -event.self_device_time_total)
    return [(event.key[:90], event.count, round(event.self_device_time_total / 1e3, 3)) for event in events[:count]]


def measure(args: argparse.Namespace, bench: Bench, names: str, work: Work, how: str, floor_ms: float | None) -> Result:
    device = bench.device
    run = work.plain if how == "plain" else work.engine
    if work.prepare is not None:
        work.prepare()
    bench.use(how)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    bench.phases = {}
    with torch.no_grad():
        try:
            first_run = timed(run, device)
        except torch.OutOfMemoryError:
            bench.note("out of memory")
            print_phases(bench)
            raise
        cold = first_run[1]
        if how == "engine":
            runs = [timed(run, device) for _ in range(RUNS)]
        else:  # there is nothing to lay out, compile or capture, so a long first run counts
            runs = [first_run if cold > SLOW_MS else timed(run, device)]
        profiled = how == "engine" and device.type == "cuda" and any(word in work.name for word in args.profile)
        kernels = top_kernels(run) if profiled else None
    print_phases(bench)
    return Result(
        presets=names,
        work=work.name,
        how=how,
        ms=statistics.median(total for _, total in runs),
        first_ms=statistics.median(first for first, _ in runs) if work.frames else None,
        frames=work.frames,
        peak_gib=peak_memory() / GIB if device.type == "cuda" else None,
        reserved_gib=torch.cuda.max_memory_reserved(device) / GIB if device.type == "cuda" else None,
        floor_ms=floor_ms,
        cold_s=cold / 1e3,
        kernels=kernels,
        phases={name: asdict(phase) for name, phase in bench.phases.items()} or None,
    )


def print_phases(bench: Bench) -> None:
    for name, phase in bench.phases.items():
        console.print(f"  {name}: {phase}", highlight=False)


def peak_memory() -> int:
    """Return the peak bytes of tensors, plus the memory that CUDA graphs reserve even while no tensor uses it."""
    return torch.cuda.max_memory_allocated() + graph_memory()


def graph_memory() -> int:
    """Return the bytes that CUDA graphs reserve and that no tensor uses."""
    segments = torch.cuda.memory_snapshot()
    return sum(s["total_size"] - s["allocated_size"] for s in segments if tuple(s["segment_pool_id"]) != (0, 0))


def matrix_speed(device: torch.device) -> float:
    """Measure the operations per second of a large bfloat16 matrix product of random numbers."""
    size = 8192 if device.type == "cuda" else 512
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    wait(device)
    start = time.perf_counter()
    for _ in range(10):
        a @ b
    wait(device)
    return 20 * size**3 / (time.perf_counter() - start)


def groups(presets: list[Preset]) -> Iterator[tuple[str, Preset]]:
    """Group presets that do the same work, under their joined names."""
    found: dict[str, list[Preset]] = {}
    for preset in presets:
        same = {f.name: getattr(preset, f.name) for f in dataclasses.fields(preset) if f.name in WORK_FIELDS}
        size = (preset.data.image_size, preset.data.views.num_context, preset.data.views.max_condition_views)
        found.setdefault(f"{same}{size}", []).append(preset)
    for members in found.values():
        yield ", ".join(member.name for member in members), members[0]


WORK_FIELDS = {
    "context_autoencoder",
    "target_autoencoder",
    "compressor",
    "denoiser",
    "sampler",
    "scene_generator",
    "scene_sampler",
}


def run_all(args: argparse.Namespace, device: torch.device, speed: float) -> Iterator[Result]:
    names = args.preset
    if not names and not args.low_vram:
        names = ["scenetok-tiny", "scenegen-tiny"] if args.rehearse else preset_names()
    for joined, preset in groups([load_preset(name) for name in names]):
        yield from run_preset(args, joined, preset, device, speed)
        gc.collect()
    for name in args.low_vram:
        yield from run_preset(args, f"{name}, low VRAM", load_preset(name), device, None)
        gc.collect()


def run_preset(
    args: argparse.Namespace, names: str, preset: Preset, device: torch.device, speed: float | None
) -> Iterator[Result]:
    """Measure the work of a preset. `speed` is the speed of matrix products, for the floors. None: measure with
    --low-vram, the engine only."""
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(1.0)  # models are made on the device, in float32
    bench = Bench(preset, device, low_vram=speed is None, exact=args.exact)
    if speed is None:
        bench.leave_the_device(args.limit)
    works = [
        work
        for work in bench.work(depth=args.depth)
        if not args.only or any(word in f"{names}: {work.name}" for word in args.only)
    ]
    floors: dict[str, float] = {}
    if speed is not None and "plain" in args.how:
        bench.use("plain")
        floors = {work.name: 1e3 * work.flops() / speed for work in works if work.flops}
    # The plain loop runs first, so that its memory peaks do not include the engine's copies.
    for how in args.how if speed is not None else ["engine"]:
        skipped = args.skip_plain if how == "plain" else []
        for work in works:
            if not any(word in work.name for word in skipped):
                yield measure(args, bench, names, work, how, floors.get(work.name))


def table_of(results: list[Result], title: str) -> Table:
    table = Table(title=title)
    for name in ("presets", "work", "how"):
        table.add_column(name)
    for name in ("ms", "first ms", "frames/s", "peak GiB", "reserved", "floor ms", "x floor", "cold s"):
        table.add_column(name, justify="right")
    for r in results:
        figures = (
            r.ms,
            r.first_ms,
            r.frames_per_second,
            r.peak_gib,
            r.reserved_gib,
            r.floor_ms,
            r.over_floor,
            r.cold_s,
        )
        forms = ("{:.1f}", "{:.1f}", "{:.1f}", "{:.2f}", "{:.2f}", "{:.1f}", "{:.2f}", "{:.1f}")
        cells = ("-" if n is None else form.format(n) for n, form in zip(figures, forms, strict=True))
        table.add_row(r.presets, r.work, r.how, *cells)
    return table


def depth_costs(results: list[Result]) -> dict[str, float]:
    """Return the time of each path with depth, divided by the time of the same path without."""
    times = {(r.presets, r.how, r.work): r.ms for r in results}
    found = {}
    for (presets, how, work), ms in times.items():
        without = times.get((presets, how, work.removesuffix(WITH_DEPTH)))
        if work.endswith(WITH_DEPTH) and without:
            found[f"{presets}, {how}"] = ms / without
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", nargs="*", default=[], help="names; none: all")
    parser.add_argument("--only", nargs="*", default=[], help="measure only work whose 'preset: work' contains one")
    parser.add_argument("--how", nargs="*", default=["plain", "engine"], choices=["plain", "engine"])
    parser.add_argument(
        "--profile", nargs="*", default=[], help="write the kernels of the engine's work that contains one of these"
    )
    parser.add_argument("--skip-plain", nargs="*", default=[], help="work that the plain loop skips")
    parser.add_argument("--depth", action="store_true", help="measure paths with the depth of a random head, too")
    parser.add_argument("--low-vram", nargs="*", default=[], help="presets to measure with --low-vram, too, or alone")
    parser.add_argument("--limit", type=float, metavar="GIB", help="with --low-vram: GPU memory that may be used")
    parser.add_argument("--exact", action="store_true", help="engine with the autoencoders in their own precision")
    parser.add_argument("--output", type=Path, default=Path("rendering.json"), help="JSON file to write")
    parser.add_argument("--rehearse", action="store_true", help="the tiny presets on the CPU")
    args = parser.parse_args()
    if not args.rehearse and not torch.cuda.is_available():
        parser.error("full size needs a CUDA device; --rehearse runs the tiny presets on the CPU")
    device = torch.device("cpu" if args.rehearse else "cuda")
    name = "CPU, tiny presets: a rehearsal" if args.rehearse else torch.cuda.get_device_name()
    speed = matrix_speed(device)
    console.print(f"{name}, torch {torch.__version__}, matrix products at {speed / 1e12:.1f} TFLOP/s")
    results: list[Result] = []
    for result in run_all(args, device, speed):
        results.append(result)
        console.print(f"{result.presets}: {result.work}, {result.how}: {result.ms:.1f} ms", highlight=False)
        report = {
            "device": name,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "matrix_tflops": speed / 1e12,
            "exact": args.exact,
            "depth_costs": depth_costs(results),
            "results": [asdict(r) for r in results],
        }
        args.output.write_text(json.dumps(report, indent=1))  # after every result: a killed run leaves its results
    console.print(table_of(results, f"{name}, torch {torch.__version__}"))
    for row, ratio in depth_costs(results).items():
        console.print(f"{row}: a path with depth takes {ratio:.3f} times as long as without", highlight=False)


if __name__ == "__main__":
    main()
