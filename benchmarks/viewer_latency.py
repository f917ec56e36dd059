"""Measure the viewer's latency from a camera message to the picture, with a real websocket client.

A server with Nerfstudio's viewer runs in this process, a client in another. For each pose of a walk, the client sends
one camera message and measures the time until the first picture (the preview) and the last one (full quality) arrive.

    python benchmarks/viewer_latency.py --output viewer_latency.json
    python benchmarks/viewer_latency.py --preset re10k --device cuda --poses 60      # full size, random weights
    python benchmarks/viewer_latency.py --preset re10k --device cuda --poses 60 --stream 2
    python benchmarks/viewer_latency.py --poses 3                                    # to test the script

Presets with bundled weights use them; other weights and the scene's tokens are random, which does not change the time.
`in the model` is the time in the model's calls, for the full picture including that of the preview before it. `besides`
is the rest: Nerfstudio, viser, JPEG, the network and the client.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from viewer_client import ViewerClient

from scenetok_ns.models.student_weights import Student, StudentSource

QUIET_SECONDS = 0.6
"""Seconds without a picture, after two pictures, from which no other is expected."""
MOST_SECONDS = 60.0
WARM_UP = 3
STEP, TURN = 0.2, 0.05
"""Distance between poses in the viewer's units (a tenth of the scene's), and angle in radians."""
ASPECT = 16 / 9


def walk(count: int) -> Iterator[tuple[tuple[float, float, float], tuple[float, float, float, float]]]:
    """Yield the positions and quaternions of a walk."""
    for index in range(count):
        angle = TURN * index / 2
        yield (STEP * index, 0.0, 0.1 * STEP * index), (math.cos(angle), 0.0, math.sin(angle), 0.0)


def measure(port: int, poses: int) -> dict[str, Any]:
    """Measure, as the client, the milliseconds until the preview and the full picture for all but the first poses."""
    preview, rest, counts = [], [], []
    with ViewerClient(port) as client:
        for position, wxyz in walk(poses + WARM_UP):
            sent = time.perf_counter()
            client.look(position, ASPECT, wxyz)
            arrivals = list(picture_times(client))
            preview.append(1e3 * (arrivals[0] - sent))
            rest.append(1e3 * (arrivals[-1] - sent))
            counts.append(len(arrivals))
    return {"preview_ms": preview[WARM_UP:], "rest_ms": rest[WARM_UP:], "pictures": counts[WARM_UP:]}


def picture_times(client: ViewerClient) -> Iterator[float]:
    """Yield the times at which the pictures of a pose arrived: the preview and the full picture."""
    deadline, seen = time.perf_counter() + MOST_SECONDS, 0
    while time.perf_counter() < deadline:
        seconds = QUIET_SECONDS if seen >= 2 else MOST_SECONDS
        for message in client.messages(seconds):
            if message.get("type") == "BackgroundImageMessage":
                yield time.perf_counter()
                seen += 1
                break
        else:
            break
    if seen < 2:
        raise SystemExit(f"only {seen} pictures of a pose arrived in {MOST_SECONDS:.0f} s")


def random_run(preset: str, folder: Path, device: torch.device, engine: str | None = None) -> Any:
    """Create a pipeline that shows a scene of random tokens. `engine` sets the model's setting; None: the default."""
    from scenetok_ns.dataparsers.tokens_dataparser import TokensDataParserConfig
    from scenetok_ns.models.presets import load_preset
    from scenetok_ns.models.tokens import SceneTokens
    from scenetok_ns.plugin.methods import scenetok

    torch.manual_seed(0)
    loaded = load_preset(preset)
    shape = loaded.compressor.num_tokens, loaded.compressor.token_dim
    tokens = folder / "scene.safetensors"
    SceneTokens(torch.randn(shape), torch.eye(4), preset=preset, scene="random").save(tokens)
    config = copy.deepcopy(scenetok.config).pipeline
    config.model.preset = preset
    if engine is not None:
        config.model.engine = engine
    config.datamanager.dataparser = TokensDataParserConfig(data=tokens)
    config.datamanager.data = tokens
    # Weights are initialised on the device, below: a CPU takes most of a minute for all layers.
    undrawn = {name: lambda tensor, *args, **options: tensor.zero_() for name in ("uniform_", "normal_")}
    with (
        mock.patch("scenetok_ns.models.scenetok_networks.build_autoencoder", random_autoencoder),
        mock.patch.multiple(torch.Tensor, **undrawn),
    ):
        pipeline = config.setup(device=device, test_mode="inference").eval()
    if loaded.embedded_weights is None:
        model = pipeline.model.scenetok
        with torch.no_grad():
            for parameter in (*model.parameters(), *model.target_autoencoder.parameters()):
                if parameter.ndim > 1:
                    nn.init.normal_(parameter, std=0.02)
    return pipeline


