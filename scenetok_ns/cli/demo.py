"""`scenetok demo`: everything once, on made-up rooms: figures, videos, a generated scene, and a little training."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from scenetok_ns.cli.demo_rooms import write_rooms
from scenetok_ns.cli.photograph_options import PhotographOptions, print_photograph
from scenetok_ns.cli.run_options import EMBEDDED, EMBEDDED_GENERATOR, SMALLEST_SIDE, RunChanges
from scenetok_ns.cli.runs import write_run
from scenetok_ns.models.presets import load_preset
from scenetok_ns.tools.devices import chosen_device
from scenetok_ns.tools.errors import UsageError
from scenetok_ns.tools.printing import command, description_column, plain_console

METHOD = "scenetok-tiny"
"""Method that the demo trains."""

ROWS = (
    ("mean colour of the context views", "_mean_colour"),
    ("nearest context view, copied", "_nearest_view"),
    ("the model", ""),
    ("the model, another scene's tokens", "_other_tokens"),
    ("the model, shuffled-noise tokens", "_noise_tokens"),
)
"""Rows of the comparison, and their keys in ns-eval's results."""

CONTROL = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
"""Colours and cursor movements of a terminal."""

USED_FROM_DB = 0.5
"""Minimum difference in PSNR (dB) between a scene's own and another scene's tokens for the tokens to count as used."""


def demo(
    output: Path = Path("demo"),
    train_scenes: int = 8,
    test_scenes: int = 2,
    train_steps: int = 8,
    seed: int = 0,
    preset: str = EMBEDDED,
    generator: str = EMBEDDED_GENERATOR,
) -> None:
    """Create rooms, evaluate and render them with the bundled models, generate a scene, and train for a few steps.

    Takes about five minutes on two CPU cores. A second call creates another run from the same rooms.

    Args:
        output: Folder for data, runs, figures and videos.
        train_scenes: Number of rooms to train on.
        test_scenes: Number of rooms to evaluate on; none of them is used for training.
        train_steps: Number of training steps.
        seed: Random seed for rooms and training.
        preset: Preset of the tokenizer, with trained weights in the package.
        generator: Preset of the scene generator, with trained weights in the package.
    """
    console = plain_console()
    begin = time.monotonic()
    name = datetime.now().strftime("%Y-%m-%d_%H%M%S")
    if min(train_scenes, test_scenes, train_steps) < 1:
        raise UsageError("--train-scenes, --test-scenes and --train-steps must be at least 1")
    # Each set of rooms has its own folder: a second call with other numbers must not use the old rooms.
    data = output / f"rooms-{train_scenes}-{test_scenes}-seed{seed}"
    results = output / f"results-{name}"
    tools = Tools(console, results)
    results.mkdir(parents=True)

    if not (data / "test" / "index.json").is_file():
        write_rooms(data, console, train=train_scenes, test=test_scenes, seed=seed)
    shipped = open_shipped(preset, data, output / "runs" / f"shipped-{name}")
    config, figures, video = shipped / "config.yml", results / "figures.json", results / "walk.mp4"
    tools.run("evaluating", [
        *("ns-eval", "--load-config", config, "--output-path", figures),
        *("--render-output-path", results / "views"),
    ])  # fmt: skip
    values = json.loads(figures.read_text())["results"]
    console.print(table(values))
    console.print(verdict(values))
    tools.run("rendering", [
        *("ns-render", "interpolate", "--load-config", config, "--output-path", video),
        *("--interpolation-steps", 3, "--frame-rate", 24),
        *("--downscale-factor", min(load_preset(preset).data.image_size / SMALLEST_SIDE, 1.0)),
    ])  # fmt: skip
    photograph, camera_path, generated = (results / f for f in ("photograph.png", "camera_path.json", "generated.mp4"))
    made = output / "runs" / f"generated-{name}"
    fov = save_first_view(data, photograph, camera_path)
    open_photograph(generator, PhotographOptions(image=photograph, path=camera_path, fov=fov), made, console)
    tools.run("generating", [
        *("ns-render", "camera-path", "--load-config", made / "config.yml"),
        *("--camera-path-filename", camera_path, "--output-path", generated),
    ])  # fmt: skip
    tools.run("training", [
        *("ns-train", METHOD, "--data", data, "--output-dir", output / "runs", "--experiment-name", "demo"),
        *("--timestamp", name, "--max-num-iterations", train_steps, "--machine.seed", seed),
        *("--machine.device-type", chosen_device(None).type, "--pipeline.model.preset", preset, "re10k-data"),
    ])  # fmt: skip

    trained = output / "runs" / "demo" / METHOD / name
    minutes = (time.monotonic() - begin) / 60
    for line in (
        f"\nDone in {minutes:.1f} minutes. Rooms: {data}\nFigures: {figures}",
        f"Truth beside prediction, view by view: {results / 'views'}",
        f"A walk between the views of a room: {video}",
        f"A scene generated from {photograph}: {generated}",
        f"The model, trained {train_steps} steps more: {trained}",
        f"Look around: {command('ns-viewer', '--load-config', config)}",
    ):
        console.print(line, soft_wrap=True)


