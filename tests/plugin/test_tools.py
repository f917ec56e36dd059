"""The stock Nerfstudio tools, end to end, on the smallest model and data."""

from __future__ import annotations

import io
import json
import math
import signal
import time
from pathlib import Path

import mediapy
import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.scripts.eval import ComputePSNR
from nerfstudio.scripts.render import DatasetRender, RenderInterpolated, SpiralRender
from nerfstudio.scripts.train import main as train_main
from nerfstudio.scripts.train import train_loop
from PIL import Image
from support.docs_pages import Command
from support.docs_runner import run as run_command
from support.forks import forked_tool
from support.scene_files import write_dl3dv
from support.small_runs import (
    FRAMES,
    NUM_CONTEXT,
    PRESET,
    final_state,
    small_config,
    write_small_dl3dv,
    write_small_re10k,
)
from support.tool_processes import environment, free_port, page, running, wait_for
from viewer_client import ViewerClient

pytestmark = pytest.mark.slow

SAVE_EVERY = 5


def ns_train(output: Path, data: Path, steps: int, *more: object) -> list[object]:
    return [
        *("ns-train", "scenetok-tiny", "--data", data, "--pipeline.model.preset", PRESET),
        *("--machine.device-type", "cpu", "--max-num-iterations", steps, "--steps-per-save", SAVE_EVERY),
        *("--output-dir", output, "--experiment-name", "small", "--timestamp", "run"),
        *("--pipeline.baselines", "True", *more, "re10k-data"),
    ]


def run_here(*command: object) -> None:
    """Run a tool in this process. A new process, in which the fixture `run` begins, takes ten seconds to start."""
    run_command(Command(str(command[0]), tuple(map(str, command[1:]))), Path.cwd())


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tools")


@pytest.fixture(scope="module")
def data(root: Path) -> Path:
    return write_small_re10k(root / "data")


@pytest.fixture(scope="module")
def run(root: Path, data: Path) -> Path:
    """The folder of a run that ns-train began, that was killed without warning, and that --load-dir ended."""
    log = root / "killed.log"
    killed = root / "killed" / "small" / "scenetok-tiny" / "run"
    with running(log, *ns_train(root / "killed", data, 100_000)) as process:
        folder = killed / "nerfstudio_models"
        wait_for(lambda: list(folder.glob("*.ckpt")), process, log)
        process.send_signal(signal.SIGKILL)
    run_here(*ns_train(root / "resumed", data, SAVE_EVERY, "--load-dir", folder))
    return root / "resumed" / "small" / "scenetok-tiny" / "run"


def test_killed_and_resumed_training_equals_an_undisturbed_one(run: Path, data: Path, root: Path) -> None:
    (checkpoint,) = (run / "nerfstudio_models").iterdir()
    state = torch.load(checkpoint, weights_only=True)
    config = small_config(data, root / "undisturbed", max_num_iterations=state["step"] + 1)
    train_loop(0, 1, config)
    undisturbed = final_state(config, state["step"])["pipeline"]
    for key, value in state["pipeline"].items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(value, undisturbed[key], rtol=1e-4, atol=1e-5)


def test_ns_eval(run: Path, root: Path) -> None:
    run_here("ns-eval", "--load-config", run / "config.yml", "--output-path", root / "eval.json")
    results = json.loads((root / "eval.json").read_text())["results"]
    assert results["num_scenes"] == 3 and results["num_views"] == 3 * (FRAMES - NUM_CONTEXT)
    names = ("psnr", "ssim", "psnr_mean_colour", "psnr_nearest_view", "psnr_other_tokens", "psnr_noise_tokens")
    assert all(np.isfinite(results[name]) for name in names)


def camera_path(folder: Path, frames: int, height: int, width: int) -> Path:
    poses = [[1, 0, 0, 0.1 * i, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1] for i in range(frames)]
    content = {
        "render_height": height,
        "render_width": width,
        "seconds": 1.0,
        "camera_type": "perspective",
        "camera_path": [{"camera_to_world": pose, "fov": 60.0, "aspect": width / height} for pose in poses],
    }
    path = folder / "camera_path.json"
    path.write_text(json.dumps(content))
    return path


def test_ns_render_camera_path(run: Path, root: Path) -> None:
    path, video = camera_path(root, frames=11, height=40, width=64), root / "path.mp4"
    words = ("--camera-path-filename", path, "--output-path", video, "--rendered-output-names", "rgb", "depth")
    run_here("ns-render", "camera-path", "--load-config", run / "config.yml", *words)
    frames = mediapy.read_video(video)
    assert frames.shape == (11, 40, 2 * 64, 3)
    assert frames[:, :, :64].std() > 1


@pytest.fixture
def tools_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", environment()["PATH"])


def test_ns_render_interpolate(run: Path, root: Path, tools_path: None) -> None:
    command = RenderInterpolated(run / "config.yml", root / "between", interpolation_steps=2, output_format="images")
    command.main()
    assert len(list((root / "between").glob("*.jpg"))) == 2 * (FRAMES - NUM_CONTEXT - 1)


def test_ns_render_spiral(run: Path, root: Path, tools_path: None) -> None:
    SpiralRender(run / "config.yml", root / "spiral.mp4", seconds=0.25).main()
    assert mediapy.read_video(root / "spiral.mp4").shape == (6, 32, 32, 3)


