"""Create a report page of an evaluation in a single file: figures, plots, and pictures of the worst views."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from scenetok_ns.data.scenes import DataError
from scenetok_ns.evaluation.baselines import BASELINES
from scenetok_ns.evaluation.measures import by_reason
from scenetok_ns.evaluation.options import FIGURES, ReportOptions
from scenetok_ns.evaluation.records import EvaluationFolder
from scenetok_ns.evaluation.summary import few_sample_notes
from scenetok_ns.evaluation.sweeps import COUNTS, PLOT, Row, shown_metrics
from scenetok_ns.tools.json_files import JsonError, read_json

TEMPLATE = Path(__file__).with_name("report.html")
FRAMES_PER_SECOND = 10


def read_figures(folder: Path) -> dict[str, Any]:
    """Read the figures that `scenetok evaluate` wrote. Raises DataError if there are none, or the file is damaged."""
    path = folder / FIGURES
    if not path.is_file():
        raise DataError(f"{folder} holds no figures ({FIGURES}); make them with scenetok evaluate")
    try:
        content = read_json(path)
    except JsonError as error:
        raise DataError(f"{path} is damaged ({error}); evaluate again") from error
    if not isinstance(content, dict) or not isinstance(content.get("results"), dict):
        raise DataError(f"{path} was not written by scenetok evaluate")
    return content


def other_views(figures: dict[str, Any], others: dict[str, Any]) -> str | None:
    """First scene of which two evaluations measured different views; None if all views are the same."""
    ours, theirs = ({key: scene["frames"] for key, scene in one["per_scene"].items()} for one in (figures, others))
    return next((key for key in dict.fromkeys([*ours, *theirs]) if ours.get(key) != theirs.get(key)), None)


def _variants(figures: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Variants of an evaluation by folder name. Raises DataError if `figures` belong to a single variant."""
    entries = figures.get("variants")
    if not isinstance(entries, list) or not all(isinstance(one, dict) and "folder" in one for one in entries):
        entries = []
    if not entries:
        raise DataError(f"{folder / FIGURES} is not from a whole evaluation: give the folder of scenetok evaluate")
    return {one["folder"]: one for one in entries}


def page(
    folder: Path, variant: str | None, options: ReportOptions, on_scene: Callable[[str], None] = lambda key: None
) -> str:
    """Create the HTML page of an evaluation.

    Args:
        folder: Folder that `scenetok evaluate` wrote.
        variant: Variant of a sweep whose pictures are displayed. None: the first.
        options: Numbers of scenes and views, and whether there are videos.
        on_scene: Called with the name of each scene after its pictures are done.

    Raises:
        DataError: The folder or the variant does not exist, or files are missing or damaged.
    """
    whole = read_figures(folder)
    variants = _variants(whole, folder)
    chosen = variant or next(iter(variants))
    if chosen not in variants:
        raise DataError(f"{folder} has no variant {chosen!r}; it has {', '.join(variants)}")
    figures = read_figures(folder / chosen)
    metrics = view_metrics(figures)
    data = {
        "name": whole["run"],
        "about": _about(figures, chosen),
        "baselines": [name for name in BASELINES if f"psnr_{name}" in figures["results"]],
        "figures": _figure_rows(figures),
        "missing": by_reason(figures["not_computed"]),
        "notes": few_sample_notes(figures),
        "protocol": figures["protocol"],
        "skipped": figures["skipped"],
        "sweep": _sweep(folder, whole.get("table", [])),
        "metrics": metrics,
        "side": figures["protocol"]["views"]["image_size"],
        "count": {"scenes": len(figures["per_scene"]), "views": int(figures["results"]["num_views"])},
        "scenes": _scenes(EvaluationFolder(folder / chosen), figures, metrics, options, on_scene),
    }
    # A name must not end the script element that holds it.
    text = json.dumps(data, allow_nan=False).replace("</", "<\\/").replace("<!--", "<\\u0021--")
    return TEMPLATE.read_text("utf8").replace("/*DATA*/", text)


def view_metrics(figures: dict[str, Any]) -> list[str]:
    """Metrics of single views, without those of the baselines."""
    views = next(iter(figures["per_scene"].values()))["views"]
    return [name for name in views if not name.endswith(tuple(f"_{baseline}" for baseline in BASELINES))]


def _about(figures: dict[str, Any], variant: str) -> str:
    protocol, results = figures["protocol"], figures["results"]
    machine = protocol["machine"]
    count = (
        f"{results['num_views']:.0f} views of {results['num_scenes']:.0f} scenes, "
        f"{results['num_skipped_scenes']:.0f} skipped"
    )
    if "preset" not in protocol:  # pictures of another program
        return f"{protocol['task']} by {protocol['method']}, {count}; measured by scenetok score"
    return (
        f"{protocol['task']} with preset {protocol['preset']}, {count}; {variant}, "
        f"{protocol['sampler']['steps']} steps ({protocol['sampler']['solver']}), {results['fps']:.3g} frames/s on "
        f"{machine['device']}, scenetok-ns {machine['versions'].get('scenetok-ns', 'unknown')}"
    )


