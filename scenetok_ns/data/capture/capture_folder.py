"""Turn photographs or a video into a capture folder. The folder is complete or absent; interrupted work continues."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from scenetok_ns.data.capture.photographs import (
    FEWEST,
    VIDEOS,
    CaptureError,
    LeftOut,
    Picture,
    check_number,
    find_photographs,
    prepare_photographs,
)
from scenetok_ns.data.capture.pose_estimation import (
    EstimationOptions,
    Progress,
    find_cameras,
    find_matches,
    lens_groups,
    require_pycolmap,
)
from scenetok_ns.data.capture.report import SOME, Quality, broken_line, failure_line, measure, still_line, warnings_of
from scenetok_ns.data.capture.video_frames import extract_frames
from scenetok_ns.data.capture.writer import IMAGES, RECORD, TRANSFORMS, write_capture
from scenetok_ns.tools.atomic_files import check_absent, write_atomically

try:
    import fcntl
except ImportError:  # Windows: nothing keeps two processes from working on the same capture
    fcntl = None  # type: ignore[assignment]

WORK, STATE, LOCK = "work", "state.json", "lock"
"""Entries of an unfinished capture: COLMAP's folder, the record of finished steps, and the lock file."""
FORMAT = 1
"""Version of the content of captures. Unfinished captures of another version are started again."""


@dataclass(frozen=True)
class CaptureOptions:
    """Options of a capture."""

    frames: int | None = None
    """Number of frames to take from a video; None: by its length."""
    estimation: EstimationOptions = field(default_factory=EstimationOptions)
    fewest: int = FEWEST
    """Minimum number of pictures. Two are enough if a scene generator makes the scene."""


@dataclass(frozen=True)
class Capture:
    """A finished capture."""

    folder: Path
    pictures: int
    registered: int
    notes: tuple[str, ...]
    """Actions and results, one line each."""
    warnings: tuple[str, ...]
    """Warnings, each in one line with advice."""
    is_new: bool = True
    """False: the folder already held a capture of the same source."""


def make_capture(source: Path, output: Path, options: CaptureOptions, progress: Progress) -> Capture:
    """Find the cameras of photographs or of a video, and write them as a Nerfstudio capture.

    Work goes into a hidden folder beside `output`, which is renamed at the end. After an interrupt, the same call
    continues from it. A capture that was made from the same source is returned as it is.

    Args:
        source: A folder of photographs, or a video file.
        output: The folder to write.
        options: See CaptureOptions.
        progress: Called with a stage ("pictures" or "video", "features", "matches", "cameras"), the number of items
            done and their total.

    Raises:
        CaptureError: There is nothing to read, there are too few pictures, no cameras were found, or they do not fit
            together; one line.
        FileExistsError: `output` holds something else.
    """
    if not source.exists():
        raise CaptureError(f"no photographs or video at {source}")
    files = [source] if source.is_file() else find_photographs(source)
    if source.is_file() and source.suffix.lower() not in VIDEOS:
        raise CaptureError(
            f"{source} is a single file, but not a video ({', '.join(sorted(VIDEOS))}): "
            "give the folder of the photographs; to make a scene from one photograph, use scenetok generate --image"
        )
    if source.is_dir():
        check_number(len(files), str(source), options.fewest)
    if options.frames is not None and source.is_dir():
        raise CaptureError("--frames is for a video; of a folder, all photographs are used")
    estimation = options.estimation
    wanted = {
        "format": FORMAT,
        "source": _fingerprint(source, files),
        "options": {"frames": options.frames, "seed": estimation.seed, "separate": estimation.separate_lenses},
    }
    if (done := _finished(output, wanted)) is not None:
        return done
    pycolmap = require_pycolmap()
    part = output.absolute().with_name(f".{output.absolute().name}.capture-part")
    with _claimed(part, wanted):
        try:
            capture = _work(source, part, options, wanted, progress, pycolmap)
            shutil.rmtree(part / WORK)
            for name in (STATE, LOCK):
                (part / name).unlink()
            if output.is_dir():
                output.rmdir()  # an empty one
            os.replace(part, output)
        except (ValueError, OSError):
            shutil.rmtree(part, ignore_errors=True)  # a second try would fail in the same way
            raise
    return replace(capture, folder=output)


def _work(
    source: Path, part: Path, options: CaptureOptions, wanted: dict[str, Any], progress: Progress, pycolmap: Any
) -> Capture:
    begin = time.monotonic()
    pictures, left_out = _pictures(source, part, options, wanted, progress)
    if len(pictures) < options.fewest and left_out:
        reasons = "; ".join(f"{one.source}: {one.reason}" for one in left_out[:SOME])
        raise CaptureError(
            f"{source}: {len(pictures)} of {len(pictures) + len(left_out)} pictures are usable, at least "
            f"{options.fewest} are needed ({reasons})"
        )
    check_number(len(pictures), str(source), options.fewest)
    database = find_matches(pictures, part / IMAGES, part / WORK, options.estimation, progress)
    if (line := still_line(database, pictures, pycolmap)) is not None:
        raise CaptureError(f"{source}: {line}")
    models = find_cameras(database, part / IMAGES, len(pictures), options.estimation, progress)
    if not models:
        raise CaptureError(f"no cameras were found in {source}: {failure_line(database, pictures, pycolmap)}")
    quality = measure(models, database, pictures, pycolmap)
    if quality.is_broken:
        raise CaptureError(f"{source}: {broken_line(quality)}")
    notes = _notes(pictures, quality, options)
    warnings = _left_out_lines(left_out) + warnings_of(quality, pictures)
    record = {
        "made_from": wanted,
        "pycolmap": pycolmap.__version__,
        "left_out": [asdict(one) for one in left_out],
        "notes": notes,
        "warnings": warnings,
        "seconds": round(time.monotonic() - begin, 1),
    }
    write_capture(part, models[0], pictures, quality, record, pycolmap)
    return Capture(part, len(pictures), len(quality.registered), tuple(notes), tuple(warnings))


