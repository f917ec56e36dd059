"""Measure the time to find the cameras of photographs or a video, and their agreement with known poses.

    python benchmarks/capture.py PHOTOGRAPHS [--every 4] [--threads 2] [--reference transforms.json] [--json out.json]

Measures `scenetok capture` without importing Nerfstudio, encoding and viewer: reading pictures, features, matches,
mapping, writing. CPU seconds count this process and its ended child processes, such as ffmpeg for a video. A reference
is a transforms.json with the same file names (for a video: with as many frames, in the order of their names).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from scenetok_ns.data.capture.capture_folder import CaptureOptions, make_capture
from scenetok_ns.data.capture.photographs import find_photographs, natural
from scenetok_ns.data.capture.pose_estimation import EstimationOptions, require_pycolmap


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--every", type=int, default=1, help="take every n-th photograph")
    parser.add_argument("--most", type=int, default=None, help="take at most this number of photographs")
    parser.add_argument("--frames", type=int, default=None, help="number of frames of a video")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reference", type=Path, default=None, help="transforms.json with known poses")
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    require_pycolmap()
    with tempfile.TemporaryDirectory() as folder:
        source = arguments.source
        if source.is_dir():
            source = Path(folder) / "photographs"
            source.mkdir()
            for file in find_photographs(arguments.source)[:: arguments.every][: arguments.most]:
                shutil.copyfile(file, source / file.name)
        figures = measured(source, Path(folder) / "capture", arguments)
        if arguments.reference is not None:
            found, known = (poses_of(file) for file in (Path(folder) / "capture/transforms.json", arguments.reference))
            figures |= agreement(found, known, by_order=arguments.source.is_file())
    print(json.dumps(figures, indent=1))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=1))


def measured(source: Path, output: Path, arguments: argparse.Namespace) -> dict[str, object]:
    """Measure the time of each stage and the total time."""
    begin, cpu, seen = time.perf_counter(), cpu_seconds(), {}

    def progress(stage: str, done: int, total: int) -> None:
        seen.setdefault(stage, time.perf_counter() - begin)

    estimation = EstimationOptions(seed=arguments.seed, threads=arguments.threads)
    capture = make_capture(source, output, CaptureOptions(arguments.frames, estimation), progress)
    wall = time.perf_counter() - begin
    edges = [*seen.values(), wall]
    return {
        "pictures": capture.pictures,
        "registered": capture.registered,
        "threads": arguments.threads,
        "wall_s": round(wall, 1),
        "cpu_s": round(cpu_seconds() - cpu, 1),
        "stages_wall_s": {name: round(edges[i + 1] - edges[i], 1) for i, name in enumerate(seen)},
        "notes": capture.notes,
        "warnings": capture.warnings,
    }


def cpu_seconds() -> float:
    """CPU seconds of this process and of its child processes that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def poses_of(transforms: Path) -> dict[str, np.ndarray]:
    """Camera-to-world matrices by file name without suffix."""
    frames = json.loads(transforms.read_text())["frames"]
    return {Path(frame["file_path"]).stem: np.array(frame["transform_matrix"]) for frame in frames}


def agreement(found: dict[str, np.ndarray], known: dict[str, np.ndarray], by_order: bool) -> dict[str, float]:
    """Compare poses after the best similarity transform: positions in % of the known spread, rotations in degrees."""
    if by_order:
        names = sorted(known, key=natural)
        known = {name: known[names[int(name.rsplit("_", 1)[1]) - 1]] for name in found}
    names = sorted(found)
    one, other = (np.stack([poses[name] for name in names]) for poses in (found, known))
    scale, rotation, shift = similarity(one[:, :3, 3], other[:, :3, 3])
    moved = scale * one[:, :3, 3] @ rotation.T + shift
    spread = np.sqrt(((other[:, :3, 3] - other[:, :3, 3].mean(0)) ** 2).sum(1).mean())
    errors = np.linalg.norm(moved - other[:, :3, 3], axis=1)
    relative = np.einsum("vji,vjk->vik", rotation @ one[:, :3, :3], other[:, :3, :3])
    angles = np.degrees(np.arccos(np.clip((np.trace(relative, axis1=1, axis2=2) - 1) / 2, -1, 1)))
    return {
        "position_rms_percent": round(float(100 * np.sqrt((errors**2).mean()) / spread), 3),
        "position_max_percent": round(float(100 * errors.max() / spread), 3),
        "rotation_median_degrees": round(float(np.median(angles)), 3),
        "rotation_max_degrees": round(float(angles.max()), 3),
    }


def similarity(source: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Scale, rotation and shift that bring points [v, 3] closest to others (Umeyama)."""
    middle, goal = source.mean(0), target.mean(0)
    left, stretch, right = np.linalg.svd((target - goal).T @ (source - middle))
    sign = np.diag([1.0, 1.0, np.sign(np.linalg.det(left @ right))])
    rotation = left @ sign @ right
    scale = float((stretch * np.diag(sign)).sum() / ((source - middle) ** 2).sum())
    return scale, rotation, goal - scale * rotation @ middle


if __name__ == "__main__":
    main()
