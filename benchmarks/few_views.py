"""Compare splatfacto, the tokenizer and the method that combines them on few photographs of rooms or of a capture.

    python benchmarks/few_views.py [--rooms 0 1 ... 7 | --capture FOLDER] [--cases 1 2 4 6 12 4h]
                                   [--methods nearest ... hybrid] [--size 128] [--steps 1500]
                                   [--report 250 500 1000 1500] [--processes 8] [--seconds 340]
                                   [--output FILE.json] [--pictures FOLDER] [--perceptual FILE.pth]

In a held-out room, a case is a number of photographs spread over a walk of 48 frames; `4h` means 4 photographs of the
first half of the walk. Every fourth of the other frames of the whole walk is scored. A pixel counts as seen if a
photograph shows its surface, by the room's exact depth.

With --capture, a case is a number of real photographs (default: 1 2 4 6 12), spread over those that the dataparser
nerfstudio-data trains on. The photographs that it evaluates on are scored. Lens distortion is removed, and
photographs are cropped to squares, as by all methods of this package. Poses are scaled to the units of the training
data by the spread of all cameras. There is no exact depth, so pixels are not divided into seen and unseen ones.

    nearest            the nearest photograph, copied
    splatfacto         Nerfstudio's, from points of a plane sweep over the photographs, at its best step. Choosing it
                       needs the truth, which is an advantage for splatfacto. Pictures are enlarged --enlarge times,
                       because its thresholds are made for larger ones
    splatfacto-random  the same from random points
    splatfacto-depth   scenetok-splat without rendered views: splats with the tokenizer's depth as a regulariser
    scenetok           the tokenizer, one joint rendering
    refined            the same after --refine-steps steps on the photographs
    hybrid             scenetok-splat

Rows contain PSNR and SSIM (means over frames), PSNR of seen and of unseen pixels (from the mean square over all
frames), the share of pixels that are holes (accumulation below one half), the seconds of the whole work, the peak
memory of tensors on the GPU in GiB, and with --perceptual (the weights of ST-LPIPS's AlexNet) its distance. Rows are
written after each method, so an interrupted run keeps its results; --seconds ends a run. Means are taken over scenes
in which all methods of a case have ended. Splats need CUDA; processes share the GPU.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from rich.console import Console
from rich.table import Table
from splatfacto import NoLpips, device_name, synchronize
from torch import Tensor

from scenetok_ns.data.demo.render import render_depths
from scenetok_ns.data.demo.scenes import render_rooms, sample_rooms, sample_walks
from scenetok_ns.data.scenes import Views
from scenetok_ns.evaluation.baselines import nearest_view
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.metrics import picture_metrics
from scenetok_ns.models.presets import load_preset
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.models.tokens import SceneTokens
from scenetok_ns.rendering.dataset_export import write_dataset
from scenetok_ns.rendering.joint_views import pixels_unseen
from scenetok_ns.rendering.picture_files import save_picture, sheet
from scenetok_ns.rendering.views import RenderedViews
from scenetok_ns.splats.points import surface_points
from scenetok_ns.training.scene_refinement import RefineOptions, refine_scene
from scenetok_ns.training.tiny.run import HELD_OUT_SEED

PRESET = "scenetok-tiny"
METHODS = (
    "nearest",
    "scenetok",
    "refined",
    "splatfacto",
    "splatfacto-random",
    "splatfacto-depth",
    "hybrid",
)
SPLATS = METHODS[3:]
CASES, HALF = ("1", "2", "4", "6", "12"), "4h"
"""Default cases, and the one that only rooms have."""
NUM_FRAMES, EVERY = 48, 4
MOST_GAUSSIANS = 1_000_000
"""Maximum number of Gaussians. splatfacto is stopped beyond it, because it would go on to fill the GPU."""


@dataclass(frozen=True)
class Case:
    """Photographs that a method gets, and views that it has to render."""

    name: str
    """Number of photographs, followed by `h` if they are from the first half of the walk."""
    given: RenderedViews
    asked: RenderedViews
    unseen: Bool[Tensor, "n h w"] | None
    """Pixels of the asked views whose surface no photograph shows. None: unknown, because there is no exact depth."""
    pose_scale: float = 1.0
    """Factor from units of the cameras to training units."""


class Scene(Protocol):
    """Source of cases. Scenes are sent to other processes, so they read nothing before `case`."""

    @property
    def name(self) -> str: ...

    @property
    def drawn(self) -> bool:
        """Whether sheets of pictures are written."""

    def case(self, name: str, size: int, device: torch.device | str = "cpu") -> Case:
        """Create a case with pictures of size x size pixels and 256 levels."""


@dataclass(frozen=True)
class Room:
    """Held-out room of the model card."""

    number: int
    drawn: bool = False

    @property
    def name(self) -> str:
        return f"room{self.number}"

    def case(self, name: str, size: int, device: torch.device | str = "cpu") -> Case:
        rooms = sample_rooms([HELD_OUT_SEED + self.number], device)
        c2w = sample_walks(rooms, NUM_FRAMES)
        chosen = context_frames(name)
        scored = [frame for frame in range(1, NUM_FRAMES, EVERY) if frame not in chosen]

        def views(frames: list[int]) -> tuple[RenderedViews, Float[Tensor, "n 1 h w"]]:
            poses = c2w[:, frames]
            pictures = (render_rooms(rooms, poses, rooms.intrinsics, size)[0] * 255).round() / 255
            depth = render_depths(rooms, poses, rooms.intrinsics, size)[0, :, None]
            cameras = CameraBatch(poses, rooms.intrinsics[:, None].expand(-1, len(frames), 3, 3))
            return RenderedViews(pictures, cameras), depth

        (given, given_depth), (asked, asked_depth) = views(chosen), views(scored)
        unseen = pixels_unseen(asked_depth, asked.cameras, given.cameras, given_depth)
        return Case(name, given, asked, unseen)


@dataclass(frozen=True)
class Capture:
    """Capture in the form of nerfstudio-data. Its views are those that the scenetok commands encode and evaluate on."""

    folder: Path
    drawn: bool = True

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    def case(self, name: str, size: int, device: torch.device | str = "cpu") -> Case:
        """Read a case. Raises DataError or BadScene if that is impossible."""
        from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

        from scenetok_ns.bridge.scene_views import read_capture

        dataparser = NerfstudioDataParserConfig(data=self.folder).setup()
        source = read_capture(dataparser, "test", typical_spread=load_preset(PRESET).data.camera_spread)
        scene, chosen = source.read(), source.fixed_views(int(name))

        def views(found: Views) -> RenderedViews:
            cameras = CameraBatch(found.c2w[None], found.intrinsics[None])
            return RenderedViews(found.images.to(device).float() / 255, cameras.to(device))

        given, asked = (views(scene.load_views(part, (size, size))) for part in (chosen.context, chosen.target))
        return Case(name, given, asked, None, source.pose_scale)


def context_frames(name: str) -> list[int]:
    """Frame numbers of the photographs, spread over the walk or its first half. A single one lies in the middle."""
    count, half = int(name.removesuffix("h")), name.endswith("h")
    last = NUM_FRAMES // 2 - 1 if half else NUM_FRAMES - 1
    if count == 1:
        return [last // 2]
    return torch.linspace(0, last, count).round().long().tolist()


@dataclass(frozen=True)
class Shown:
    """Frames that a method rendered at the cameras of a case."""

    pictures: Float[Tensor, "n 3 h w"]
    alpha: Float[Tensor, "n 1 h w"] | None = None
    seconds: float = 0.0
    steps: int = 0
    gaussians: int = 0


def scores(shown: Shown, case: Case, perceptual: Any = None) -> dict[str, float]:
    """Compute all figures of one result."""
    truth = case.asked.frames
    pred = shown.pictures.to(truth).clamp(0, 1)
    values = {name: float(value.mean()) for name, value in picture_metrics(pred=pred, target=truth).items()}
    error = (pred - truth).square().mean(dim=1)
    if case.unseen is not None:
        for name, where in (("seen", ~case.unseen), ("unseen", case.unseen)):
            if where.any():
                values[f"psnr_{name}"] = -10 * math.log10(max(float(error[where].mean()), 1e-10))
        values["unseen"] = float(case.unseen.float().mean())
    values["holes"] = 0.0 if shown.alpha is None else float((shown.alpha < 0.5).float().mean())
    if perceptual is not None:
        with torch.no_grad():
            values["stlpips"] = float(perceptual.to(truth.device)(pred, truth).mean())
    return values


# --- The tokenizer ---


@lru_cache(maxsize=1)
def tokenizer(device: str) -> SceneTok:
    model = SceneTok.from_preset(load_preset(PRESET))
    model.load_embedded()
    return model.to(device).eval()


def encoded(model: SceneTok, case: Case) -> tuple[SceneTokens, Tensor]:
    """Encode the photographs at the model's size. Returns the tokens and the resized photographs."""
    frames = F.interpolate(case.given.frames, size=model.image_size, mode="bicubic", antialias=True).clamp(0, 1)
    return model.encode(frames, case.given.cameras, pose_scale=case.pose_scale), frames