def random_autoencoder(config: Any, weights: Path | None) -> Any:
    """Build an autoencoder with random weights, because we may not ship its weights. Omits the one for photographs."""
    from scenetok_ns.models.autoencoders import video_dcae, wan
    from scenetok_ns.models.autoencoders.registry import build_autoencoder, latent_space
    from scenetok_ns.models.autoencoders.video_dcae_layers import VideoDCAEConfig, VideoDCAENetwork

    space = latent_space(config)
    if config.name == "vavae":
        return None
    if config.name == "video_dcae":
        made = video_dcae.VideoDCAE(space, VideoDCAENetwork(VideoDCAEConfig()))
    elif config.name == "wan":
        made = wan.WanVAE(space, wan.build_network(wan.WanConfig())).bfloat16()
    else:
        return build_autoencoder(config, weights)
    return made.requires_grad_(False).eval()


def serve(pipeline: Any, folder: Path) -> tuple[int, dict[str, list[float]]]:
    """Open the viewer. Returns its port, and lists of the milliseconds of the model's calls, which grow as it runs."""
    from nerfstudio.configs.base_config import LoggingConfig, ViewerConfig
    from nerfstudio.utils import writer
    from nerfstudio.viewer.viewer import Viewer

    viewer = Viewer(
        ViewerConfig(websocket_host="127.0.0.1", default_composite_depth=True),  # ns-viewer's default
        log_filename=folder / "viewer.log",
        datapath=folder,
        pipeline=pipeline,
        train_lock=threading.Lock(),  # type: ignore[arg-type]
    )
    logging = LoggingConfig()
    logging.local_writer.enable = False
    writer.setup_local_writer(logging, max_iter=1)
    viewer.init_scene(pipeline.datamanager.train_dataset, "completed")
    calls: dict[str, list[float]] = {"low_move": [], "low_static": [], "high": []}
    outputs = pipeline.model.get_outputs_for_camera

    def timed(camera: Any, obb_box: Any = None) -> Any:
        start = time.perf_counter()
        found = outputs(camera, obb_box)
        if found["rgb"].is_cuda:
            torch.cuda.synchronize()
        state = threading.current_thread().state  # type: ignore[attr-defined]
        calls[state].append(1e3 * (time.perf_counter() - start))
        return found

    pipeline.model.get_outputs_for_camera = timed
    return viewer.viser_server.get_port(), calls


def summary(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "median": statistics.median(ordered),
        "p95": ordered[min(len(ordered) - 1, math.ceil(0.95 * len(ordered)) - 1)],
        "least": ordered[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="scenetok-tiny")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--poses", type=int, default=30)
    parser.add_argument("--engine", help="as pipeline.model.engine")
    parser.add_argument("--stream", type=int, metavar="STEPS", help="stream previews, with the denoiser as the student")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--client", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client is not None:
        print(json.dumps(measure(options.client, options.poses)))
        return
    console, device = Console(width=110), torch.device(options.device)
    with tempfile.TemporaryDirectory() as name:
        pipeline = random_run(options.preset, Path(name), device, options.engine)
        networks = pipeline.model.scenetok
        if options.stream is not None:
            networks.students = StudentSource(Student(networks.denoiser, True, options.stream))
        port, calls = serve(pipeline, Path(name))
        command = [sys.executable, __file__, "--client", str(port), "--poses", str(options.poses)]
        client = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE)
    found = json.loads(client.stdout)
    settings = pipeline.model.viewer_renderer.settings
    preview, full = (calls[state][-options.poses :] for state in ("low_move", "high"))
    moving = f"stream, {networks.student().steps}" if networks.streams else f"preview, {settings.moving.steps}"
    rows = {
        f"{moving} steps": (found["preview_ms"], preview),
        f"rest, {settings.rest.steps} steps": (found["rest_ms"], [a + b for a, b in zip(preview, full, strict=True)]),
    }
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    shares = {
        row: (statistics.median(inside), statistics.median(a - b for a, b in zip(times, inside, strict=True)))
        for row, (times, inside) in rows.items()
    }
    columns = ("ms", "median", "95th percentile", "least", "in the model", "besides")
    table = Table(*columns, title=f"{options.preset} on {where}")
    for row, (times, _) in rows.items():
        table.add_row(row, *(f"{value:.1f}" for value in [*summary(times).values(), *shares[row]]))
    console.print(table)
    if options.output is not None:
        result = {
            "preset": options.preset,
            "device": where,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "engine": pipeline.model.config.engine,
            "poses": options.poses,
            "pictures_a_pose": statistics.mean(found["pictures"]),
            "latency": {row: summary(times) for row, (times, _) in rows.items()},
            "in_the_model": {row: summary(inside) for row, (_, inside) in rows.items()},
            "besides_ms": {row: besides for row, (_, besides) in shares.items()},
        }
        options.output.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
