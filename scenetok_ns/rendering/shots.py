"""Render paths through several scenes together, and find the photographs that were taken nearest to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int64
from PIL import Image
from torch import Tensor

from scenetok_ns.data.camera_path_files import CameraPath, square_lens
from scenetok_ns.data.camera_paths import PathName, preset_path, zoom_factors
from scenetok_ns.data.scenes import DataError, Scene
from scenetok_ns.models.cameras import pose_distances, scaled_poses
from scenetok_ns.models.flow.sampling import OnStep
from scenetok_ns.models.rendered_depth import depth_windows
from scenetok_ns.models.tokens import SceneTokens

if TYPE_CHECKING:
    from scenetok_ns.rendering.token_renderer import TokenRenderer

SCENES_AT_ONCE = 4
"""Number of scenes that are rendered in one batch."""


@dataclass(frozen=True, eq=False)
class Shot:
    """A path through one scene."""

    name: str
    """Name of the files."""
    tokens: SceneTokens
    path: CameraPath
    photographs: Scene | None = None
    """Scene whose nearest photographs are displayed beside the pictures; None: there are no photographs."""


def path_around(name: PathName, tokens: SceneTokens, count: int, size: tuple[int, int]) -> CameraPath:
    """Create a path from the cameras of a scene's photographs, with their median focal length.

    Args:
        name: One of `PATH_NAMES`.
        tokens: Tokens of the scene, with the cameras.
        count: Number of frames.
        size: (height, width) of the pictures in pixels.

    Raises:
        DataError: The tokens hold no cameras, or the cameras do not suffice for this path.
    """
    if tokens.cameras_c2w is None or tokens.cameras_intrinsics is None:
        raise DataError(
            f"the tokens of {tokens.scene or 'the scene'} hold no cameras to make a path from: encode the scene again, "
            "or give a camera path"
        )
    focal = float(tokens.cameras_intrinsics[:, [0, 1], [0, 1]].median())
    c2w = preset_path(name, tokens.cameras_c2w.cpu(), count)
    lenses = [square_lens(focal * factor) for factor in zoom_factors(name, count).tolist()]
    return CameraPath(c2w, torch.stack(lenses), size)


def render_shots(
    renderer: TokenRenderer, shots: Sequence[Shot], on_step: OnStep | None = None, *, depth: bool = False
) -> Iterator[tuple[Shot, int, Float[Tensor, "f 3 height width"], Float[Tensor, "f 1 height width"] | None]]:
    """Render all shots. Shots with paths of the same length are rendered together, up to `SCENES_AT_ONCE` at a time.

    Args:
        renderer: Networks and settings.
        shots: Shots to render.
        on_step: Called after each step with the number of steps done and their total over all shots.
        depth: Also find the depth.

    Yields:
        Shot, number of the first frame, finished pictures in [0, 1], and their depth along the optical axis in units of
        the capture: 0 beside the square that the model renders. None without `depth`, and from a student.
    """
    settings = renderer.settings
    swept = depth and renderer.networks.depth_head() is None
    batches = [[shot] for shot in shots] if swept or settings.stream else list(_batches(shots))
    for place, batch in enumerate(batches):

        def report(done: int, total: int, place: int = place) -> None:
            if on_step is not None:
                on_step(place * total + done, len(batches) * total)

        cameras = [shot.path.cameras.to(renderer.device) for shot in batch]
        tokens = [shot.tokens for shot in batch]
        if settings.stream:
            windows = renderer.windows(tokens[0], cameras[0], report)
        elif swept:
            windows = depth_windows(
                renderer.networks, tokens[0], cameras[0], seed=settings.seed, sampler=settings.sampler, on_step=report
            )
        else:
            windows = renderer.networks.render_many(
                tokens, cameras, seeds=settings.seed, sampler=settings.sampler, on_step=report, depth=depth
            )
        for window in windows:
            for place, (shot, frames) in enumerate(zip(batch, window.frames, strict=True)):
                request, maps = shot.path.request, None
                if window.maps is not None:
                    maps = request.fit(window.maps.depth[place]) * request.inside(frames.device)
                yield shot, window.first_frame, request.fit(frames).clamp(0, 1), maps


def _batches(shots: Sequence[Shot]) -> Iterator[list[Shot]]:
    by_length: dict[int, list[Shot]] = {}
    for shot in shots:
        by_length.setdefault(len(shot.path.c2w), []).append(shot)
    for group in by_length.values():
        for first in range(0, len(group), SCENES_AT_ONCE):
            yield group[first : first + SCENES_AT_ONCE]


@dataclass
class NearestPhotographs:
    """Finds for each frame of a path the photograph that was taken nearest to it, and crops it to a square."""

    shot: Shot
    nearest: Int64[Tensor, " n"] = field(init=False)
    _held: dict[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.shot.photographs is not None
        # Distances and angles are weighed against each other as in training.
        poses = scaled_poses(torch.cat([self.shot.path.c2w, self.shot.photographs.c2w]), self.shot.tokens.pose_scale)
        count = len(self.shot.path.c2w)
        self.nearest = pose_distances(poses)[:count, count:].argmin(dim=1)

    def picture(self, frame: int, side: int) -> Float[Tensor, "3 side side"]:
        """Photograph nearest to a frame of the path, scaled to `side` pixels."""
        index = int(self.nearest[frame])
        if index not in self._held:
            assert self.shot.photographs is not None
            image = self.shot.photographs.load_images([index])[0]
            height, width = image.shape[1:]
            cut = min(height, width)
            top, left = (height - cut) // 2, (width - cut) // 2
            square = Image.fromarray(image[:, top : top + cut, left : left + cut].permute(1, 2, 0).numpy())
            scaled = np.asarray(square.resize((side, side), Image.Resampling.LANCZOS))
            self._held = {index: torch.from_numpy(scaled.copy()).permute(2, 0, 1).float() / 255}
        return self._held[index]