def show_tokens(model: SceneTok, tokens: SceneTokens, case: Case) -> Tensor:
    size = case.asked.frames.shape[-2:]
    frames = model.render(tokens, case.asked.cameras)
    return frames if frames.shape[-2:] == size else F.interpolate(frames, size=size, mode="bicubic").clamp(0, 1)


def show_scenetok(case: Case, options: argparse.Namespace) -> Shown:
    model = tokenizer(options.device)
    begin = time.perf_counter()
    tokens, _ = encoded(model, case)
    pictures = show_tokens(model, tokens, case)
    synchronize(model.device)
    return Shown(pictures, seconds=time.perf_counter() - begin)


def show_refined(case: Case, options: argparse.Namespace) -> Shown:
    model = tokenizer(options.device)
    begin = time.perf_counter()
    tokens, frames = encoded(model, case)
    images = (frames * 255).round().byte()
    refined, tokens = refine_scene(model, tokens, images, case.given.cameras, RefineOptions(steps=options.refine_steps))
    pictures = show_tokens(refined, tokens, case)
    synchronize(model.device)
    return Shown(pictures, seconds=time.perf_counter() - begin, steps=options.refine_steps)


def show_nearest(case: Case) -> Shown:
    chosen = nearest_view(case.given.cameras.c2w[0], case.asked.cameras.c2w[0], case.pose_scale)
    return Shown(case.given.frames[chosen])


