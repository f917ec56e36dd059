"""Encode the scenes of a split into a token set: resumable, in shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from scenetok_ns.data.poses import reflect
from scenetok_ns.data.precomputed.scene_jobs import JobReport, SceneTask, Shard, run_tasks
from scenetok_ns.data.precomputed.token_sets import SceneEncodings, TokenSettings, token_path
from scenetok_ns.data.scenes import Scene, SceneSource, Views
from scenetok_ns.data.view_sampling import sample_views
from scenetok_ns.models.autoencoders.registry import latent_space
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.presets import Preset
from scenetok_ns.tools.seeds import named_generator

if TYPE_CHECKING:
    from scenetok_ns.models.scenetok import SceneTok


@dataclass(frozen=True)
class TokenJob:
    """Options of a job that encodes scenes."""

    root: Path
    split: str
    source: SceneSource
    settings: TokenSettings
    shard: Shard = field(default_factory=Shard)
    workers: int = 4
    """Number of scenes that are decoded at the same time, ahead of the networks."""

    def scenes(self) -> list[str]:
        return list(self.shard.of(list(self.source.keys)))


@dataclass(frozen=True, eq=False)
class _Draw:
    """The views of one encoding."""

    context: Int64[Tensor, " context"]
    reference: int
    """Index of the reference view in `context`."""
    flipped: bool


@torch.no_grad()
def compute_tokens(job: TokenJob, model: SceneTok, on_scene: Callable[[str], None] = lambda key: None) -> JobReport:
    """Create the missing files of this shard.

    A scene that cannot be used is skipped and reported. Files are complete or absent, so running an interrupted job
    again continues it.

    Args:
        job: Scenes and options.
        model: Model that encodes the scenes.
        on_scene: Called after each scene of the shard.

    Raises:
        DataError: The folder holds a set with other settings.
    """
    tasks = (_task(job, model, key) for key in job.scenes())
    return run_tasks(job.root, job.settings, tasks, job.workers, on_scene)


Loaded = tuple[list[_Draw], Int64[Tensor, " f"], Views, int]
"""Drawn views of each encoding, numbers of the frames they need, these frames, and the scene's number of frames."""


def _task(job: TokenJob, model: SceneTok, key: str) -> SceneTask[Loaded]:
    path = token_path(job.root, job.split, key)

    def open_scene() -> Callable[[], Loaded]:
        scene = job.source.scene(key)
        draws = draw_encodings(scene, model.preset, job.settings.encodings, job.settings.seed)
        return partial(_load, scene, draws, model.preset)

    def write(loaded: Loaded) -> Iterator[Path]:
        _encode(model, *loaded).save(path, getattr(torch, job.settings.dtype))
        yield path

    return SceneTask(key, path.is_file(), open_scene, write)


def draw_encodings(scene: Scene, preset: Preset, count: int, seed: int) -> list[_Draw]:
    """Draw the views of each encoding, which depend only on the seed and the scene's name. Raises BadScene."""
    layout = latent_space(preset.target_autoencoder).layout
    draws = []
    for number in range(count):
        generator = named_generator(seed, scene.key, number)
        step = preset.training.max_steps  # after every warm-up of the view sampling
        context = sample_views(scene.c2w, preset.data.views, layout, step=step, generator=generator).context
        reference = int(torch.randint(len(context), (), generator=generator))
        draws.append(_Draw(context, reference, preset.data.random_flip and number % 2 == 1))
    return draws


def _load(scene: Scene, draws: list[_Draw], preset: Preset) -> Loaded:
    frames = torch.cat([draw.context for draw in draws]).unique()  # each is decoded once
    return draws, frames, scene.load_views(frames, (preset.data.image_size,) * 2), scene.num_frames


def _encode(
    model: SceneTok, draws: list[_Draw], frames: Int64[Tensor, " f"], views: Views, num_frames: int
) -> SceneEncodings:
    encoded = []
    for draw in draws:
        place = torch.searchsorted(frames, draw.context)
        images, c2w, intrinsics = views.images[place], views.c2w[place], views.intrinsics[place]
        if draw.flipped:
            images, c2w = reflect(images, c2w)
        tokens = model.encode_views(
            images[None].to(model.device).float() / 255, _relative(c2w, intrinsics, draw.reference).to(model.device)
        )
        encoded.append((tokens.mean[0].float().cpu(), tokens.logvar[0].float().cpu(), c2w, intrinsics))
    mean, logvar, c2w, intrinsics = (torch.stack(column) for column in zip(*encoded, strict=True))
    return SceneEncodings(
        mean=mean,
        logvar=logvar,
        c2w=c2w,
        intrinsics=intrinsics,
        reference=torch.stack([draw.context[draw.reference] for draw in draws]),
        flipped=torch.tensor([draw.flipped for draw in draws]),
        num_frames=torch.tensor([num_frames]),
    )


def _relative(c2w: Float[Tensor, "v 4 4"], intrinsics: Float[Tensor, "v 3 3"], reference: int) -> CameraBatch:
    return CameraBatch(c2w[None], intrinsics[None]).relative_to(c2w[None, reference])