def _figure_rows(figures: dict[str, Any]) -> list[dict[str, Any]]:
    results = figures["results"]
    hidden = (*(f"_{name}" for name in BASELINES), "_std")
    given = [name for name in BASELINES if f"psnr_{name}" in results]
    rows = []
    for name, value in results.items():
        if name in COUNTS or name.endswith(hidden):
            continue
        count = figures["samples"].get(name)
        rows.append(
            {
                "name": name,
                "value": value,
                "spread": results.get(f"{name}_std"),
                "of": f"{count} samples" if count is not None else "" if name == "fps" else "views",
                "baselines": [results.get(f"{name}_{baseline}") for baseline in given],
            }
        )
    return [{key: value for key, value in row.items() if value is not None} for row in rows]


def _sweep(folder: Path, table: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Table and plot of a sweep; None if there was only one evaluation."""
    if not table:
        return None
    rows = [Row(**entry) for entry in table]
    metrics = shown_metrics(rows)

    def cell(row: Row, name: str) -> str:
        over = row.spreads.get(name, 0.0)
        return f"{row.means[name]:.4g}" + (f" ± {over:.2g}" if over else "") if name in row.means else ""

    plot = folder / PLOT
    return {
        "plot": _data_url(plot.read_bytes(), "image/png") if plot.is_file() else None,
        "head": [*rows[0].axes, "seeds", *metrics],
        "rows": [[*map(str, row.axes.values()), str(row.seeds), *(cell(row, m) for m in metrics)] for row in rows],
    }


def _scenes(
    folder: EvaluationFolder,
    figures: dict[str, Any],
    metrics: Sequence[str],
    options: ReportOptions,
    on_scene: Callable[[str], None],
) -> list[dict[str, Any]]:
    """The scenes with the lowest PSNR that have pictures."""
    with_pictures = [key for key in figures["per_scene"] if folder.pictures(key).is_dir()]
    means = {key: float(np.mean(figures["per_scene"][key]["views"]["psnr"])) for key in with_pictures}
    found = []
    for key in sorted(with_pictures, key=means.__getitem__)[: options.max_scenes]:
        found.append(_scene(folder.pictures(key), key, figures["per_scene"][key], metrics, options))
        on_scene(key)
    return found


def _scene(
    pictures: Path, key: str, scene: dict[str, Any], metrics: Sequence[str], options: ReportOptions
) -> dict[str, Any]:
    frames = scene["frames"]
    files = {kind: [pictures / f"{kind}_{frame:05d}.jpg" for frame in frames] for kind in ("truth", "pred")}
    context = [pictures / f"context_{frame:05d}.jpg" for frame in scene["context"]]
    missing = [path for path in (*files["truth"], *files["pred"], *context) if not path.is_file()]
    if missing:
        raise DataError(f"{missing[0]} is missing; evaluate this scene again (delete its file in scenes)")
    views = [
        {
            "frame": frames[place],
            "truth": _data_url(files["truth"][place].read_bytes(), "image/jpeg"),
            "pred": _data_url(files["pred"][place].read_bytes(), "image/jpeg"),
            "values": {name: scene["views"][name][place] for name in metrics},
        }
        for place in chosen_views(scene["views"]["psnr"], options.max_views)
    ]
    return {
        "key": key,
        "count": len(frames),
        "means": {name: float(np.mean(scene["views"][name])) for name in metrics},
        "context": [_data_url(path.read_bytes(), "image/jpeg") for path in context],
        "views": views,
        "video": _video(files["truth"], files["pred"]) if options.videos and len(frames) > 1 else None,
    }


def chosen_views(values: Sequence[float], count: int) -> list[int]:
    """Choose `count` views, in order: half of them the worst ones, the others spread evenly. Returns their indices."""
    worst = sorted(range(len(values)), key=values.__getitem__)[: -(-count // 2)]
    rest = [place for place in range(len(values)) if place not in worst]
    wanted = min(count - len(worst), len(rest))
    spread = [rest[round(place)] for place in np.linspace(0, len(rest) - 1, wanted)] if wanted > 0 else []
    return sorted({*worst, *spread})


def _video(truth: Sequence[Path], pred: Sequence[Path]) -> str:
    """Create an H.264 video, truth left and prediction right, as a data URL."""
    import mediapy

    frames = [np.concatenate([_read(a), _read(b)], axis=1) for a, b in zip(truth, pred, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "views.mp4"
        mediapy.write_video(path, frames, fps=FRAMES_PER_SECOND, crf=20)
        return _data_url(path.read_bytes(), "video/mp4")


def _read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def _data_url(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
