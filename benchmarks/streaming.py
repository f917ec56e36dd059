"""Speed and quality of streams and few-step students.

    python benchmarks/streaming.py --full-size --output full-size.json              # on a GPU, random weights
    python benchmarks/streaming.py --rooms 4 --stlpips --output streaming.json      # the bundled model
    python benchmarks/streaming.py --student student.safetensors --output student.json
    python benchmarks/streaming.py --rooms 1 --frames 60 --output rehearsal.json    # the script runs, on a CPU

`--full-size` measures 1, 2 and 4 steps: the milliseconds per decoded chunk (4 frames) once the window is full, the time
to open a stream and get its first frame, and frames per second if chunks follow each other without a pause. It also
measures 128 frames by a window student in 4 steps.

Otherwise it compares the bundled model's stream with its window sampler, on held-out rooms from 12 views, in 1 and 2
steps. It reports PSNR and perceptual distance, and frames per second. It also renders a frozen camera, a round that
ends where it began, and a walk there and back, whose first and last 100 frames show the same views.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from scenetok_ns.data.demo.scenes import render_rooms, sample_rooms, sample_walks, scene_seed
from scenetok_ns.evaluation.perceptual import stlpips
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.presets import load_preset
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.models.student_weights import Student, StudentSource
from scenetok_ns.models.tokens import SceneTokens
from scenetok_ns.training.tiny.evaluation import closed_round, mean_psnr
from scenetok_ns.training.tiny.tokenizer import middle_views

STLPIPS_FILE = "weights/vST0.0/alex_shift_tolerant.pth"
WALK, CONTEXT, SIZE = 48, 12, 128
ENDS = 100
"""Number of frames at each end of the long walk; every fourth is compared with the true picture."""
TIMED = 40
"""Number of timed chunks; their median is reported."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full-size", action="store_true")
    parser.add_argument("--preset", default="re10k", help="with --full-size")
    parser.add_argument("--student", type=Path, help="student of the bundled model; default: its own denoiser")
    parser.add_argument("--rooms", type=int, default=4)
    parser.add_argument("--frames", type=int, default=1000, help="length of the long walk")
    parser.add_argument(
        "--stlpips", nargs="?", const="", metavar="FILE", help="weights; default: of the package stlpips-pytorch"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    device = torch.device(options.device)
    found = full_size(options.preset, device) if options.full_size else bundled(options, device)
    options.output.write_text(json.dumps(found, indent=1))
    print(json.dumps(found, indent=1))


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def milliseconds(run: Callable[[], object], device: torch.device) -> float:
    wait(device)
    start = time.perf_counter()
    run()
    wait(device)
    return 1e3 * (time.perf_counter() - start)


def walk(count: int, device: torch.device) -> CameraBatch:
    """A walk to the right."""
    c2w = torch.eye(4).repeat(1, count, 1, 1)
    c2w[..., 0, 3] = torch.arange(count) / 50
    return CameraBatch(c2w, torch.eye(3).repeat(1, count, 1, 1)).to(device)


@torch.no_grad()
def full_size(name: str, device: torch.device) -> dict[str, float]:
    from rendering import autoencoders_of, random_autoencoder, random_model  # the script beside this one

    preset = load_preset(name)
    autoencoders = [random_autoencoder(config, device) for config in autoencoders_of(preset)]
    model = random_model(preset, autoencoders, device, False)
    images = torch.rand(preset.data.views.num_context, 3, *model.image_size, device=device)
    tokens = model.encode(images, walk(len(images), device))
    found = {}
    for steps in (1, 2, 4):
        model.students = StudentSource(Student(model.denoiser, True, steps))
        found |= {f"steps_{steps}_{key}": value for key, value in stream_times(model, tokens, device).items()}
    model.students = StudentSource(Student(model.denoiser, False, 4))
    cameras = walk(128, device)

    def windows() -> None:
        for _ in model.stream_windows(tokens, cameras):
            pass

    windows()
    times = [milliseconds(windows, device) for _ in range(5)]
    found["window_student_frames_per_second"] = 128e3 / statistics.median(times)
    if device.type == "cuda":
        found["peak_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    return found


def stream_times(model: SceneTok, tokens: SceneTokens, device: torch.device) -> dict[str, float]:
    started = time.perf_counter()
    stream = model.open_stream(tokens)
    wait(device)
    opened = time.perf_counter() - started
    size = stream.layout.frames_per_chunk
    cameras = walk((3 * TIMED) * size, torch.device("cpu"))

    def step(index: int) -> Tensor:
        return stream.next(cameras.select(slice(index * size, (index + 1) * size))).frames

    for index in range(TIMED):  # warm-up: decoders compile and capture graphs, and the window fills
        step(index)
    times = [milliseconds(lambda index=index: step(index), device) for index in range(TIMED, 2 * TIMED)]

    def many() -> None:
        for index in range(2 * TIMED, 3 * TIMED):
            step(index)

    together = milliseconds(many, device)
    again = milliseconds(lambda: model.open_stream(tokens).next(cameras.select([0])).frames.cpu(), device)
    return {
        "ms_per_chunk": statistics.median(times),
        "slowest_ms": max(times),
        "frames_per_second": 1e3 * size * TIMED / together,
        "first_open_s": opened,
        "open_and_first_frame_ms": again,
    }


class Rooms:
    """Held-out rooms, their tokens and true pictures."""

    def __init__(self, model: SceneTok, count: int, device: torch.device) -> None:
        self.model, self.device = model, device
        self.rooms = sample_rooms([scene_seed(0, "test", index) for index in range(count)], device)
        self.walk = sample_walks(self.rooms, WALK)
        self.truth = self.render(self.walk)
        context = middle_views(WALK, CONTEXT).tolist()
        self.tokens = [
            model.encode(self.truth[room, context], self.cameras(self.walk, room).select(context))
            for room in range(count)
        ]

    def cameras(self, c2w: Tensor, room: int) -> CameraBatch:
        return CameraBatch(c2w[room][None], self.rooms.intrinsics[room].expand(1, c2w.shape[1], 3, 3))

    def render(self, c2w: Tensor) -> Tensor:
        return render_rooms(self.rooms, c2w, self.rooms.intrinsics, SIZE)

    def streamed(self, c2w: Tensor, steps: int) -> Tensor:
        paths = [
            self.model.stream_windows(tokens, self.cameras(c2w, room), steps=steps)
            for room, tokens in enumerate(self.tokens)
        ]
        return torch.stack([torch.cat([part.frames[0].cpu() for part in path]) for path in paths])

    def sampled(self, c2w: Tensor, steps: int | None = None) -> Tensor:
        sampler = self.model.preset.sampler
        sampler = sampler if steps is None else replace(sampler, steps=steps)
        pairs = enumerate(self.tokens)
        return torch.stack([self.model.render(t, self.cameras(c2w, i), sampler=sampler).cpu() for i, t in pairs])


@torch.no_grad()
def bundled(options: argparse.Namespace, device: torch.device) -> dict[str, float]:
    model = SceneTok.from_pretrained("scenetok-tiny", device=device)
    if options.student is not None:
        model.students = StudentSource(options.student)
    else:
        model.students = StudentSource(Student(model.denoiser, True, model.preset.sampler.steps))
    rooms = Rooms(model, options.rooms, device)
    truth, still = rooms.truth.cpu(), rooms.walk[:, 24:25].expand(-1, 24, -1, -1)
    round_trip = closed_round(rooms.walk[:, 24], 96)
    there = sample_walks(rooms.rooms, options.frames // 2)
    long = torch.cat([there, there.flip(1)], dim=1)
    shown = list(range(0, min(ENDS, options.frames // 2), 4))
    true_ends = rooms.render(there[:, shown]).cpu()
    perceptual = None if options.stlpips is None else perceptual_distance(options.stlpips, device)
    found: dict[str, float] = {}

    def measure(name: str, render: Callable[[Tensor], Tensor], *, ends: bool) -> None:
        made, frozen, turned = render(rooms.walk), render(still), render(round_trip)
        found[f"{name}_psnr"] = mean_psnr(made, truth)
        if perceptual is not None:
            found[f"{name}_stlpips"] = perceptual(made, truth)
        found[f"{name}_frozen"] = mean_psnr(frozen[:, 1:], frozen[:, :-1])
        found[f"{name}_frozen_first_to_last"] = mean_psnr(frozen[:, -1:], frozen[:, :1])
        found[f"{name}_return"] = mean_psnr(turned[:, -1:], turned[:, :1])
        if ends:
            walked = render(long)
            found[f"{name}_first_{ENDS}"] = mean_psnr(walked[:, shown], true_ends)
            found[f"{name}_last_{ENDS}"] = mean_psnr(walked.flip(1)[:, shown], true_ends)
        print({key: round(value, 3) for key, value in found.items() if key.startswith(name)}, flush=True)

    for steps in (1, 2):
        measure(f"window_{steps}", lambda c2w, steps=steps: rooms.sampled(c2w, steps), ends=False)
        measure(f"student_{steps}", lambda c2w, steps=steps: rooms.streamed(c2w, steps), ends=True)
    for threads in (1, 2) if device.type == "cpu" else (torch.get_num_threads(),):
        torch.set_num_threads(threads)
        for steps in (1, 2):
            stream, path = model.open_stream(rooms.tokens[0], steps=steps), rooms.cameras(rooms.walk, 0)
            times = [
                milliseconds(lambda i=i, stream=stream, path=path: stream.next(path.select([i])).frames.cpu(), device)
                for i in range(WALK)
            ]
            found[f"frames_per_second_{steps}_steps_{threads}_threads"] = 1e3 / statistics.median(times[8:])
        render = statistics.median(
            milliseconds(lambda: model.render(rooms.tokens[0], rooms.cameras(rooms.walk, 0)).cpu(), device)
            for _ in range(3)
        )
        found[f"window_frames_per_second_{threads}_threads"] = 1e3 * WALK / render
    return found


def perceptual_distance(file: str, device: torch.device) -> Callable[[Tensor, Tensor], float]:
    weights = Path(file) if file else packaged_stlpips()
    network = stlpips(weights).to(device)

    def distance(made: Tensor, true: Tensor) -> float:
        pairs = zip(made, true, strict=True)
        return float(torch.cat([network(a[::4].to(device), b[::4].to(device)) for a, b in pairs]).mean())

    return distance


def packaged_stlpips() -> Path:
    spec = find_spec("stlpips_pytorch")
    if spec is None or spec.origin is None:
        raise SystemExit("--stlpips needs a file, or the package stlpips-pytorch: pip install stlpips-pytorch")
    return Path(spec.origin).parent / STLPIPS_FILE


if __name__ == "__main__":
    main()