def open_shipped(preset: str, data: Path, folder: Path) -> Path:
    """Write a run folder of the package's model on the rooms; its evaluation includes the baselines."""
    from scenetok_ns.plugin.run_folder import derive_run

    derived = derive_run(Path(preset), folder)
    RunChanges(data=data, baselines=True).apply(derived.config)
    derived.write()
    return folder


def save_first_view(data: Path, photograph: Path, camera_path: Path) -> float:
    """Write the first frame of the first held-out room as a picture file, and the walk through the room as a camera
    path. Returns the field of view in degrees."""
    from scenetok_ns.data.camera_path_files import write_camera_path
    from scenetok_ns.data.sources.re10k import RE10KSource

    source = RE10KSource(data / "test")
    scene = source.scene(source.keys[0])
    pixels = scene.load_images([0])[0]
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(photograph)
    fov = math.degrees(2 * math.atan(0.5 / float(scene.intrinsics[0, 1, 1])))
    write_camera_path(camera_path, scene.c2w, fov, max(pixels.shape[-1], SMALLEST_SIDE))
    return fov


def open_photograph(generator: str, photograph: PhotographOptions, folder: Path, console: Console) -> None:
    """Write a run folder that generates a scene from a photograph, for views along the photograph's path."""
    from scenetok_ns.plugin.run_folder import derive_run

    derived = derive_run(Path(generator), folder)
    source = RunChanges(photograph=photograph).apply(derived.config)
    if source is not None and photograph.image is not None:
        print_photograph(photograph.image, source, console)
    write_run(derived, folder, console)


def table(values: dict[str, float]) -> Table:
    """Return a table of the figures of the model and of the baselines on the same views."""
    title = f"{values['num_views']:.0f} views of {values['num_scenes']:.0f} held-out rooms"
    found = Table("", "PSNR (dB)", "SSIM", title=title)
    for label, suffix in ROWS:
        if f"psnr{suffix}" in values:
            found.add_row(label, f"{values[f'psnr{suffix}']:.2f}", f"{values[f'ssim{suffix}']:.3f}")
    return found


def verdict(values: dict[str, float]) -> str:
    """Describe the result of the comparison in words."""
    nearest = values["psnr"] - values["psnr_nearest_view"]
    side = "better than" if nearest > 0 else "worse than"
    lines = [f"The model is {abs(nearest):.1f} dB {side} copying the nearest context view."]
    if "psnr_other_tokens" in values:
        own = values["psnr"] - values["psnr_other_tokens"]
        used = "are used" if own >= USED_FROM_DB else "are hardly used yet: the model needs more training"
        lines.append(f"With another scene's tokens it loses {own:.1f} dB, so its tokens {used}.")
    return " ".join(lines)


@dataclass
class Tools:
    """Runs Nerfstudio's tools, each with a progress bar and a log file for its output."""

    console: Console
    folder: Path

    def run(self, title: str, words: list[object]) -> None:
        """Run one tool to its end. Raises ToolError if it fails."""
        log = self.folder / f"{title}.log"
        call = [find_tool(str(words[0])), *map(str, words[1:])]
        self.console.print(f"$ {command(*words)}", style="dim", soft_wrap=True)
        columns = (description_column(), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        with open(log, "wb") as file, Progress(*columns, TimeRemainingColumn(), console=self.console) as bar:
            task = bar.add_task(title, total=1.0)
            process = subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=_environment())
            assert process.stdout is not None
            try:
                while chunk := os.read(process.stdout.fileno(), 1 << 16):
                    file.write(CONTROL.sub(b"", chunk))
                    if (done := fraction_done(chunk.decode(errors="ignore"))) is not None:
                        bar.update(task, completed=done)
                code = process.wait()
            finally:
                process.kill()
            if code == 0:
                bar.update(task, completed=1.0)
        if code:
            last = [line for line in log.read_text(errors="ignore").splitlines() if line.strip()][-5:]
            raise ToolError(f"{words[0]} failed; the end of {log}:\n" + "\n".join(last))


class ToolError(OSError):
    """A tool ended with an error."""


def fraction_done(text: str) -> float | None:
    """Progress of a tool, from its output: ns-train prints `30 (15.00%)`, the others `12/144`; else None."""
    percents = re.findall(r"\((\d+\.\d+)%\)", text)
    if percents:
        return float(percents[-1]) / 100
    counts = [(int(done), int(total)) for done, total in re.findall(r"\b(\d+)/(\d+)\b", text)]
    counts = [(done, total) for done, total in counts if total and done <= total]
    return counts[-1][0] / counts[-1][1] if counts else None


def find_tool(name: str) -> str:
    """Find a command in the environment of this process."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"{name} is not installed; install nerfstudio into {Path(sys.executable).parent}")
    return found


def _environment() -> dict[str, str]:
    # The tools show no progress in a pipe unless they are made to; ns-render looks for ffmpeg on PATH.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, "PATH": path, "FORCE_COLOR": "1", "COLUMNS": "200", "PYTHONUNBUFFERED": "1"}
