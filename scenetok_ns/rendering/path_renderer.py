"""Render the frames of camera paths jointly for tools that request one camera at a time."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from scenetok_ns.bridge.cameras import recover_path, square_cameras
from scenetok_ns.bridge.viewer_threads import Untraced
from scenetok_ns.data.poses import bad_lens, bad_pose
from scenetok_ns.data.scenes import DataError
from scenetok_ns.data.square_pictures import Aspect
from scenetok_ns.dataparsers.camera_conversion import nerfstudio_to_camera_batch
from scenetok_ns.models.cameras import CameraBatch
from scenetok_ns.models.depth_geometry import DepthMaps
from scenetok_ns.models.flow.windows import RenderedFrames
from scenetok_ns.models.temporal import TemporalLayout
from scenetok_ns.models.tokens import SceneTokens
from scenetok_ns.rendering.pictures import ViewDepth

KEPT_BEHIND = 128
"""Number of frames before the last requested one that stay in memory. Tools request frames in ascending order."""
KEPT_IN_ALL = 512
"""Maximum number of cached frames of all paths together; the least recently used paths are dropped first."""
REACH = 24
"""Number of frames before and after a frame from which its depth is found without a depth head."""

SamplePath = Callable[[int, CameraBatch, Callable[[int, int], None]], Iterator[RenderedFrames]]
"""sample(scene, cameras, on_step) yields the frames of the whole path in order, as a batch of one. See
`SceneTok.render`."""
SweepPath = Callable[[int, Tensor, CameraBatch, int], DepthMaps]
"""sweep(scene, frames, cameras, number) returns the depth of frame `number` of some frames of a path."""


@dataclass
class _Path:
    """A path that is being sampled. `frames` are the sampled frames that are still cached; `first` is the first."""

    windows: Iterator[RenderedFrames]
    check: Callable[[int, int], None]
    first: int = 0
    frames: list[Tensor] = field(default_factory=list)
    maps: list[DepthMaps | None] = field(default_factory=list)
    """Depth of the same frames; None: there is no depth head."""
    uncertainty: dict[int, Tensor] = field(default_factory=dict)
    """Latent -> its uncertainty, for latents whose frames can still be requested."""

    def add(self, window: RenderedFrames) -> None:
        self.frames.extend(window.frames[0])
        if window.maps is None:
            self.maps.extend([None] * window.frames.shape[1])
        else:
            self.maps.extend(DepthMaps(*one) for one in zip(*(maps[0].split(1) for maps in window.maps), strict=True))
        for part in window.denoised:
            maps = part.uncertainty[0, part.first - part.window_first :]
            self.uncertainty |= dict(enumerate(maps[: part.latents.shape[1]], part.first))

    @property
    def end(self) -> int:
        return self.first + len(self.frames)

    def drop_before(self, index: int, layout: TemporalLayout) -> None:
        count = min(max(index - self.first, 0), len(self.frames))
        del self.frames[:count], self.maps[:count]
        self.first += count
        oldest = layout.latent_of(self.first)
        self.uncertainty = {latent: kept for latent, kept in self.uncertainty.items() if latent >= oldest}


@dataclass(frozen=True)
class Frame:
    """One frame of a path, on the model's device."""

    picture: Float[Tensor, "3 side side"]
    """Picture at the model's size, in [0, 1]."""
    uncertainty: Float[Tensor, "h w"]
    """Uncertainty at the size of the latents; see `SampledLatents`."""
    depth: ViewDepth


