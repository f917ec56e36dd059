"""`scenetok demo`: everything once, on made-up rooms: data, training, evaluation on held-out scenes, a video."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

METHOD = "scenetok-tiny"
ROWS = (
    ("mean colour of the context views", "_mean_colour"),
    ("nearest context view, copied", "_nearest_view"),
    ("the model", ""),
    ("the model, another scene's tokens", "_other_tokens"),
    ("the model, shuffled-noise tokens", "_noise_tokens"),
)
"""What the evaluation compares, and how ns-eval's results call it."""

CONTROL = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
"""Colours and cursor movements of a terminal."""

USED_FROM_DB = 0.5
"""Own minus other tokens from which the tokens count as used."""


def demo(
    output: Path = Path("demo"),
    train_scenes: int = 56,
    test_scenes: int = 6,
    steps: int = 60,
    seed: int = 0,
    preset: str = METHOD,
) -> None:
    """Make rooms, train on them with ns-train from the shipped weights, evaluate with ns-eval, render with ns-render.

    About five minutes on two CPU cores. A second call makes a second run from the same rooms.

    Args:
        output: Folder for data, runs, figures and video.
        train_scenes: Rooms to train on.
        test_scenes: Rooms to evaluate on; none is among those to train on.
        steps: Training steps.
        seed: Of rooms and training.
        preset: Of the model: a name, or a YAML file; one that needs no downloaded weights.
    """
    console = Console()
    begin = time.monotonic()
    name = datetime.now().strftime("%Y-%m-%d_%H%M%S")
    if min(train_scenes, test_scenes, steps) < 1:
        raise ValueError("--train-scenes, --test-scenes and --steps must be at least 1")
    # One folder for each set of rooms: a second call with other numbers must not take the old ones.
    data = output / f"rooms-{train_scenes}-{test_scenes}-seed{seed}"
    results = output / f"results-{name}"
    tools = Tools(console, results)
    results.mkdir(parents=True)

    if not (data / "test" / "index.json").is_file():
        from scenetok_ns.cli.demo_data import demo_data

        demo_data(data, train=train_scenes, test=test_scenes, seed=seed)
    run = output / "runs" / "demo" / METHOD / name
    tools.run("training", [
        *("ns-train", METHOD, "--data", data, "--output-dir", output / "runs", "--experiment-name", "demo"),
        *("--timestamp", name, "--max-num-iterations", steps, "--machine.seed", seed),
        *("--machine.device-type", _device(), "--pipeline.model.preset", preset),
        *("--pipeline.baselines", "True", "re10k-data"),
    ])  # fmt: skip
    config, figures, video = run / "config.yml", results / "figures.json", results / "walk.mp4"
    tools.run("evaluating", [
        *("ns-eval", "--load-config", config, "--output-path", figures),
        *("--render-output-path", results / "views"),
    ])  # fmt: skip
    tools.run("rendering", [
        *("ns-render", "interpolate", "--load-config", config, "--output-path", video),
        *("--interpolation-steps", 3, "--frame-rate", 24),
    ])  # fmt: skip

    values = json.loads(figures.read_text())["results"]
    console.print(table(values))
    console.print(verdict(values))
    minutes = (time.monotonic() - begin) / 60
    console.print(f"\nDone in {minutes:.1f} minutes. Rooms: {data}\nRun: {run}\nFigures: {figures}")
    console.print(f"Truth beside prediction, view by view: {results / 'views'}\nVideo: {video}")
    console.print(f"Look around: ns-viewer --load-config {config}", soft_wrap=True)


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def table(values: dict[str, float]) -> Table:
    """The model and what it must be compared with, on the same views."""
    title = f"{values['num_views']:.0f} views of {values['num_scenes']:.0f} held-out rooms"
    found = Table("", "PSNR (dB)", "SSIM", title=title)
    for label, suffix in ROWS:
        if f"psnr{suffix}" in values:
            found.add_row(label, f"{values[f'psnr{suffix}']:.2f}", f"{values[f'ssim{suffix}']:.3f}")
    return found


def verdict(values: dict[str, float]) -> str:
    """Which side of the comparison the model is on, in words."""
    nearest = values["psnr"] - values["psnr_nearest_view"]
    side = "better than" if nearest > 0 else "worse than"
    lines = [f"The model is {abs(nearest):.1f} dB {side} copying the nearest context view."]
    if "psnr_other_tokens" in values:
        own = values["psnr"] - values["psnr_other_tokens"]
        used = "are used" if own >= USED_FROM_DB else "are hardly used yet: it needs more training"
        lines.append(f"With another scene's tokens it loses {own:.1f} dB, so its tokens {used}.")
    return " ".join(lines)


@dataclass
class Tools:
    """Runs Nerfstudio's tools with a progress bar each; what they say goes to a log file."""

    console: Console
    folder: Path

    def run(self, title: str, words: list[object]) -> None:
        """Run one tool to its end. Raises ToolError if it fails."""
        log = self.folder / f"{title}.log"
        command = [find_tool(str(words[0])), *map(str, words[1:])]
        self.console.print("$ " + " ".join([str(words[0]), *command[1:]]), style="dim", soft_wrap=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        with open(log, "wb") as file, Progress(*columns, TimeRemainingColumn(), console=self.console) as bar:
            task = bar.add_task(title, total=1.0)
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=_environment())
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
    """How far a tool is by its own words: `30 (15.00%)` of ns-train, `12/144` of the others; None: it doesn't say."""
    percents = re.findall(r"\((\d+\.\d+)%\)", text)
    if percents:
        return float(percents[-1]) / 100
    counts = [(int(done), int(total)) for done, total in re.findall(r"\b(\d+)/(\d+)\b", text)]
    counts = [(done, total) for done, total in counts if total and done <= total]
    return counts[-1][0] / counts[-1][1] if counts else None


def find_tool(name: str) -> str:
    """A command of the environment that this one runs in."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"{name} is not installed; install nerfstudio into {Path(sys.executable).parent}")
    return found


def _environment() -> dict[str, str]:
    # Into a pipe, the tools would show no progress; ns-render looks for ffmpeg on PATH.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, "PATH": path, "FORCE_COLOR": "1", "COLUMNS": "200", "PYTHONUNBUFFERED": "1"}