# --- Splats ---


def splat_trainer(folder: Path, case: Case, method: str, options: argparse.Namespace) -> Any:
    """Create a Nerfstudio trainer for the case's photographs, without viewer and checkpoints."""
    import torchmetrics.image.lpip

    torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity = NoLpips
    from nerfstudio.configs.method_configs import method_configs

    from scenetok_ns.plugin.methods import scenetok_splat

    stock = method in ("splatfacto", "splatfacto-random")
    factor = options.enlarge if stock else 1
    (folder / "data").mkdir()
    swept = method == "splatfacto" and len(case.given.frames) > 1
    points = surface_points(case.given.frames, case.given.cameras) if swept else None
    given, asked = (views.resized(factor * options.size) for views in (case.given, case.asked))
    write_dataset(folder / "data", given, asked, points)
    config = copy.deepcopy(method_configs["splatfacto"] if stock else scenetok_splat.config)
    config.vis = "none"
    manager = config.pipeline.datamanager
    config.data = manager.data = folder / "data"
    config.output_dir, config.experiment_name, config.timestamp = folder / "out", "few", "run"
    config.logging.local_writer.enable = False
    config.machine.device_type = options.device
    config.max_num_iterations = options.steps
    if not stock:
        manager.preset, manager.pose_scale, manager.refine_steps = PRESET, case.pose_scale, options.refine_steps
        manager.least_psnr = 0.0  # below it, both methods would use the photographs alone, and be splatfacto
        manager.engine = "off"  # preparing its kernels in each process takes longer than rendering without it
        manager.anneal_steps = config.pipeline.model.stop_split_at = options.steps * 3 // 4
        if method == "splatfacto-depth":
            manager.num_renders = 0
    torch.manual_seed(config.machine.seed)
    return config.setup(local_rank=0, world_size=1)