class PathRenderer:
    """Renders the frames of paths on request.

    It recovers the path behind a one-camera slice, samples it window by window as frames are requested, and caches
    recent frames. The same cameras always give the same frames.
    """

    def __init__(
        self, sample: SamplePath, layout: TemporalLayout, sweep: SweepPath, tokens_of: Callable[[int], SceneTokens]
    ) -> None:
        """Create a renderer with an empty cache.

        Args:
            sample: Renders a path.
            layout: Temporal layout of the latents from which frames are decoded.
            sweep: Finds the depth of a frame if `sample` gives none.
            tokens_of: Returns the tokens of a scene.
        """
        self._sample, self._sweep, self._tokens_of = sample, sweep, tokens_of
        self._layout = layout
        self._paths: OrderedDict[str, _Path] = OrderedDict()

    def frame(self, camera: Cameras, active_scene: int, settings: str, wide: Aspect) -> Frame:
        """Render the square picture of a one-camera slice.

        A viewer's interrupt raises its exception between denoising steps; partial results are dropped.

        Args:
            camera: A slice of one camera.
            active_scene: Scene of cameras without metadata.
            settings: Key of everything else that frames depend on (weights, tokens, seed, sampler), for the cache.
            wide: Treatment of pictures that are not square.

        Raises:
            DataError: The cameras of the path are invalid.
        """
        scene, path, index = scene_path(camera, active_scene)
        cameras = nerfstudio_to_camera_batch(square_cameras(path, wide))
        key = path_key(cameras, scene, settings)
        with Untraced() as untraced:
            try:
                return self._frame_at(key, scene, cameras, index, lambda done, total: untraced.check())
            except BaseException:
                self._paths.pop(key, None)
                raise

    def _frame_at(
        self, key: str, scene: int, cameras: CameraBatch, index: int, check: Callable[[int, int], None]
    ) -> Frame:
        state = self._paths.get(key)
        if state is None or index < state.first:
            state = self._start(scene, cameras)
            self._paths[key] = state
        self._paths.move_to_end(key)
        state.check = check
        while state.end <= index:
            state.add(next(state.windows))
        state.drop_before(index - KEPT_BEHIND, self._layout)
        self._evict()
        place = index - state.first
        found, frames = state.maps[place], state.frames[max(place - REACH, 0) : place + REACH + 1]
        near = cameras.select(slice(state.first + max(place - REACH, 0), state.first + place + REACH + 1))

        def find() -> DepthMaps:
            if found is not None:
                return found
            return self._sweep(scene, torch.stack(frames), near.select(slice(len(frames))), min(place, REACH))

        depth = ViewDepth(find, cameras.select([index]), self._tokens_of(scene))
        return Frame(state.frames[place], state.uncertainty[self._layout.latent_of(index)], depth)

    def _start(self, scene: int, cameras: CameraBatch) -> _Path:
        check_cameras_of_path(cameras)
        # The sampler continues across requests, and each request brings its own check for interrupts.
        state = _Path(windows=iter(()), check=lambda done, total: None)
        state.windows = self._sample(scene, cameras, lambda done, total: state.check(done, total))
        return state

    def _evict(self) -> None:
        while len(self._paths) > 1 and sum(len(path.frames) for path in self._paths.values()) > KEPT_IN_ALL:
            self._paths.popitem(last=False)


def check_cameras_of_path(cameras: CameraBatch) -> None:
    """Raise DataError, which names the first invalid frame, unless all cameras of a path are valid."""
    c2w, intrinsics = cameras.c2w[0].cpu(), cameras.intrinsics[0].cpu()
    if (wrong := bad_pose(c2w)) is not None:
        raise DataError(
            f"frame {wrong[0]} of the camera path: its pose {wrong[1]}; create the path again in the viewer"
        )
    if (wrong := bad_lens(intrinsics)) is not None:
        raise DataError(f"frame {wrong[0]} of the camera path {wrong[1]}; create the path again in the viewer")


def scene_path(camera: Cameras, active_scene: int) -> tuple[int, Cameras, int]:
    """Find the scene and the path of a one-camera slice, and its index in the path.

    Cameras of our data sets have the number of their evaluation scene in their metadata. Their path consists only of
    neighbours from the same scene. Other cameras (of the viewer or a path file) belong to the active scene.
    """
    path, index = recover_path(camera)
    scenes = (path.metadata or {}).get("scene_idx")
    if not isinstance(scenes, Tensor):
        return active_scene, path, index
    numbers = scenes.flatten().tolist()
    first, last = index, index
    while first > 0 and numbers[first - 1] == numbers[index]:
        first -= 1
    while last + 1 < len(numbers) and numbers[last + 1] == numbers[index]:
        last += 1
    return int(numbers[index]), path[first : last + 1], index - first


def path_key(cameras: CameraBatch, scene: int, settings: str) -> str:
    """Compute a key that is equal for paths with equal cameras, scene and settings."""
    digest = hashlib.sha256(f"{scene}|{settings}|".encode())
    for values in (cameras.c2w, cameras.intrinsics):
        digest.update(values.cpu().numpy().tobytes())
    return digest.hexdigest()
