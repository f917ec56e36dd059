"""Estimate camera poses from pictures with pycolmap: features, matches, incremental mapping.

Features and matches are stored in one SQLite database, so interrupted work continues where it stopped.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from scenetok_ns.data.capture.photographs import CaptureError, Picture

if TYPE_CHECKING:
    import pycolmap

T = TypeVar("T")
Progress = Callable[[str, int, int], None]
"""Called with the name of a stage, the number of items done, and their total."""

EXHAUSTIVE_PICTURES = 80
"""Number of pictures up to which all pairs are matched. If there are more, at most this number are key pictures."""
NEIGHBOURS = 10
"""Number of following pictures that each picture of a longer sequence is matched with; also ones 2, 4, 8, ... later."""
FEATURE_SIZE = 1600
"""Longer side in pixels to which pictures are reduced before features are extracted."""
MOST_FEATURES = 4096
"""Maximum number of features of a picture. With twice as many, pairs of large pictures take four times as long."""
FULL_LENS_PICTURES = 8
"""Number of pictures from which a lens gets two focal lengths and four distortion terms; with fewer, one of each."""
PRINCIPAL_POINT_PICTURES = 12
"""Number of pictures from which the principal point of a lens is estimated."""
DEFAULT_FOCAL = 1.2
"""Initial focal length as a multiple of the longer side, if EXIF has none."""
SMALLEST_MODEL = 3
"""Number of registered pictures below which a model is dropped."""
FARTHEST_PRINCIPAL_POINT = 0.1
"""Distance from the middle, as a share of the picture's size, beyond which a principal point is rejected."""
FEATURE_CHUNK, PAIR_CHUNK = 8, 128
"""Number of pictures and of pairs between two progress reports."""
POLL_S = 0.2


@dataclass(frozen=True)
class EstimationOptions:
    """Options of the estimation of cameras."""

    seed: int = 0
    threads: int = -1
    """Number of threads; -1: all cores."""
    separate_lenses: bool = False
    """Estimate a separate lens for every picture."""

    @property
    def num_threads(self) -> int:
        return self.threads if self.threads > 0 else os.cpu_count() or 1


def require_pycolmap() -> Any:
    """Import pycolmap and silence its logging. Raises CaptureError if it is not installed."""
    try:
        import pycolmap
    except ImportError as error:
        raise CaptureError(
            "finding cameras needs pycolmap: pip install 'scenetok-ns[capture]' (or pycolmap-cuda12 for a GPU)"
        ) from error
    if threading.current_thread() is threading.main_thread():
        # Its logging library has replaced the handler of SIGTERM with one that prints a stack trace.
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM) or signal.SIG_DFL)
    pycolmap.logging.minloglevel = pycolmap.logging.FATAL.value
    return pycolmap


def find_matches(
    pictures: Sequence[Picture], images: Path, work: Path, options: EstimationOptions, progress: Progress
) -> Path:
    """Find features in pictures of one place, and match them.

    Args:
        pictures: The pictures, in the order in which they were taken.
        images: Folder that holds the pictures under their `name`.
        work: Folder for the database. A second call with the same pictures continues from its content.
        options: See EstimationOptions.
        progress: Called with "features" or "matches", the number done and their total.

    Returns:
        Path of COLMAP's database.

    Raises:
        CaptureError: pycolmap is not installed, or it failed.
    """
    pycolmap = require_pycolmap()
    work.mkdir(parents=True, exist_ok=True)
    database = work / DATABASE
    device = pycolmap.Device.cuda if pycolmap.has_cuda else pycolmap.Device.cpu
    names = [picture.name for picture in pictures]
    with _reported():
        _enter_pictures(pycolmap, database, images, pictures, options)
        _find_features(pycolmap, database, images, names, options, device, progress)
        _match(pycolmap, database, names, options, device, progress)
    return database


