"""Compare the bundled scenetok-tiny with Nerfstudio's splatfacto on the same 12 photographs of held-out rooms.

    python benchmarks/splatfacto.py [--rooms 0 1 2] [--methods scenetok-tiny native enlarged points] [--steps 30000]
                                    [--report 500 1000 3000] [--enlarge 8] [--seconds 60] [--processes 1]
                                    [--output FILE.json] [--pictures FOLDER]

Rooms and views are those of the model card's evaluation: 12 context views spread over a walk of 48 frames at 64 x 64,
and windows of 8 other frames. splatfacto has its default settings on a nerfstudio-data set of the context views. Its
thresholds are made for photographs of several hundred pixels: until step 4,000 it splits each Gaussian whose radius is
more than a twentieth of the picture. It begins with pictures a quarter as wide, and no radius is less than two pixels,
so in pictures of 16 pixels it splits all Gaussians, every 100 steps. It is therefore run in three ways:

    native      on the 64 x 64 pictures as they are, with Gaussians starting at random (there is no point cloud)
    enlarged    on pictures enlarged --enlarge times (bicubic); its renders are averaged back before the comparison
    points      the same, starting from the points of a plane sweep over the 12 views, instead of COLMAP's

It is evaluated at the steps of --report. Its settings depend neither on --steps nor on --seconds, after which a
training is stopped and scored as it is. A training with more than 2,000,000 Gaussians would go on to fill the GPU; it
is stopped, and its row says so. Its LPIPS metric, which would download weights, is replaced by zero, and the PSNR of
each training picture, which only its log needs, is not computed. Figures are means over frames of PSNR and SSIM, by the
same functions for all methods. Several processes share one GPU, which makes each slower. splatfacto needs CUDA.

A sheet of --pictures has the truth in its first row and, below it, a method's renders after each number of steps.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from scenetok_ns.data.demo.scenes import render_rooms, sample_rooms, sample_walks
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.metrics import picture_metrics
from scenetok_ns.models.presets import Preset, load_preset
from scenetok_ns.models.scenetok import SceneTok
from scenetok_ns.rendering.dataset_export import write_dataset
from scenetok_ns.rendering.picture_files import save_picture, sheet
from scenetok_ns.rendering.views import RenderedViews
from scenetok_ns.splats.points import surface_points
from scenetok_ns.training.tiny.run import HELD_OUT_SEED

PRESET = "scenetok-tiny"
METHODS = ("native", "enlarged", "points")
"""Ways to run splatfacto."""
MOST_GAUSSIANS = 2_000_000
REPORT = [250, 500, 1000, 2000, 3000, 4000, 5000, 7000, 10_000, 15_000, 20_000, 30_000]
NUM_FRAMES, FIRST, STRIDE = 48, 4, 12
"""Number of frames of a walk, start of the first window, and distance between windows, as in the model card."""


@dataclass(frozen=True)
class Case:
    """One room: the photographs that a method gets, and the views that it has to render."""

    scene: int
    context: RenderedViews
    windows: list[RenderedViews]
    """Consecutive frames, some of which may be context views."""
    scored: list[list[int]]
    """Frames of each window that are not context views."""

    @property
    def truth(self) -> RenderedViews:
        """The scored frames of all windows."""
        frames = [window.frames[kept] for window, kept in zip(self.windows, self.scored, strict=True)]
        cameras = [window.cameras.select(kept) for window, kept in zip(self.windows, self.scored, strict=True)]
        c2w, intrinsics = (torch.cat([getattr(c, name) for c in cameras], 1) for name in ("c2w", "intrinsics"))
        return RenderedViews(torch.cat(frames), CameraBatch(c2w, intrinsics))


def held_out_case(scene: int, num_context: int, window: int, size: int) -> Case:
    """Create a case from held-out room number `scene` of the model card. True frames have 256 levels, like
    photographs."""
    rooms = sample_rooms([HELD_OUT_SEED + scene])
    c2w = sample_walks(rooms, NUM_FRAMES)
    frames = (render_rooms(rooms, c2w, rooms.intrinsics, size)[0] * 255).round() / 255
    views = RenderedViews(frames, CameraBatch(c2w, rooms.intrinsics[:, None].expand(-1, NUM_FRAMES, 3, 3)))
    context = torch.linspace(0, NUM_FRAMES - 1, num_context).round().long()
    starts = range(FIRST, NUM_FRAMES - window, STRIDE)
    scored = [[i for i in range(window) if start + i not in context.tolist()] for start in starts]
    return Case(scene, views.select(context), [views.select(torch.arange(s, s + window)) for s in starts], scored)


def scores(pred: Tensor, truth: Tensor) -> dict[str, float]:
    values = picture_metrics(pred=pred.clamp(0, 1), target=truth.to(pred))
    return {name: float(value.mean()) for name, value in values.items()}


Result = tuple[dict[str, Any], Tensor]
"""Scores and seconds after a number of steps, and the scored frames."""


def measure_scenetok(model: SceneTok, case: Case, steps: int) -> Result:
    """Encode the context once and render each window. Returns scores, seconds of both, and the scored frames."""
    synchronize(model.device)
    begin = time.perf_counter()
    tokens = model.encode(case.context.frames, case.context.cameras)
    encoded = time.perf_counter() - begin
    sampler = replace(model.preset.sampler, steps=steps)
    frames = [model.render(tokens, window.cameras, sampler=sampler) for window in case.windows]
    pictures = torch.cat([window[kept] for window, kept in zip(frames, case.scored, strict=True)])
    synchronize(model.device)
    seconds = time.perf_counter() - begin
    row = {"steps": steps, **scores(pictures, case.truth.frames), "seconds_encode": encoded, "seconds": seconds}
    return row, pictures


def measure_splatfacto(
    case: Case, method: str, factor: int, steps: int, report: list[int], limit: float = math.inf
) -> Iterator[Result]:
    """Train on the context, and yield results after the steps of `report` and after the last step.

    `factor` enlarges the pictures. The training ends after `limit` seconds.
    """
    from nerfstudio.engine.callbacks import TrainingCallbackLocation

    truth = case.truth.frames
    with tempfile.TemporaryDirectory() as folder:
        trainer = splatfacto_trainer(Path(folder), case, method, factor)
        trainer.setup()
        model = trainer.pipeline.model
        model.get_metrics_dict = lambda outputs, batch: {}  # only used by the log, which is off
        seconds, begin = 0.0, time.perf_counter()
        for step in range(steps):
            trainer.pipeline.train()
            for callback in trainer.callbacks:
                callback.run_callback_at_location(step, location=TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
            trainer.train_iteration(step)
            for callback in trainer.callbacks:
                callback.run_callback_at_location(step, location=TrainingCallbackLocation.AFTER_TRAIN_ITERATION)
            grown = model.num_points > MOST_GAUSSIANS
            last = grown or step + 1 == steps or seconds + time.perf_counter() - begin > limit
            if last or step + 1 in report:
                synchronize(torch.device(trainer.device))
                seconds += time.perf_counter() - begin
                trainer.pipeline.eval()
                loader = trainer.pipeline.datamanager.fixed_indices_eval_dataloader
                shown = [model.get_outputs_for_camera(camera)["rgb"].permute(2, 0, 1) for camera, _ in loader]
                pictures = F.avg_pool2d(torch.stack(shown), factor)
                row = {"steps": step + 1, **scores(pictures, truth), "seconds": seconds}
                yield {**row, "gaussians": model.num_points, "ended": grown}, pictures
                begin = time.perf_counter()
            if last:
                break


def say(scene: int, method: str, row: dict[str, Any]) -> None:
    """Print a row as one line, from the process that computed it, because training may take an hour."""
    what = f"room {scene}  {method}, {row['steps']} steps: {row['psnr']:.2f} dB, SSIM {row['ssim']:.3f}"
    what += f", {row['seconds']:.1f} s" + (f", {row['gaussians']:,} Gaussians" if "gaussians" in row else "")
    print(what + ", ended" * row.get("ended", False), flush=True)


def splatfacto_trainer(folder: Path, case: Case, method: str, factor: int) -> Any:
    """Create a trainer of stock splatfacto on the case's context views, without viewer and checkpoints."""
    import torchmetrics.image.lpip

    torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity = NoLpips
    from nerfstudio.configs.method_configs import method_configs

    (folder / "data").mkdir()
    points = surface_points(case.context.frames, case.context.cameras) if method == "points" else None
    given, asked = (views.resized(factor * views.frames.shape[-1]) for views in (case.context, case.truth))
    write_dataset(folder / "data", given, asked, points)
    config = copy.deepcopy(method_configs["splatfacto"])
    config.vis = "none"
    config.data = config.pipeline.datamanager.data = folder / "data"
    config.output_dir, config.experiment_name, config.timestamp = folder / "out", "splatfacto", "run"
    config.logging.local_writer.enable = False
    config.machine.device_type = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(config.machine.seed)
    return config.setup(local_rank=0, world_size=1)