def show_splats(case: Case, method: str, options: argparse.Namespace) -> Iterator[Shown]:
    """Yield renders of the splats after each step count of --report, and after the last step."""
    from nerfstudio.engine.callbacks import TrainingCallbackLocation

    begin, seconds = time.perf_counter(), 0.0
    with tempfile.TemporaryDirectory() as folder:
        trainer = splat_trainer(Path(folder), case, method, options)
        trainer.setup()
        model = trainer.pipeline.model
        model.get_metrics_dict = lambda outputs, batch: {}  # only used by the log, which is off
        for step in range(options.steps):
            trainer.pipeline.train()
            for callback in trainer.callbacks:
                callback.run_callback_at_location(step, location=TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
            trainer.train_iteration(step)
            for callback in trainer.callbacks:
                callback.run_callback_at_location(step, location=TrainingCallbackLocation.AFTER_TRAIN_ITERATION)
            last = step + 1 == options.steps or model.num_points > MOST_GAUSSIANS
            if not last and step + 1 not in options.report:
                continue
            synchronize(torch.device(trainer.device))
            seconds += time.perf_counter() - begin
            trainer.pipeline.eval()
            loader = trainer.pipeline.datamanager.fixed_indices_eval_dataloader
            outputs = [model.get_outputs_for_camera(camera) for camera, _ in loader]
            rgb, alpha = (
                torch.stack([one[name].permute(2, 0, 1) for one in outputs]) for name in ("rgb", "accumulation")
            )
            factor = rgb.shape[-1] // options.size
            pictures, covered = (F.avg_pool2d(values, factor) if factor > 1 else values for values in (rgb, alpha))
            yield Shown(pictures, covered, seconds, step + 1, model.num_points)
            begin = time.perf_counter()
            if last:
                break


# --- All of them ---


def results(case: Case, method: str, options: argparse.Namespace) -> Iterator[Shown]:
    if method == "nearest":
        yield show_nearest(case)
    elif method == "scenetok":
        show_scenetok(case, options)  # the first call is slower, because kernels are chosen
        yield show_scenetok(case, options)
    elif method == "refined":
        yield show_refined(case, options)
    else:
        yield from show_splats(case, method, options)


@lru_cache(maxsize=1)
def perceptual_of(file: Path | None) -> Any:
    from scenetok_ns.evaluation.perceptual import stlpips

    return None if file is None else stlpips(file).eval()


def measure(task: tuple[Scene, str, str], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Compute all rows of one method on one case. An error becomes a row with its message."""
    scene, name, method = task
    about = {"scene": scene.name, "case": name, "method": method}
    on_gpu = torch.device(options.device).type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    try:
        case = scene.case(name, options.size, options.device)
        rows = []
        for shown in results(case, method, options):
            found = scores(shown, case, perceptual_of(options.perceptual))
            kept = {"seconds": shown.seconds, "steps": shown.steps, "gaussians": shown.gaussians}
            kept["gib"] = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else 0.0
            rows.append({**about, **kept, **found})
            if options.pictures is not None and scene.drawn:
                options.pictures.mkdir(parents=True, exist_ok=True)
                strips = [case.asked.frames[::2].cpu(), shown.pictures[::2].cpu().clamp(0, 1)]
                save_picture(options.pictures / f"{scene.name}-{name}-{method}.png", sheet(strips))
        return rows
    except Exception as error:  # a method that fails must not end the others
        return [{**about, "failed": f"{type(error).__name__}: {error}"[:300]}]


def best_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Select one row per method, case and scene: the best step of stock splatfacto, the last step of all others."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in rows:
        if "failed" in row:
            continue
        key = row["scene"], row["case"], row["method"]
        stock = row["method"] in ("splatfacto", "splatfacto-random")
        if key not in found or not stock or row["psnr"] > found[key]["psnr"]:
            found[key] = row
    return list(found.values())


def means(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over the scenes that all methods of a case have."""
    best = best_rows(rows)
    table = []
    for case in sorted({row["case"] for row in best}, key=lambda name: (name.endswith("h"), int(name.rstrip("h")))):
        of_case = [row for row in best if row["case"] == case]
        methods = [method for method in METHODS if any(row["method"] == method for row in of_case)]
        scenes = set.intersection(*({row["scene"] for row in of_case if row["method"] == m} for m in methods))
        for method in methods:
            kept = [row for row in of_case if row["method"] == method and row["scene"] in scenes]
            if not kept:
                continue
            names = [name for name in kept[0] if name not in ("scene", "case", "method")]
            line: dict[str, Any] = {"case": case, "method": method, "scenes": len(kept)}
            for name in names:
                values = [row[name] for row in kept if name in row]
                line[name] = statistics.fmean(values)
                if name in ("psnr", "psnr_unseen") and len(values) > 1:
                    line[f"{name}_spread"] = statistics.stdev(values)
            table.append(line)
    return table


def write_report(options: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    about = {"device": device_name(), "torch": torch.__version__, "options": vars(options), "means": means(rows)}
    partial_file = options.output.with_suffix(".part")
    partial_file.write_text(json.dumps({**about, "rows": rows}, indent=1, default=str))
    partial_file.replace(options.output)


def scenes_of(options: argparse.Namespace) -> list[Scene]:
    if options.capture is not None:
        return [Capture(options.capture)]
    return [Room(number, drawn=number in options.drawn) for number in options.rooms]


def tasks_of(options: argparse.Namespace) -> list[tuple[Scene, str, str]]:
    """List the tasks scene by scene, the longest first. With one photograph there is no plane sweep, so splatfacto only
    starts from random points."""
    order = [method for method in (*SPLATS[::-1], *METHODS[:3][::-1]) if method in options.methods]
    found = []
    for scene in scenes_of(options):
        for method in order:
            for case in options.cases:
                needless = "splatfacto" if case.rstrip("h") == "1" else "splatfacto-random"
                if options.all or method != needless:
                    found.append((scene, case, method))
    return found


def say(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        head = f"{row['scene']}  {row['case']:>3} photographs  {row['method']}"
        if "failed" in row:
            print(f"{head}: failed: {row['failed']}", flush=True)
        else:
            unseen = f" (unseen {row['psnr_unseen']:.2f})" if "psnr_unseen" in row else ""
            print(
                f"{head}, {row['steps']} steps: {row['psnr']:.2f} dB{unseen}, SSIM {row['ssim']:.3f}, "
                f"holes {row['holes']:.1%}, {row['seconds']:.1f} s",
                flush=True,
            )


def parse_options(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line (None: of this process), and fill in the defaults of rooms or of a capture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    scenes = parser.add_mutually_exclusive_group()
    scenes.add_argument("--rooms", type=int, nargs="+", default=list(range(8)), help="numbers of held-out rooms")
    scenes.add_argument("--capture", type=Path, help="folder with transforms.json and photographs, instead of rooms")
    parser.add_argument("--cases", nargs="+", help=f"default: {' '.join(CASES)}, and without --capture also {HALF}")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--all", action="store_true", help="run splatfacto from both kinds of points in every case")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=1500, help="of splats")
    parser.add_argument("--report", type=int, nargs="+", default=[250, 500, 1000])
    parser.add_argument("--enlarge", type=int, default=4, help="factor by which splatfacto's pictures are enlarged")
    parser.add_argument("--refine-steps", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=math.inf, help="end the whole benchmark after this time")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--perceptual", type=Path, help="weights of ST-LPIPS (AlexNet)")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    parser.add_argument("--pictures", type=Path, help="folder for sheets: the truth and, below it, the renders")
    parser.add_argument("--drawn", type=int, nargs="+", help="rooms of the sheets; default: 0 1")
    options = parser.parse_args(words)
    if options.cases is None:
        options.cases = [*CASES] if options.capture is not None else [*CASES, HALF]
    if options.capture is not None and any(case.endswith("h") for case in options.cases):
        parser.error("half a walk needs a room; give --cases without h with --capture, such as --cases 6 12")
    if options.capture is not None and options.drawn is not None:
        parser.error("--drawn chooses among rooms; leave it out with --capture")
    if options.drawn is None:
        options.drawn = [0, 1]
    return options


def main() -> None:
    options = parse_options()
    end = time.monotonic() + options.seconds
    rows: list[dict[str, Any]] = []
    # Spawned processes, because forked ones cannot use CUDA. Tasks follow one another in them.
    pool = multiprocessing.get_context("spawn").Pool(options.processes)
    try:
        found = pool.imap_unordered(partial(measure, options=options), tasks_of(options))
        for _ in tasks_of(options):
            new = found.next(timeout=None if math.isinf(options.seconds) else max(end - time.monotonic(), 0.1))
            say(new)
            rows += new
            if options.output is not None:
                write_report(options, rows)
    except multiprocessing.TimeoutError:
        print(f"ended after {options.seconds:.0f} seconds", flush=True)
    finally:
        pool.terminate()
    columns = ("case", "method", "scenes", "psnr", "psnr_seen", "psnr_unseen", "ssim", "stlpips", "holes", "seconds")
    table = Table(title=f"{options.size} x {options.size}, {device_name()}, torch {torch.__version__}")
    for column in columns:
        table.add_column(column, justify="left" if column in ("case", "method") else "right")
    for line in means(rows):
        cells = [line.get(column, "") for column in columns]
        table.add_row(*(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in cells))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
