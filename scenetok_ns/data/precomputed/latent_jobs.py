"""Compute the latents of many scenes, in shards. An interrupted job can be resumed and then writes the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from scenetok_ns.data.poses import reflect
from scenetok_ns.data.precomputed.latent_files import (
    SPLITS,
    LatentFile,
    LatentSettings,
    latent_path,
    verify_file,
    write_map,
)
from scenetok_ns.data.precomputed.scene_jobs import JobReport, SceneTask, Shard, run_tasks
from scenetok_ns.data.scenes import BadScene, DataError, Scene, SceneSource, Views
from scenetok_ns.models.autoencoders.base import Autoencoder
from scenetok_ns.tools.seeds import named_generator


@dataclass(frozen=True)
class LatentJob:
    """Options of a job that computes latents."""

    root: Path
    """Folder of the set."""
    settings: LatentSettings
    sources: Mapping[str, SceneSource]
    """Split -> scenes."""
    factors: tuple[int, ...] = (1,)
    """Frame strides: N takes every N-th frame. Each stride has its own files."""
    flip_splits: tuple[str, ...] = ()
    """Splits for which mirrored scenes are computed as well."""
    min_frames: int = 32
    """Scenes with fewer frames, after applying the stride, are left out (published: 32)."""
    shard: Shard = field(default_factory=Shard)
    workers: int = 4
    """Number of scenes that are decoded at the same time, ahead of the autoencoder."""

    def __post_init__(self) -> None:
        unknown = set(self.sources) - set(SPLITS)
        if unknown or any(factor < 1 for factor in self.factors) or not self.factors:
            raise ValueError(
                f"LatentJob: expected splits of {SPLITS} and factors of at least 1, got {sorted(self.sources)} and "
                f"{self.factors}"
            )

    def scenes(self) -> list[tuple[str, str]]:
        """(split, scene) of all scenes in this shard."""
        return [(split, key) for split, source in self.sources.items() for key in self.shard.of(list(source.keys))]

    def variants(self, split: str) -> list[tuple[int, bool]]:
        """(factor, flipped) of each file of a scene."""
        return [
            (factor, flip)
            for factor in self.factors
            for flip in ((False, True) if split in self.flip_splits else (False,))
        ]


@torch.inference_mode()
def compute_latents(
    job: LatentJob, autoencoder: Autoencoder, on_scene: Callable[[str], None] = lambda key: None
) -> JobReport:
    """Create the missing files of this shard, then the map file.

    A scene that cannot be used is skipped and reported. Files are complete or absent, and their bytes depend on
    `job.settings` and the photographs alone, so running an interrupted job again continues it.

    Args:
        job: Scenes and options.
        autoencoder: The autoencoder that `job.settings` names.
        on_scene: Called after each scene of the shard.

    Raises:
        DataError: The folder holds a set with other settings.
    """
    tasks = (_task(job, autoencoder, split, key) for split, key in job.scenes())
    report = run_tasks(job.root, job.settings, tasks, job.workers, on_scene)
    write_map(job.root)
    return report


def _task(job: LatentJob, autoencoder: Autoencoder, split: str, key: str) -> SceneTask[Views]:
    files = {variant: latent_path(job.root, split, variant[0], key, variant[1]) for variant in job.variants(split)}
    missing = {variant: path for variant, path in files.items() if not path.is_file()}

    def open_scene() -> Callable[[], Views]:
        return partial(_load_all, job.sources[split].scene(key), job.settings.image_size, job.min_frames)

    def write(views: Views) -> Iterator[Path]:
        for (factor, flip), path in missing.items():
            _encode(job, autoencoder, key, views, factor, flip).save(path)
            yield path

    return SceneTask(key, not missing, open_scene, write)


def _load_all(scene: Scene, image_size: int, min_frames: int) -> Views:
    if scene.num_frames < min_frames:
        raise BadScene(f"{scene.num_frames} frames, fewer than {min_frames}", scene.key)
    return scene.load_views(range(scene.num_frames), (image_size, image_size))


def _encode(job: LatentJob, autoencoder: Autoencoder, key: str, views: Views, factor: int, flip: bool) -> LatentFile:
    """Encode one file: every `factor`-th frame, cut to whole chunks of the autoencoder."""
    layout = autoencoder.space.layout
    available = -(-len(views.images) // factor)
    count = available // layout.frames_per_chunk * layout.frames_per_chunk
    if available < job.min_frames or count == 0:
        raise BadScene(f"{available} frames after taking one in {factor}, fewer than {job.min_frames}", key)
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
    """Draw standard normal noise [l, c, h, w] for the latents of some frames.

    The noise of a latent depends only on the seed, the scene, the latent's first frame and mirroring, so it is the same
    in every run, shard and batch, and different for every picture.
    """
    space = autoencoder.space
    shape = (space.channels, *space.latent_size((image_size, image_size)))
    firsts = [frames[space.layout.first_frame(latent)] for latent in range(space.layout.num_latents(len(frames)))]
    return torch.stack([torch.randn(shape, generator=named_generator(seed, key, frame, int(flip))) for frame in firsts])


def verify_set(root: Path, on_file: Callable[[Path], None] = lambda path: None) -> dict[Path, str]:
    """Read every file of a set. Returns the unusable ones with their problems. Raises DataError if there is no file."""
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