def find_cameras(
    database: Path, images: Path, total: int, options: EstimationOptions, progress: Progress
) -> list[pycolmap.Reconstruction]:
    """Find the cameras of `total` pictures from their matches.

    Returns:
        Models, each in its own coordinate system, the one with most registered pictures first; empty if none was found.

    Raises:
        CaptureError: pycolmap is not installed, or it failed.
    """
    pycolmap = require_pycolmap()
    with _reported():
        return _map(pycolmap, database, images, database.parent / "models", total, options, progress)


@contextmanager
def _reported() -> Iterator[None]:
    """Turn COLMAP's errors into CaptureError with one line."""
    try:
        yield
    except (RuntimeError, ValueError, OSError) as error:
        if isinstance(error, CaptureError):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CaptureError(f"pycolmap failed: {reason}") from error


DATABASE = "database.db"


def lens_groups(pictures: Sequence[Picture], separate: bool = False) -> list[list[Picture]]:
    """Group pictures that share a lens: the same size, camera and focal length, as far as EXIF says.

    With `separate`, each picture is a group of its own.
    """
    groups: dict[object, list[Picture]] = {}
    for picture in pictures:
        groups.setdefault(picture.name if separate else picture.lens, []).append(picture)
    return list(groups.values())


def _enter_pictures(
    pycolmap: Any, database: Path, images: Path, pictures: Sequence[Picture], options: EstimationOptions
) -> None:
    """Write cameras and pictures into a new database, always in the same order, so that a seed fixes the result."""
    if database.exists():
        with closing(pycolmap.Database.open(database)) as opened:
            if opened.num_images() == len(pictures):
                return
        for file in database.parent.glob(f"{database.name}*"):
            file.unlink()
    camera_of: dict[str, int] = {}
    with closing(pycolmap.Database.open(database)) as opened:
        for group in lens_groups(pictures, options.separate_lenses):
            model = "OPENCV" if len(group) >= FULL_LENS_PICTURES else "SIMPLE_RADIAL"
            first = group[0]
            focal = first.focal or DEFAULT_FOCAL * max(first.width, first.height)
            camera = pycolmap.Camera.create_from_model_name(0, model, focal, first.width, first.height)
            camera.has_prior_focal_length = first.focal is not None
            number = opened.write_camera(camera)
            camera_of.update({picture.name: number for picture in group})
    for picture in pictures:
        reader = pycolmap.ImageReaderOptions(existing_camera_id=camera_of[picture.name])
        mode = pycolmap.CameraMode.SINGLE
        pycolmap.import_images(database, images, camera_mode=mode, image_names=[picture.name], options=reader)


def _find_features(
    pycolmap: Any,
    database: Path,
    images: Path,
    names: list[str],
    options: EstimationOptions,
    device: Any,
    progress: Progress,
) -> None:
    extraction = pycolmap.FeatureExtractionOptions(num_threads=options.num_threads, max_image_size=FEATURE_SIZE)
    extraction.sift.max_num_features = MOST_FEATURES
    size = max(FEATURE_CHUNK, 2 * options.num_threads)
    for done, chunk in _chunks(names, size):
        progress("features", done, len(names))
        arguments = {"image_names": chunk, "extraction_options": extraction, "device": device}
        _run(pycolmap, partial(pycolmap.extract_features, database, images, **arguments))
    progress("features", len(names), len(names))


def _match(
    pycolmap: Any, database: Path, names: list[str], options: EstimationOptions, device: Any, progress: Progress
) -> None:
    pairs = pairs_to_match(len(names))
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = options.seed
    listed = database.with_name("pairs.txt")
    arguments = {
        "matching_options": pycolmap.FeatureMatchingOptions(num_threads=options.num_threads),
        "pairing_options": pycolmap.ImportedPairingOptions(match_list_path=listed),
        "verification_options": verification,
        "device": device,
    }
    for done, chunk in _chunks(pairs, PAIR_CHUNK):
        progress("matches", done, len(pairs))
        listed.write_text("".join(f"{names[first]} {names[second]}\n" for first, second in chunk), "utf8")
        _run(pycolmap, partial(pycolmap.match_image_pairs, database, **arguments))
    progress("matches", len(pairs), len(pairs))


