"""Run a whole evaluation, from a renderer of scenes to figures. Used by ns-eval and `scenetok evaluate`."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from scenetok_ns.data.scenes import DataError
from scenetok_ns.evaluation.measures import Measures, by_reason
from scenetok_ns.evaluation.options import EvaluationOptions
from scenetok_ns.evaluation.pictures import side_by_side
from scenetok_ns.evaluation.protocol import settings_of
from scenetok_ns.evaluation.records import SCENES, EvaluationFolder
from scenetok_ns.evaluation.scene_evaluation import SceneEvaluation
from scenetok_ns.evaluation.summary import Summary, few_sample_notes, summarise
from scenetok_ns.tools.printing import description_column, plain_console, print_line

if TYPE_CHECKING:
    from scenetok_ns.bridge.evaluation_scenes import EvaluationScenes
    from scenetok_ns.rendering.scene_renderer import SceneRenderer

ABANDONED_AFTER_S = 30 * 24 * 3600.0
"""Age at which the files of an interrupted ns-eval are removed."""


def evaluate_resumable(
    renderer: SceneRenderer, options: EvaluationOptions, *, baselines: bool = False, pictures: Path | None = None
) -> dict[str, Any]:
    """Evaluate for ns-eval.

    Finished scenes are saved in the user's cache folder until all are done, so after a kill the same call continues.
    After a finished call, the same call starts from the beginning.

    Args:
        renderer: Scenes to render and measure.
        options: Metrics, and the weights of their networks.
        baselines: Also measure the baselines (`baselines.BASELINES`).
        pictures: Folder for truth and prediction of each view; None: no pictures are written.

    Returns:
        Figures, protocol and other details, for JSON.
    """
    check_photographs(renderer.scenes)
    measures = Measures.load(options, renderer.device)
    for names, reason in by_reason(measures.not_computed):
        print_line(f"{names} not computed: {reason}", style="yellow")
    evaluation = SceneEvaluation(
        renderer, measures, EvaluationFolder(Path()), baselines=baselines, batch_scenes=options.batch_scenes
    )
    if pictures is not None:
        evaluation.write_pictures = side_by_side(pictures)
    settings = settings_of(evaluation)
    with _working_folder(settings, pictures) as root:
        evaluation = replace(evaluation, folder=EvaluationFolder(root))
        summary = run_with_progress(evaluation, settings, "Evaluating scenes")
        skipped = all_skipped(evaluation)
    assert summary is not None  # there is one shard only
    found = summary.results | details(summary, measures, settings, skipped)
    for note in few_sample_notes(found):
        print_line(note, style="yellow")
    return found


def evaluate_quickly(renderer: SceneRenderer, *, baselines: bool = False) -> dict[str, float]:
    """Measure PSNR and SSIM only, as plain numbers, during training."""
    check_photographs(renderer.scenes)
    with tempfile.TemporaryDirectory() as root:
        folder = EvaluationFolder(Path(root))
        evaluation = SceneEvaluation(renderer, Measures.without_networks(), folder, baselines=baselines)
        evaluation.run()
        return whole_summary(evaluation).results


def check_photographs(scenes: EvaluationScenes) -> None:
    """Raise DataError if the scenes have no photographs to compare with."""
    if scenes.stored_tokens(scenes.active) is not None:
        raise DataError(f"{scenes.data} holds only tokens: there are no photographs to compare with")


def run_with_progress(evaluation: SceneEvaluation, settings: dict[str, Any], label: str) -> Summary | None:
    """Run an evaluation, or its shard, with a progress bar.

    Returns the figures if the scenes of all shards are done now, else None.
    """
    evaluation.folder.claim(settings)
    columns = (description_column(), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=plain_console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=len(evaluation.own_keys))
        evaluation.on_scene = lambda key: bar.advance(task)
        evaluation.run()
    missing = [key for key in evaluation.keys if not evaluation.folder.settled(key)]
    return None if missing else whole_summary(evaluation)


def whole_summary(evaluation: SceneEvaluation) -> Summary:
    return summarise(
        evaluation.folder,
        evaluation.keys,
        generation=evaluation.renderer.generates,
        wanted=evaluation.measures.options.wanted,
        image_size=evaluation.renderer.preset.data.image_size,
    )


def details(
    summary: Summary,
    measures: Measures,
    settings: dict[str, Any],
    skipped: dict[str, str],
) -> dict[str, Any]:
    """Protocol and other details that a JSON file holds beside the figures."""
    return {
        "samples": summary.samples,
        "few_samples": summary.few_samples,
        "not_computed": measures.not_computed | summary.not_computed,
        "skipped": skipped,
        "protocol": settings,
        "per_scene": summary.per_scene,
    }


def all_skipped(evaluation: SceneEvaluation) -> dict[str, str]:
    """Skipped scene -> reason, both for scenes skipped by the data set and by this evaluation."""
    by_data = evaluation.scenes.source.skipped.reasons
    found = by_data | evaluation.folder.skipped(evaluation.keys)
    return {key: reason for key, reason in found.items() if not evaluation.folder.has(key)}


@contextmanager
def _working_folder(settings: dict[str, Any], pictures: Path | None) -> Iterator[Path]:
    """Folder of an unfinished evaluation, the same at every call with these settings. It is removed at the end.

    If another process is working in it, the folder is a temporary one.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "scenetok_ns" / "evaluations"
    text = json.dumps([settings, None if pictures is None else str(pictures.absolute())], sort_keys=True)
    root = base / hashlib.sha256(text.encode()).hexdigest()[:16]
    base.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(base)
    with open(base / f"{root.name}.lock", "w") as lock:
        if not _locked(lock):
            with tempfile.TemporaryDirectory() as own:
                yield Path(own)
            return
        yield root
        # Not reached after an error, so that the next call continues.
        shutil.rmtree(root, ignore_errors=True)
        Path(lock.name).unlink(missing_ok=True)


def _remove_abandoned(base: Path) -> None:
    """Remove unfinished evaluations to which nothing has been written for `ABANDONED_AFTER_S`."""
    for scenes in base.glob(f"*/{SCENES}"):
        with suppress(OSError):  # another process removes it
            if time.time() - scenes.stat().st_mtime > ABANDONED_AFTER_S:
                shutil.rmtree(scenes.parent)


def _locked(file: IO[str]) -> bool:
    """Lock a file until the process ends. False if another process has locked it."""
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