def _pictures(
    source: Path, part: Path, options: CaptureOptions, wanted: dict[str, Any], progress: Progress
) -> tuple[list[Picture], list[LeftOut]]:
    """Put the pictures into `part`, unless an earlier call has done so; return the usable ones and those left out."""
    state = _read_json(part / STATE)
    if "pictures" in state:
        return [Picture(**one) for one in state["pictures"]], [LeftOut(**one) for one in state["left_out"]]
    if source.is_file():
        pictures, left_out = extract_frames(source, part / IMAGES, options.frames, progress)
    else:
        pictures, left_out = prepare_photographs(source, part / IMAGES, progress)
    state = {"wanted": wanted, "pictures": [asdict(one) for one in pictures]}
    _write_json(part / STATE, {**state, "left_out": [asdict(one) for one in left_out]})
    return pictures, left_out


def _notes(pictures: Sequence[Picture], quality: Quality, options: CaptureOptions) -> list[str]:
    count = len(quality.registered)
    lines = [
        f"{count} of {len(pictures)} pictures have a camera ({count / len(pictures):.0%}); {quality.points:,} points",
        f"reprojection error {quality.reprojection_error:.2f} pixels; {quality.joined_matches:.0%} of the matches fit "
        f"the cameras; the median triangulation angle is {quality.triangulation_angle:.1f} degrees",
    ]
    groups = lens_groups(pictures, options.estimation.separate_lenses)
    if len(groups) > 1:
        kinds = ", ".join(f"{len(group)} of {group[0].width} x {group[0].height}" for group in groups[:SOME])
        more = f" and {len(groups) - SOME} more" if len(groups) > SOME else ""
        lines.append(f"{len(groups)} lenses or picture formats, each with its own intrinsics: {kinds}{more}")
    if cropped := _cropped([pictures[index] for index in quality.registered]):
        lines.append(f"scenetok models see the middle {cropped} pixels of each picture")
    return lines


def _cropped(pictures: Sequence[Picture]) -> str:
    """Describe the squares that models see of pictures, such as "270 x 270 of 270 x 480"; empty if all are square."""
    sizes = dict.fromkeys((one.width, one.height) for one in pictures if one.width != one.height)
    shown = [f"{min(size)} x {min(size)} of {size[0]} x {size[1]}" for size in list(sizes)[:SOME]]
    return ", ".join(shown) + (f" and {len(sizes) - SOME} more" if len(sizes) > SOME else "")


def _left_out_lines(left_out: Sequence[LeftOut]) -> list[str]:
    """Describe what was left out: one line for each reason, with the photographs that it applies to."""
    by_reason: dict[str, list[str]] = {}
    for one in left_out:
        by_reason.setdefault("a copy of another" if one.reason.startswith("a copy of ") else one.reason, []).append(
            one.source
        )
    lines = []
    for reason, sources in by_reason.items():
        more = f" and {len(sources) - SOME} more" if len(sources) > SOME else ""
        lines.append(f"left out {len(sources)} ({', '.join(sources[:SOME])}{more}): {reason}")
    return lines


def _fingerprint(source: Path, files: Sequence[Path]) -> list[Any]:
    """Path, and names, sizes and modification times of the files: enough to notice that a source has changed."""
    return [str(source.absolute()), *([str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files)]


def _finished(output: Path, wanted: dict[str, Any]) -> Capture | None:
    """Return an existing capture of the same source with the same options; None if `output` is absent or empty.

    Raises FileExistsError if `output` holds something else.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return None
    record = _read_json(output / RECORD)
    if record.get("made_from") == wanted and (output / TRANSFORMS).is_file():
        return Capture(
            output, record["pictures"], record["registered"], tuple(record["notes"]), tuple(record["warnings"]), False
        )
    check_absent(output)
    return None


@contextmanager
def _claimed(part: Path, wanted: dict[str, Any]) -> Iterator[None]:
    """Make the work folder, or take over the one that an interrupted call for the same capture has left.

    A lock keeps other processes away; the system releases it when a process ends, however it ends.
    """
    part.mkdir(parents=True, exist_ok=True)
    with (part / LOCK).open("w") as lock:
        if fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise CaptureError(
                    f"another process is working on {part}: wait for it, or choose another --output"
                ) from None
        if _read_json(part / STATE).get("wanted") != wanted:
            for path in part.iterdir():
                if path.name != LOCK:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            _write_json(part / STATE, {"wanted": wanted})
        yield


def _read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object; return an empty one if the file is missing or damaged."""
    try:
        content = json.loads(file.read_text("utf8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write_json(file: Path, content: dict[str, Any]) -> None:
    write_atomically(file, json.dumps(content).encode())