def pairs_to_match(count: int) -> list[tuple[int, int]]:
    """Choose the pairs of `count` pictures to match: all pairs of a few pictures, else neighbours and key pictures.

    The at most EXHAUSTIVE_PICTURES key pictures are spread evenly and all matched with each other, which finds places
    that the camera passed again.
    """
    if count <= EXHAUSTIVE_PICTURES:
        return list(combinations(range(count), 2))
    steps = {*range(1, NEIGHBOURS + 1), *(2**power for power in range(count.bit_length()))}
    near = {(first, first + step) for first in range(count) for step in steps if first + step < count}
    keys = range(0, count, -(-count // EXHAUSTIVE_PICTURES))
    return sorted(near | set(combinations(keys, 2)))


def _map(
    pycolmap: Any,
    database: Path,
    images: Path,
    output: Path,
    total: int,
    options: EstimationOptions,
    progress: Progress,
) -> list[pycolmap.Reconstruction]:
    output.mkdir(exist_ok=True)
    mapping = pycolmap.IncrementalPipelineOptions(
        num_threads=options.num_threads, random_seed=options.seed, min_model_size=min(SMALLEST_MODEL, total)
    )
    progress("cameras", 0, total)
    registered = 0

    def next_image() -> None:
        nonlocal registered
        registered += 1
        progress("cameras", min(registered + 1, total), total)  # the first call stands for the initial pair

    arguments = {"options": mapping, "initial_image_pair_callback": next_image, "next_image_callback": next_image}
    models = _run(pycolmap, partial(pycolmap.incremental_mapping, database, images, output, **arguments))
    order = sorted(models, key=lambda number: -models[number].num_reg_images())
    if order:
        models[order[0]] = _with_principal_point(pycolmap, models[order[0]], output / str(order[0]), options)
    return [models[number] for number in order]


def _with_principal_point(pycolmap: Any, model: Any, stored: Path, options: EstimationOptions) -> Any:
    """Return the model with adjusted principal points, or the model itself if pictures are too few or the result is
    implausible.

    Mapping leaves the principal point in the middle. An error of 1 % of the width turns all cameras by half a degree.
    """
    counts = Counter(image.camera_id for image in model.images.values() if image.has_pose)
    if min(counts.values()) < PRINCIPAL_POINT_PICTURES:
        return model
    settings = pycolmap.BundleAdjustmentOptions(refine_principal_point=True, print_summary=False)
    settings.ceres.solver_options.num_threads = options.num_threads
    refined = pycolmap.Reconstruction(stored)
    adjusted = pycolmap.BundleAdjustmentConfig()
    for number in refined.reg_image_ids():
        adjusted.add_image(number)
    adjusted.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    # pycolmap.bundle_adjustment does the same, but turns COLMAP's log on.
    pycolmap.create_default_bundle_adjuster(settings, adjusted, refined).solve()
    refined.update_point_3d_errors()
    for camera in refined.cameras.values():
        off = (camera.principal_point_x / camera.width - 0.5, camera.principal_point_y / camera.height - 0.5)
        if max(map(abs, off)) > FARTHEST_PRINCIPAL_POINT or camera.has_bogus_params(0.1, 10.0, 1.0):
            return model
    return refined


def _chunks(items: Sequence[T], size: int) -> Iterator[tuple[int, list[T]]]:
    """Yield (number of earlier items, chunk of items).

    COLMAP is called for one chunk at a time to report progress: during a call, nothing else may read its database.
    """
    for begin in range(0, len(items), size):
        yield begin, list(items[begin : begin + size])


def _run(pycolmap: Any, call: Callable[..., T]) -> T:
    """Run a call of COLMAP in a separate thread. An interrupt cancels the call and waits until it has ended."""
    token = pycolmap.CancellationToken()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(call, cancellation_token=token)
        try:
            while not wait([future], timeout=POLL_S).done:
                pass
        except BaseException:
            token.cancel()
            raise
    return future.result()
