"""Computes the latents of many scenes once: resumable, in shards, the same bytes however often it was interrupted."""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from scenetok_ns.atomic_files import remove_leftovers
from scenetok_ns.data.latent_files import (
    SPLITS,
    LatentFile,
    LatentSettings,
    check_scene_name,
    latent_path,
    verify_file,
    write_map,
)
from scenetok_ns.data.poses import reflect
from scenetok_ns.data.scenes import BadScene, DataError, Scene, SceneSource, SkippedScenes, Views
from scenetok_ns.models.autoencoders.base import Autoencoder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count` parts of every split."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(f"shard {self.index}/{self.count}: the first number counts from 0 up to the second")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """`i/n`, i from 0."""
        index, slash, count = text.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal()):
            raise ValueError(f"shard {text!r}: expected i/n, such as 0/8 for the first of eight")
        return cls(int(index), int(count))

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Shard:
        """From a SLURM job array, and inside each of its jobs (or without one) from torchrun or srun.

        Eight jobs of four processes each are 32 shards. Without such variables: everything.
        """
        shard = cls()
        for index, count, first, step in _SHARD_VARIABLES:
            if index not in environment or count not in environment:
                continue
            number = int(environment[index]) - int(environment.get(first, "0"))
            part = cls(number // int(environment.get(step, "1")), int(environment[count]))
            shard = cls(shard.index * part.count + part.index, shard.count * part.count)
            if index == "RANK":
                break  # torchrun under srun counts all its processes already
        return shard

    def of(self, keys: Sequence[str]) -> Sequence[str]:
        """A run of consecutive keys: neighbours share files in some data sets."""
        start, stop = (len(keys) * i // self.count for i in (self.index, self.index + 1))
        return keys[start:stop]


_SHARD_VARIABLES = (
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_STEP"),
    ("RANK", "WORLD_SIZE", "", ""),
    # Of a job step: in a batch script without srun SLURM_PROCID is 0 of SLURM_NTASKS, though it is the only process.
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "", ""),
)


@dataclass(frozen=True)
class LatentJob:
    """What to compute."""

    root: Path
    settings: LatentSettings
    sources: Mapping[str, SceneSource]
    """Split -> scenes."""
    factors: tuple[int, ...] = (1,)
    """Every how many frames one is taken, one set of files for each."""
    flip_splits: tuple[str, ...] = ()
    """Splits whose mirrored scenes are computed as well."""
    min_frames: int = 32
    """Scenes with fewer frames, after taking every n-th, are left out (published: 32)."""
    shard: Shard = Shard()
    workers: int = 4
    """Scenes that are decoded at the same time, ahead of the autoencoder."""

    def __post_init__(self) -> None:
        unknown = set(self.sources) - set(SPLITS)
        if unknown or any(factor < 1 for factor in self.factors) or not self.factors:
            raise ValueError(f"LatentJob: splits {sorted(self.sources)} of {SPLITS}, factors {self.factors} from 1")

    def scenes(self) -> list[tuple[str, str]]:
        """(split, scene) of this shard."""
        return [(split, key) for split, source in self.sources.items() for key in self.shard.of(list(source.keys))]

    def variants(self, split: str) -> list[tuple[int, bool]]:
        """(factor, flipped) of each file of a scene."""
        return [
            (factor, flip)
            for factor in self.factors
            for flip in ((False, True) if split in self.flip_splits else (False,))
        ]


@dataclass(frozen=True)
class JobReport:
    written: int
    """Files."""
    present: int
    """Scenes that were complete before."""
    skipped: SkippedScenes


@torch.inference_mode()
def compute_latents(
    job: LatentJob, autoencoder: Autoencoder, on_scene: Callable[[str], None] = lambda key: None
) -> JobReport:
    """Make the files of this shard that are not there yet, then the map file.

    A scene that cannot be used is skipped and reported. Files appear complete or not at all, and their bytes depend on
    `job.settings` and the photographs alone, so an interrupted run is continued by running it again.
    `on_scene` is called after each scene of the shard. Raises DataError if the folder holds a set with other settings.
    """
    job.root.mkdir(parents=True, exist_ok=True)
    job.settings.claim(job.root)
    remove_leftovers(job.root)
    skipped = SkippedScenes()
    written = present = 0
    for split, key, wanted, loaded in _load_ahead(job):
        try:
            if not wanted:
                present += 1
            for factor, flip in wanted:
                file = _encode(job, autoencoder, key, loaded(), factor, flip)
                file.save(latent_path(job.root, split, factor, key, flip))
                written += 1
        except BadScene as error:
            skipped.add(error if error.key else BadScene(error.reason, key))
        on_scene(key)
    write_map(job.root)
    return JobReport(written, present, skipped)


Wanted = list[tuple[int, bool]]


def _load_ahead(job: LatentJob) -> Iterator[tuple[str, str, Wanted, Callable[[], Views]]]:
    """Scenes of the shard with the files they lack; photographs are decoded by threads some scenes ahead."""
    queue: deque[tuple[str, str, Wanted, Callable[[], Views]]] = deque()
    with ThreadPoolExecutor(job.workers) as pool:
        try:
            for split, key in job.scenes():
                wanted = [v for v in job.variants(split) if not latent_path(job.root, split, v[0], key, v[1]).is_file()]
                queue.append((split, key, wanted, _start_loading(job, pool, split, key) if wanted else _nothing))
                if len(queue) > job.workers:
                    yield queue.popleft()
            yield from queue
        finally:
            pool.shutdown(cancel_futures=True)


def _start_loading(job: LatentJob, pool: ThreadPoolExecutor, split: str, key: str) -> Callable[[], Views]:
    """Opens the scene at once (sources are not made for threads), its photographs in a thread."""
    future: Future[Views]
    try:
        check_scene_name(key)
        future = pool.submit(_load_all, job.sources[split].scene(key), job.settings.image_size, job.min_frames)
    except BadScene as error:
        future = Future()
        future.set_exception(error)
    return future.result


def _load_all(scene: Scene, image_size: int, min_frames: int) -> Views:
    if scene.num_frames < min_frames:
        raise BadScene(f"{scene.num_frames} frames, fewer than {min_frames}", scene.key)
    return scene.load_views(range(scene.num_frames), (image_size, image_size))


def _nothing() -> Views:
    raise AssertionError("a complete scene is not loaded")


def _encode(job: LatentJob, autoencoder: Autoencoder, key: str, views: Views, factor: int, flip: bool) -> LatentFile:
    """One file: every `factor`-th frame, cut to whole chunks of the autoencoder."""
    layout = autoencoder.space.layout
    available = -(-len(views.images) // factor)
    count = available // layout.frames_per_chunk * layout.frames_per_chunk
    if available < job.min_frames or count == 0:
        raise BadScene(f"{available} frames after taking every {factor}., fewer than {job.min_frames}", key)
    frames = torch.arange(count) * factor
    images, c2w = views.images[frames], views.c2w[frames]
    if flip:
        images, c2w = reflect(images, c2w)
    device = next((p.device for p in autoencoder.parameters()), torch.device("cpu"))
    noise = frame_noise(job.settings.seed, key, frames.tolist(), flip, autoencoder, job.settings.image_size)
    latents = autoencoder.encode_raw(images[None].to(device).float() / 255, noise=noise[None].to(device))[0].cpu()
    stored = latents.to(torch.float16)
    if not stored.isfinite().all():
        raise BadScene("latents are not finite in float16", key)
    return LatentFile(stored, c2w, views.intrinsics[frames])


def frame_noise(
    seed: int, key: str, frames: Sequence[int], flip: bool, autoencoder: Autoencoder, image_size: int
) -> Tensor:
    """Standard normal noise [l, c, h, w] of the latents that begin with each chunk's frames.

    Each latent's noise follows from seed, scene, its first frame and mirroring alone, so it is the same in every run,
    shard and batch, and different for every picture.
    """
    space = autoencoder.space
    shape = (space.channels, *space.latent_size((image_size, image_size)))
    firsts = [frames[space.layout.first_frame(latent)] for latent in range(space.layout.num_latents(len(frames)))]
    return torch.stack([torch.randn(shape, generator=_generator(seed, key, frame, flip)) for frame in firsts])


def _generator(seed: int, key: str, frame: int, flip: bool) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}/{key}/{frame}/{int(flip)}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def verify_set(root: Path, on_file: Callable[[Path], None] = lambda path: None) -> dict[Path, str]:
    """Read every file of a set; returns those that are unusable, with what is wrong."""
    files = sorted(path for path in root.glob("*/*/*.npz") if not path.name.startswith("."))
    if not files:
        raise DataError(f"{root} holds no latents (expected {root}/train/1/SCENE.npz)")
    bad = {}
    for path in files:
        problem = verify_file(path)
        if problem is not None:
            bad[path] = problem
        on_file(path)
    return bad