class NoLpips(torch.nn.Module):
    """Stand-in for a metric that downloads weights when it is built."""

    def __init__(self, normalize: bool = True) -> None:
        super().__init__()

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return first.new_zeros(())


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def results(case: Case, method: str, preset: Preset, options: argparse.Namespace) -> Iterator[Result]:
    """Yield the results of one method while it runs."""
    if method != PRESET:
        factor = 1 if method == "native" else options.enlarge
        yield from measure_splatfacto(case, method, factor, options.steps, options.report, options.seconds)
        return
    model = SceneTok.from_preset(preset)
    model.load_embedded()
    model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    for steps in (1, preset.sampler.steps):
        measure_scenetok(model, case, steps)  # the first call is slower, because kernels are chosen
        yield measure_scenetok(model, case, steps)


def measure(task: tuple[int, str], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Compute all rows of one method on one room. Prints each row and writes the sheet as soon as they are known."""
    scene, method = task
    preset = load_preset(PRESET)
    data = preset.data
    case = held_out_case(scene, data.views.num_context, data.views.num_target_latents, data.image_size)
    name = method if method == PRESET else f"splatfacto, {method}"
    rows, strips = [], [every_third(case.truth.frames)]
    for row, pictures in results(case, method, preset, options):
        say(scene, name, row)
        rows.append({"scene": scene, "method": name, **row})
        strips.append(every_third(pictures))
        if options.pictures is not None:
            save_picture(options.pictures / f"room{scene}-{method}.png", sheet(strips))
    return rows


def every_third(pictures: Tensor) -> Tensor:
    """Join every third picture to a row of the sheet."""
    return pictures[::3].cpu()


def means(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean over the rooms for each method and number of steps, without trainings that were stopped."""
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        if not row.get("ended"):
            groups.setdefault((row["method"], row["steps"]), []).append(row)
    return [
        {
            "method": method,
            "steps": steps,
            "scenes": len(group),
            **{name: sum(row[name] for row in group) / len(group) for name in ("psnr", "ssim", "seconds")},
        }
        for (method, steps), group in sorted(groups.items())
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", type=int, nargs="+", default=list(range(8)), help="numbers of held-out rooms")
    parser.add_argument("--methods", nargs="+", choices=[PRESET, *METHODS], default=[PRESET, *METHODS])
    parser.add_argument("--steps", type=int, default=30_000, help="of splatfacto")
    parser.add_argument("--report", type=int, nargs="+", default=REPORT)
    parser.add_argument("--enlarge", type=int, default=8, help="factor by which its pictures are enlarged")
    parser.add_argument("--seconds", type=float, default=math.inf, help="maximum time of each training")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    parser.add_argument("--pictures", type=Path, help="folder for a sheet of pictures of each room")
    options = parser.parse_args()
    console = Console()
    rows: list[dict[str, Any]] = []
    tasks = [(scene, method) for method in options.methods for scene in options.rooms]
    # Each task gets a new process, because gsplat and Nerfstudio keep state in global variables.
    with multiprocessing.get_context("spawn").Pool(options.processes, maxtasksperchild=1) as pool:
        for found in pool.imap_unordered(partial(measure, options=options), tasks):
            rows += found
            if options.output is not None:  # after each task, because a benchmark of hours may be interrupted
                write_report(options, rows)
    title = f"{len(options.rooms)} held-out rooms, 12 views at 64 x 64, {device_name()}, torch {torch.__version__}"
    table = Table(title=title)
    for column in ("method", "steps", "rooms", "PSNR (dB)", "SSIM", "seconds a room"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for row in means(rows):
        values = f"{row['psnr']:.2f}", f"{row['ssim']:.3f}", f"{row['seconds']:.2f}"
        table.add_row(row["method"], f"{row['steps']:,}", str(row["scenes"]), *values)
    console.print(table)


def write_report(options: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    about = {"device": device_name(), "torch": torch.__version__, "options": vars(options), "means": means(rows)}
    options.output.write_text(json.dumps({**about, "rows": rows}, indent=1, default=str))


def device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


if __name__ == "__main__":
    main()