def test_ns_render_dataset(run: Path, root: Path, tools_path: None) -> None:
    command = DatasetRender(run / "config.yml", root / "views", split="train+test", downscale_factor=2.0)
    command.main()
    for split, count in (("train", NUM_CONTEXT), ("test", FRAMES - NUM_CONTEXT)):
        files = sorted((root / "views" / split / "rgb").rglob("*.jpg"))
        assert len(files) == count
        assert Image.open(files[0]).size == (16, 16)
        assert len(list((root / "views" / split / "gt-rgb").rglob("*.jpg"))) == count


def elements(client: ViewerClient, *labels: str) -> dict[str, str]:
    """Return the names of elements of the page, which the server sends to everyone who connects."""
    found: dict[str, str] = {}
    for message in client.messages(60):
        if message.get("label") in labels:
            found[message["label"]] = message["id"]
            if len(found) == len(labels):
                return found
    raise AssertionError(f"of {labels}, only {sorted(found)} came")


def test_ns_viewer(run: Path, root: Path) -> None:
    """The page is served, and the picture of a camera equals that of ns-render at the same aspect ratio."""
    port, log, height, width = free_port(), root / "viewer.log", 341, 512
    entry = {"camera_to_world": np.diag([1.0, -1.0, -1.0, 1.0]).ravel().tolist(), "fov": math.degrees(1.0)}
    path = {"camera_type": "perspective", "render_height": height, "render_width": width, "fps": 1, "seconds": 1}
    file = root / "one_view.json"
    file.write_text(json.dumps({**path, "camera_path": [{**entry, "aspect": width / height}]}))
    options = ("--output-format", "images", "--image-format", "png", "--output-path", root / "one_view")
    run_here("ns-render", "camera-path", "--load-config", run / "config.yml", "--camera-path-filename", file, *options)
    (rendered,) = (root / "one_view").glob("*.png")
    expected = np.asarray(Image.open(rendered)).astype(float)
    words = ("--load-config", run / "config.yml", "--viewer.websocket-port", port, "--viewer.image-format", "png")
    with forked_tool(log, "ns-viewer", *words) as process:
        assert b"<html" in wait_for(lambda: page(port), process, log)
        with ViewerClient(port) as client:
            previous_views = elements(client, "Previous views")["Previous views"]
            client.look((3.0, 1.0, 0.0), aspect=1.5, fov=1.0)
            # The server puts the camera of a new page at the scene's first view. It sends its photograph as a JPEG.
            for message in client.messages(60):
                if message.get("type") == "BackgroundImageMessage":
                    begin = np.asarray(Image.open(io.BytesIO(message["rgb_bytes"])).convert("RGB"))
                    assert begin.shape == (height, width, 3)
                    if message["media_type"] == "image/png":
                        break
            assert np.abs(begin - expected).mean() > 0.5
            client.set(previous_views, 0)
            client.look((0.0, 0.0, 0.0), aspect=1.5, fov=1.0)
            apart = []
            for picture in client.pictures(60):
                assert picture.shape == (height, width, 3)
                apart.append(np.abs(picture - expected).mean())
                if apart[-1] < 0.5:  # of 255
                    break
            assert apart[-1] < 0.5, apart
        assert process.poll() is None
    assert "Traceback" not in log.read_text()


def test_viewer_and_training_together(root: Path, data: Path) -> None:
    """With ns-train --vis viewer, moved cameras get pictures, and checkpoints are written except during a pause."""
    port, log, output = free_port(), root / "viewed.log", root / "viewed"

    def steps() -> int:
        return max((int(path.stem.split("-")[1]) for path in output.rglob("*.ckpt")), default=-1)

    words = ns_train(output, data, 100_000, "--vis", "viewer", "--viewer.websocket-port", port)
    with running(log, *words) as process:
        wait_for(lambda: page(port), process, log)
        with ViewerClient(port) as client:
            client.look((0.0, 0.0, 0.0), aspect=1.5)
            buttons = elements(client, "Pause Training", "Resume Training")

            def goes_on(position: tuple[float, float, float]) -> None:
                before = steps()
                client.look(position, aspect=1.5)
                picture = next(client.pictures(60))
                assert picture.shape[1] / picture.shape[0] == pytest.approx(1.5, rel=0.02)
                wait_for(lambda: steps() > before, process, log)

            goes_on((0.0, 0.0, 0.0))
            goes_on((3.0, 1.0, 0.0))
            client.set(buttons["Pause Training"], True)
            time.sleep(2)  # the step at work and its checkpoint
            before = steps()
            for position in ((0.0, 2.0, 1.0), (0.0, 1.0, 2.0), (1.0, 2.0, 0.0)):
                client.look(position, aspect=1.5)
                next(client.pictures(60))
            assert steps() == before
            client.set(buttons["Resume Training"], True)
            goes_on((1.0, 1.0, 1.0))
        assert "Traceback" not in log.read_text()


def test_dl3dv_and_stock_captures_train_and_evaluate(root: Path) -> None:
    capture = write_dl3dv(root / "capture", frames=20, image_folder="images", divide=1)
    stock = NerfstudioDataParserConfig(downscale_factor=1)
    for data, parser, scenes in ((write_small_dl3dv(root / "dl3dv"), None, 2), (capture, stock, 1)):
        config = small_config(data, root / f"of-{data.name}", max_num_iterations=2)
        if parser is not None:
            config.pipeline.datamanager.dataparser = parser
        train_main(config)
        output = root / f"{data.name}.json"
        ComputePSNR(config.get_base_dir() / "config.yml", output).main()
        assert json.loads(output.read_text())["results"]["num_scenes"] == scenes
