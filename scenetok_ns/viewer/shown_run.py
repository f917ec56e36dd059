"""Write a run folder of the displayed scene, so that a command in a shell renders the same."""

from __future__ import annotations

import hashlib
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scenetok_ns.bridge.run_configs import read_run, run_checkpoints
from scenetok_ns.dataparsers.tokens_dataparser import TokensDataParserConfig
from scenetok_ns.models.tokens import SceneTokens
from scenetok_ns.tools.printing import command
from scenetok_ns.tools.run_files import CONFIG, link_checkpoints, write_run_folder
from scenetok_ns.viewer.renderer import ViewSettings

TOKENS = "scene.safetensors"
"""Token file in the run folder."""


def write_shown_run(run: Path, home: Path, tokens: SceneTokens, settings: ViewSettings) -> Path:
    """Write a run folder that displays `tokens` with the viewer's settings at rest; returns its config.yml.

    One that was written for the same before is returned as it is.

    Args:
        run: The run that the viewer has open. Its checkpoints are shared by links.
        home: Folder in which the run folder is created, as `home`/METHOD/DIGEST.
        tokens: Scene to display.
        settings: Settings of the viewer. "Previous views" has no meaning for a path.

    Raises ValueError or OSError, in one line: the run has no configuration, or no checkpoint yet.
    """
    source: Any = read_run(run)
    checkpoints = run_checkpoints(run, source)
    newest = max(checkpoints.glob("step-*.ckpt"), default=None)
    config = deepcopy(source)
    sampler = settings.rest
    config.method_name = source.method_name or "scenetok"
    digest = hashlib.sha256(tokens.mean.cpu().float().numpy().tobytes())
    key = asdict(sampler), settings.seed, settings.wide, tokens.scene, tokens.pose_scale, _state_of(newest)
    digest.update(repr(key).encode())
    folder = home.absolute() / config.method_name / digest.hexdigest()[:12]
    if (folder / CONFIG).is_file():
        return folder / CONFIG
    # Nerfstudio puts a run into output_dir/experiment/method/timestamp.
    config.output_dir, config.experiment_name, config.timestamp = home.absolute().parent, home.name, folder.name
    if hasattr(config, "run_folder"):
        config.run_folder = folder
    config.load_dir = config.load_checkpoint = config.load_config = None
    model, datamanager = config.pipeline.model, config.pipeline.datamanager
    model.steps, model.guidance, model.solver = sampler.steps, sampler.guidance, sampler.solver
    model.seed, model.wide = settings.seed, settings.wide
    datamanager.dataparser = TokensDataParserConfig(data=folder / TOKENS)
    config.data = datamanager.data = folder / TOKENS

    def fill(part: Path) -> None:
        link_checkpoints(checkpoints, part)
        tokens.save(part.parent / TOKENS)

    write_run_folder(folder, fill, lambda: config)
    return folder / CONFIG


def _state_of(file: Path | None) -> str:
    if file is None:
        return ""
    status = file.stat()
    return f"{file.name} {status.st_size} {status.st_mtime_ns}"


def render_command(
    run: Path, tokens: Path, path: str | Path, settings: ViewSettings, *, frames: int | None, **size: Any
) -> str:
    """The `scenetok render` command that renders a video as the panel does, picture for picture.

    Args:
        run: The run that the viewer has open.
        tokens: Saved tokens of the scene.
        path: Name of a path, or a file with one.
        settings: Settings of the viewer.
        frames: Number of frames of a path by name; None for a file.
        size: width, height, frame_rate.
    """
    words: list[object] = ["scenetok", "render", "--run", run, "--tokens", tokens, "--path", path]
    if frames is not None:
        words += ["--frames", frames]
    words += ["--size", size["width"], size["height"], "--frame-rate", size["frame_rate"]]
    words += ["--seed", settings.seed, "--steps", settings.rest.steps, "--solver", settings.rest.solver]
    if settings.rest.guidance != 1:
        words += ["--guidance", settings.rest.guidance]
    return command(*words, "--output", Path("renders"))
