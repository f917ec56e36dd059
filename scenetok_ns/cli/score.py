"""`scenetok score`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from scenetok_ns.data.errors import DataError
from scenetok_ns.evaluation.options import EvaluationOptions
from scenetok_ns.tools.devices import chosen_device
from scenetok_ns.tools.printing import plain_console

if TYPE_CHECKING:
    from rich.console import Console

    from scenetok_ns.data.scenes import SceneSource
    from scenetok_ns.evaluation.method_pictures import PictureFolder
    from scenetok_ns.evaluation.picture_scores import PictureScores

MOST_NAMED = 5


def score(
    predictions: tuple[Path, ...],
    data: Path,
    index: Path,
    output: Path = Path("score"),
    names: tuple[str, ...] = (),
    compare: tuple[Path, ...] = (),
    in_order: bool = False,
    skip_missing: bool = False,
    task: Literal["reconstruction", "generation"] = "reconstruction",
    measure: Annotated[EvaluationOptions, tyro.conf.arg(name="")] = EvaluationOptions(),  # noqa: B008  frozen
    baselines: bool = False,
    pictures: bool = True,
    device: str | None = None,
) -> None:
    """Measure the pictures of other methods in the same way as `scenetok evaluate` and ns-eval measure SceneTok's.

    The pictures of a method lie in one folder: SCENE/FRAME.png or SCENE_FRAME.png, where FRAME is the number of the
    frame in its scene from 0, or the files that ns-eval --render-output-path writes. The photographs are cropped to
    the size of the pictures. `scenetok report` turns the result into a page. Run the same command again to continue
    after an interruption.

    Args:
        predictions: Folders of pictures, one for each method.
        data: Data set with the photographs.
        index: Evaluation index with the views to compare, or the JSON file of ns-eval or scenetok evaluate.
        output: Folder for figures and tables.
        names: Names of the methods in the table. Default: the names of the folders.
        compare: Folders that scenetok evaluate or scenetok score wrote, for the table; they must have the same views.
        in_order: Take the pictures of a scene in the order of their names, whatever their numbers are.
        skip_missing: Leave out scenes for which a method lacks pictures, and print their names.
        task: Task of the methods, which decides whether set distances are called rFID or gFID, and so on.
        measure: See the options.
        baselines: Also measure the mean colour and the nearest context view.
        pictures: Save every view as JPEG for the report.
        device: Device, such as cuda:1 or cpu. Default: the GPU, or the CPU without one.
    """
    from scenetok_ns.cli.evaluation_figures import print_missing, write_figures
    from scenetok_ns.evaluation.measures import Measures
    from scenetok_ns.evaluation.method_pictures import PictureFolder
    from scenetok_ns.evaluation.picture_scores import PictureScores, target_frames
    from scenetok_ns.evaluation.pictures import for_report
    from scenetok_ns.evaluation.records import EvaluationFolder
    from scenetok_ns.evaluation.report import read_figures
    from scenetok_ns.evaluation.sweeps import Variant

    console = plain_console(stderr=True)
    methods = dict(zip(method_names(predictions, names), predictions, strict=True))
    others = {path: read_figures(path) for path in compare}
    source, views = open_data(data, index)
    wanted = target_frames(source, views)
    folders = {name: PictureFolder.find(path, wanted, in_order=in_order) for name, path in methods.items()}
    keys = complete_scenes(folders, wanted, skip_missing, console)
    check_same_views(others, {key: wanted[key] for key in keys})
    where = chosen_device(device)
    with console.status("loading the metrics"):
        measures = Measures.load(measure, where)
    measures.check_requested()
    print_missing(measures.not_computed, console)
    found: list[tuple[Variant, dict[str, Any]]] = []
    for name, folder in folders.items():
        records = EvaluationFolder(output / name)
        scores = PictureScores(name, source, views, keys, folder, measures, records, where, baselines)
        if pictures:
            scores.write_pictures = for_report(records)
        found.append((Variant({"method": name}, 0, label=name), figures_of(scores, data, task)))
    found += [(Variant({"method": path.name}, 0, label=str(path.absolute())), old) for path, old in others.items()]
    write_figures(output, Path(", ".join(methods)), found, console)


def method_names(predictions: Sequence[Path], names: Sequence[str]) -> list[str]:
    """Names of the methods: those of --names, else of the folders. Raises ValueError if they cannot be used."""
    if not predictions:
        raise ValueError("give at least one folder of pictures with --predictions")
    if names and len(names) != len(predictions):
        raise ValueError(f"--names: expected {len(predictions)} names, one for each folder, got {len(names)}")
    chosen = list(names) or [path.absolute().name for path in predictions]
    if repeated := [name for name in chosen if chosen.count(name) > 1]:
        raise ValueError(f"two methods are called {repeated[0]}: name them with --names")
    if strange := [name for name in chosen if not name or "/" in name or name.startswith(".")]:
        raise ValueError(f"--names: {strange[0]!r} cannot be the name of a folder")
    return chosen


def open_data(data: Path, index: Path) -> tuple[SceneSource, Any]:
    """The evaluation scenes of a data set, and the index. Raises DataError."""
    from scenetok_ns.bridge.capture_kinds import find_dataparser
    from scenetok_ns.bridge.scene_views import read_capture
    from scenetok_ns.data.evaluation_index import EvaluationIndex

    views = EvaluationIndex.load(index)
    dataparser = find_dataparser(data).setup()
    if hasattr(dataparser, "scene_source"):
        return dataparser.scene_source("test"), views
    return read_capture(dataparser, "test"), views


def complete_scenes(
    folders: dict[str, PictureFolder], wanted: dict[str, list[int]], skip_missing: bool, console: Console
) -> list[str]:
    """Scenes for which every method has all pictures.

    Raises DataError if a scene lacks pictures; with `skip_missing`, only if all scenes do.
    """
    lacking = {
        key: next(((name, lost) for name, folder in folders.items() if (lost := folder.missing(key, frames))), None)
        for key, frames in wanted.items()
    }
    keys = [key for key, lack in lacking.items() if lack is None]
    gaps = {key: lack for key, lack in lacking.items() if lack is not None}
    if not gaps:
        return keys
    key, (name, lost) = next(iter(gaps.items()))
    some = ", ".join(map(str, lost[:MOST_NAMED])) + (", ..." if len(lost) > MOST_NAMED else "")
    first = f"{name} has no picture of frame {some} of scene {key}"
    if not skip_missing:
        raise DataError(
            f"{first} ({len(lost)} of {len(wanted[key])} views), and {len(gaps)} of {len(wanted)} scenes are not "
            "complete; make them, or leave these scenes out with --skip-missing"
        )
    if not keys:
        raise DataError(f"no scene is complete: {first}")
    named = ", ".join(list(gaps)[:MOST_NAMED]) + (", ..." if len(gaps) > MOST_NAMED else "")
    console.print(f"{len(gaps)} of {len(wanted)} scenes are left out, pictures are missing: {named}", soft_wrap=True)
    return keys


def check_same_views(others: dict[Path, dict[str, Any]], wanted: dict[str, list[int]]) -> None:
    """Raise DataError unless the earlier evaluations measured the same views of the same scenes."""
    from scenetok_ns.evaluation.report import other_views

    for path, figures in others.items():
        ours = {"per_scene": {key: {"frames": frames} for key, frames in wanted.items()}}
        if (key := other_views(ours, figures)) is not None:
            raise DataError(
                f"{path} measured other views than --index names, first in scene {key}: figures of different views "
                "cannot be compared in one table"
            )


def figures_of(scores: PictureScores, data: Path, task: str) -> dict[str, Any]:
    """Measure one method, with a progress bar, and write its figures."""
    from scenetok_ns.cli.scene_jobs import scene_progress
    from scenetok_ns.evaluation.evaluate import details
    from scenetok_ns.evaluation.options import FIGURES
    from scenetok_ns.evaluation.summary import summarise
    from scenetok_ns.tools.atomic_files import write_atomically

    settings = scores.settings(data, task)
    scores.folder.claim(settings)
    with scene_progress(plain_console(stderr=True)) as progress:
        bar = progress.add_task(f"measuring {scores.method}", total=len(scores.keys))
        scores.on_scene = lambda key: progress.advance(bar)
        scores.run()
    size = settings["views"]["image_size"]
    summary = summarise(
        scores.folder,
        scores.keys,
        generation=task == "generation",
        wanted=scores.measures.options.wanted,
        image_size=size,
    )
    skipped = scores.source.skipped.reasons | scores.folder.skipped(scores.keys)
    found = {"results": summary.results} | details(summary, scores.measures, settings, skipped)
    write_atomically(scores.folder.root / FIGURES, json.dumps(found, indent=1, allow_nan=False).encode())
    return found
