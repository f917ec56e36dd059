"""`scenetok render`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.progress import Progress

from scenetok_ns.cli.run_options import SMALLEST_SIDE, RunChanges, positive, run_for
from scenetok_ns.cli.runs import load_run
from scenetok_ns.cli.scene_views import check_path
from scenetok_ns.cli.token_runs import load_package_renderer, package_preset
from scenetok_ns.data.errors import DataError
from scenetok_ns.data.path_names import PATH_NAMES, unknown_path
from scenetok_ns.models.presets import Solver
from scenetok_ns.tools.errors import UsageError
from scenetok_ns.tools.printing import plain_console

if TYPE_CHECKING:
    from scenetok_ns.data.scenes import Scene
    from scenetok_ns.models.tokens import SceneTokens
    from scenetok_ns.rendering.scene_renderer import SceneRenderer
    from scenetok_ns.rendering.shots import CameraPath, Shot
    from scenetok_ns.rendering.token_renderer import TokenRenderer

Format = Literal["mp4", "png"]
NUM_FRAMES, MOST_FRAMES = 96, 100_000
"""Frames of a path by name: the default and the largest number."""
SHORT_VIDEO = 3.0
"""Duration in seconds below which a hint to longer videos is printed."""
FASTEST = 1000
"""Maximum frame rate of a video."""


def render(
    output: Path,
    path: str = "orbit",
    run: Path | None = None,
    tokens: tuple[Path, ...] = (),
    data: Path | None = None,
    scenes: tuple[str, ...] = (),
    frames: int | None = None,
    size: tuple[int, ...] | None = None,
    frame_rate: float = 24.0,
    formats: tuple[Format, ...] = ("mp4",),
    compare: bool = False,
    depth: bool = False,
    num_context: int | None = None,
    pose_scale: float | None = None,
    seed: int | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    solver: Solver | None = None,
    stream: bool = False,
    student: Path | None = None,
    device: str | None = None,
) -> None:
    """Render a path through one or several scenes to videos and pictures. Also writes the path as a camera path for the
    viewer and ns-render.

    Args:
        output: Output folder, for <scene>.mp4, <scene>/00000.png and <scene>.camera_path.json. Existing renders of the
            same scenes are replaced; those in the other format too, if they show another path.
        path: orbit, dolly, spiral, interpolate (through the photographs' cameras; in a generated scene, along its
            path), lemniscate or zoom, or a file with poses in the capture's coordinates: a camera path of the viewer,
            or a transforms.json.
        run: Run folder with the model (or its config.yml), or a preset whose weights come with the package; default:
            the preset that the tokens are of, else scenetok-tiny.
        tokens: Token files, one for each scene.
        data: Instead of token files: a capture or a data set with the scenes; default: the run's.
        scenes: With a data set: names of the scenes, or all (those that an evaluation takes); default: the run's, or
            the first.
        frames: Number of frames of a path that is not a file's; default 96.
        size: Width and height of the pictures in pixels, or one number for squares. Default: a camera path's own, else
            the model's square, enlarged to 512 x 512 if it is smaller.
        frame_rate: Frames of the videos in a second.
        formats: mp4, png or both.
        depth: Also write depth maps, to <scene>-depth: 16-bit PNG files in a unit that depth.json there states (a
            thousandth of the unit of the camera positions, in a room), and the same in colours, from blue (near) to
            red (far). Without a depth head they are found by comparing views, which is slower and less accurate.
        compare: Put the photograph that was taken nearest beside each picture.
        num_context: Number of context views to encode.
        pose_scale: Factor from capture units to training units. Default: match the camera spread of the training data.
        seed: Random seed for rendering.
        steps: Denoising steps.
        guidance: Classifier-free guidance scale, 1 is off.
        solver: euler, or multistep, which needs fewer steps for the same error.
        stream: Render with the model's few-step student: faster, without depth. scenetok-tiny needs no other weights.
        student: Weight file of a student (`ns-train scenetok-stream` writes it). Default: the run's.
        device: Device, such as cuda:1 or cpu. Default: the GPU, or the CPU without one.
    """
    from scenetok_ns.data.camera_path_files import LARGEST_SIDE

    if tokens and (scenes or compare):
        raise UsageError(f"--tokens already give the scenes: leave out {'--scenes' if scenes else '--compare'}")
    if size is not None and len(size) not in (1, 2):
        raise UsageError(f"--size takes width and height, or one number for squares; got {len(size)} numbers")
    width_height = None if size is None else (size[0], size[-1])
    if size is not None and not 1 <= min(size) <= max(size) <= LARGEST_SIDE:
        raise UsageError(f"--size must be from 1 x 1 to {LARGEST_SIDE} x {LARGEST_SIDE}, got {size[0]} x {size[-1]}")
    if output.suffix.lower() in (".mp4", ".mov", ".webm", ".gif"):
        raise UsageError(f"--output is a folder, which gets a video of each scene; got the file name {output}")
    if stream and depth:
        raise UsageError("--stream predicts no depth: leave out --stream or --depth")
    if not formats or not 0 < frame_rate <= FASTEST:
        raise UsageError(f"expected at least one of --formats mp4 png, and a --frame-rate above 0, up to {FASTEST}")
    if path not in PATH_NAMES and frames is not None:
        raise UsageError("--frames is for paths by name: a file has its own number of frames")
    count = positive("--frames", NUM_FRAMES if frames is None else frames, MOST_FRAMES)
    changes = RunChanges(
        data=data,
        scene=scenes[0] if scenes and scenes[0] != "all" else None,
        tokens=tokens,
        num_context=num_context,
        pose_scale=pose_scale,
        seed=seed,
        steps=steps,
        guidance=guidance,
        solver=solver,
        stream=stream,
        student_weights=student,
    )
    from scenetok_ns.rendering.depth_files import check_depth_folder
    from scenetok_ns.rendering.shot_files import check_folder, check_names
    from scenetok_ns.tools.atomic_files import remove_leftovers

    remove_leftovers(output)
    check_folder(output)
    console = plain_console(stderr=True)
    if (preset := package_preset(run, tokens)) is not None:
        if path not in PATH_NAMES:
            check_path(path, preset.name)
        renderer: TokenRenderer = load_package_renderer(preset, changes, console, device)
        found = _token_files(tokens)
    else:
        renderer = _run_renderer(run or run_for(tokens), changes, path, output, console, device)
        found = _token_files(tokens) if tokens else _scenes_of_data(renderer, scenes, compare)
    shots = _shots(found, path, count, width_height, max(renderer.preset.data.image_size, SMALLEST_SIDE))
    check_names(output, [shot.name for shot in shots], formats)
    if depth:
        for shot in shots:
            check_depth_folder(output, shot.name)
    _render(renderer, shots, output, formats, frame_rate, depth, console)
    if "mp4" in formats and path in PATH_NAMES and count / frame_rate < SHORT_VIDEO:
        others = "" if path in ("orbit", "spiral") else ", and --path orbit or spiral displays more of the scene"
        console.print(f"A video of {count / frame_rate:.2g} s: more --frames make it longer{others}", soft_wrap=True)


def _run_renderer(
    run: Path, changes: RunChanges, path: str, output: Path, console: Console, device: str | None
) -> SceneRenderer:
    from scenetok_ns.plugin.run_folder import derive_run

    derived = derive_run(run, output)
    changes.apply(derived.config)
    if path not in PATH_NAMES:
        check_path(path, derived.config.pipeline.model.preset)  # before the model is loaded
    return load_run(derived, console, device).model.renderer


def _token_files(files: tuple[Path, ...]) -> list[tuple[str, SceneTokens, Scene | None]]:
    from scenetok_ns.models.tokens import SceneTokens

    loaded = [(file, SceneTokens.load(file)) for file in files]
    return [(tokens.scene or file.stem, tokens, None) for file, tokens in loaded]


def _shots(
    found: Sequence[tuple[str, SceneTokens, Scene | None]],
    path: str,
    frames: int,
    size: tuple[int, int] | None,
    side: int,
) -> list[Shot]:
    from scenetok_ns.rendering.shot_files import file_names
    from scenetok_ns.rendering.shots import Shot

    names = file_names([name for name, *_ in found])
    height_width = None if size is None else (size[1], size[0])
    return [
        Shot(name, tokens, _path(path, tokens, frames, height_width, side), photographs)
        for name, (_, tokens, photographs) in zip(names, found, strict=True)
    ]


def _scenes_of_data(
    renderer: SceneRenderer, scenes: tuple[str, ...], compare: bool
) -> list[tuple[str, SceneTokens, Scene | None]]:
    available = renderer.scenes
    if scenes == ("all",):
        numbers = [scene.number for scene in available.usable()]
    elif scenes:
        numbers = [available.number_of(key) for key in scenes]
    else:
        numbers = [available.active]
    found = []
    for number in numbers:
        scene = available.scene(number).scene
        if compare and available.stored_tokens(number) is not None:
            raise DataError(f"{available.data} holds tokens alone: there are no photographs to --compare with")
        found.append((scene.key, renderer.tokens_of(number), scene if compare else None))
    return found


def _path(path: str, tokens: SceneTokens, frames: int, size: tuple[int, int] | None, side: int) -> CameraPath:
    from scenetok_ns.data.camera_path_files import read_path
    from scenetok_ns.rendering.shots import path_around

    if path in PATH_NAMES:
        return path_around(path, tokens, frames, size or (side, side))  # type: ignore[arg-type]
    if not Path(path).suffix:
        raise DataError(unknown_path(path))
    return read_path(Path(path), size, side)


def _render(
    renderer: TokenRenderer,
    shots: list[Shot],
    output: Path,
    formats: tuple[Format, ...],
    frame_rate: float,
    depth: bool,
    console: Console,
) -> None:
    from scenetok_ns.models.rendered_depth import scene_unit
    from scenetok_ns.rendering.depth_files import DEPTH_SUFFIX, depth_files, depth_unit
    from scenetok_ns.rendering.shot_files import ShotFiles
    from scenetok_ns.rendering.shots import render_shots

    with ExitStack() as stack, Progress(*Progress.get_default_columns(), console=console) as progress:
        writers = {shot.name: stack.enter_context(ShotFiles(shot, output, formats, frame_rate)) for shot in shots}
        task = progress.add_task(f"rendering {len(shots)} scene{'s' * (len(shots) > 1)}", total=None)

        def report(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        maps = {}
        for shot in shots if depth else ():
            unit = depth_unit(scene_unit(shot.tokens))
            maps[shot.name] = stack.enter_context(depth_files(output, shot.name, unit))
        for shot, first, frames, depths in render_shots(renderer, shots, report, depth=depth):
            writers[shot.name].add(first, frames)
            if depths is not None:
                maps[shot.name].add(first, depths)
    for shot in shots:
        made = [output / f"{shot.name}.mp4"] if "mp4" in formats else []
        made += [output / shot.name] if "png" in formats else []
        made += [output / f"{shot.name}{DEPTH_SUFFIX}"] if depth else []
        files = ", ".join(map(str, [*made, output / f"{shot.name}.camera_path.json"]))
        console.print(f"{len(shot.path.c2w)} frames: {files}", soft_wrap=True)
