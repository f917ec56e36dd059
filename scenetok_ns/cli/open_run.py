"""`scenetok open`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console

from scenetok_ns.data.scenes import DataError
from scenetok_ns.data.token_scene import TokenSource
from scenetok_ns.models.presets import load_preset

if TYPE_CHECKING:
    from scenetok_ns.run_folder import RunFolderConfig


def open_run(
    run: Annotated[Path, tyro.conf.Positional],
    output: Path,
    scene: str | None = None,
    data: Path | None = None,
    tokens: Path | None = None,
    num_context: int | None = None,
    seed: int | None = None,
    steps: int | None = None,
    guidance: float | None = None,
) -> None:
    """Make a run folder that shows something else of a run; ns-viewer, ns-render and ns-eval take it unchanged.

    The checkpoint is shared with the run by a hard link, so the new folder takes no space worth mentioning.

    Args:
        run: Run folder of ns-train, `scenetok import` or `scenetok open` (or its config.yml).
        output: The run folder to make; it must not exist.
        scene: Name of the evaluation scene to show.
        data: Another data set, of the same kind.
        tokens: File of scene tokens to show, in place of a scene that is encoded from photographs.
        num_context: Number of photographs that scenes are encoded from.
        seed: Of the noise that renders start from.
        steps: Denoising steps of a render.
        guidance: Classifier-free guidance scale of a render, 1 is off. More needs a preset with a null token; no
            released model has one.
    """
    if tokens is not None and (scene is not None or data is not None or num_context is not None):
        raise ValueError("--tokens shows that file alone: leave out --scene, --data and --num-context")
    # Nerfstudio takes seconds to import, and bad options should be told before.
    from scenetok_ns.run_files import link_checkpoints, write_run_folder
    from scenetok_ns.run_folder import derive_run

    config, checkpoints = derive_run(run, output)
    set_sampling(config, seed, steps, guidance)
    if num_context is not None:
        config.pipeline.datamanager.num_context = positive("--num-context", num_context)
    if data is not None:
        show_data(config, data)
    if scene is not None:
        show_scene(config, scene)
    if tokens is not None:
        show_tokens(config, tokens)
    write_run_folder(output, lambda folder: link_checkpoints(checkpoints, folder), lambda: config)
    Console(stderr=True).print(f"{output} is ready:\n  ns-viewer --load-config {output / 'config.yml'}")


def set_sampling(config: RunFolderConfig, seed: int | None, steps: int | None, guidance: float | None) -> None:
    """Options of a render; None leaves the run's. Raises ValueError for values that cannot be."""
    model = config.pipeline.model
    if seed is not None:
        model.seed = seed
    if steps is not None:
        model.steps = positive("--steps", steps)
    if guidance is not None:
        if guidance < 1 or (guidance > 1 and not load_preset(model.preset).denoiser.null_token):
            raise ValueError(f"--guidance {guidance}: preset {model.preset} without null token takes 1 (off) only")
        model.guidance = guidance


def positive(option: str, value: int) -> int:
    if value < 1:
        raise ValueError(f"{option} must be at least 1, got {value}")
    return value


def show_data(config: RunFolderConfig, data: Path) -> None:
    """Choose another data set, of the kind that the run's dataparser reads."""
    if not data.exists():
        raise FileNotFoundError(f"no data at {data}")
    config.data = config.pipeline.datamanager.data = data.absolute()
    config.pipeline.datamanager.dataparser.data = data.absolute()


def show_scene(config: RunFolderConfig, scene: str) -> None:
    """Choose the evaluation scene; raises DataError that names some scenes if there is none of that name."""
    datamanager = config.pipeline.datamanager
    dataparser = datamanager.dataparser
    if not hasattr(dataparser, "scene"):
        raise DataError(f"{type(dataparser).__name__} has one scene: leave out --scene")
    if datamanager.data is not None:
        dataparser.data = datamanager.data
    keys = dataparser.setup().scene_source("test").keys
    if scene not in keys:
        raise DataError(f"no evaluation scene {scene!r} in {dataparser.data}; it has {', '.join(list(keys)[:5])}, ...")
    dataparser.scene = scene


def show_tokens(config: RunFolderConfig, tokens: Path) -> None:
    """Choose a token file in place of a data set; raises DataError for a file that this model cannot render."""
    from scenetok_ns.dataparsers.tokens_dataparser import TokensDataParserConfig

    made = TokenSource(tokens).tokens
    expected = load_preset(config.pipeline.model.preset).compressor
    if made.mean.shape != (expected.num_tokens, expected.token_dim):
        raise DataError(
            f"{tokens}: {made.mean.shape[0]} tokens of {made.mean.shape[1]} numbers, made by preset {made.preset}, but "
            f"this run's model takes {expected.num_tokens} of {expected.token_dim}"
        )
    datamanager = config.pipeline.datamanager
    datamanager.dataparser = TokensDataParserConfig(data=tokens.absolute())
    config.data = datamanager.data = tokens.absolute()
